"""--captions auto: a captioner's words for each photo, in front of the restoration."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import captioning, settings
from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.settings import FlagError, settings_from
from diffbir_jax.console import extras
from diffbir_jax.console.errors import UserError
from diffbir_jax.restoration.captioner import Captioner
from diffbir_jax.restoration.first_use import Allow, ask, permit
from tests.batch.fake import Fake
from tests.command import call, complaint, save
from tests.restoration import tiny_captioner

AUTO = ("--captions", "auto", "--captioner", "some/model")


class FakeCaptioner:
    """Says how large a photo is.

    Attributes:
        seen: the photos.
        loaded: what it was loaded with.
    """

    def __init__(self) -> None:
        self.seen: list[Image.Image] = []
        self.loaded: list[tuple[str, str, Allow]] = []

    def load(self, name: str, prompt: str, allow: Allow) -> Callable[[Image.Image], str]:
        self.loaded.append((name, prompt, allow))
        return self

    def __call__(self, image: Image.Image) -> str:
        self.seen.append(image)
        return "" if image.width == 20 else f"a photo\n of {image.width} pixels"


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    made = FakeCaptioner()
    monkeypatch.setattr(captioning, "load_captioner", made.load)
    monkeypatch.setattr(settings, "check_captions", lambda *_: None)  # the shipped versions read no text
    return made


def captions(fake: Fake) -> list[str]:
    return sorted(request.caption for request, *_ in fake.seen)


def test_each_photo_is_described_once_and_repeated_without_the_captioner(
    fake: Fake, captioner: FakeCaptioner, capsys: pytest.CaptureFixture
) -> None:
    save(Path("in/a.png"))
    save(Path("in/b.png"), (16, 18))
    assert call("in", "-o", "out", *AUTO, "--n-samples", "2") == 0
    assert captioner.loaded == [("some/model", "", ask)] and len(captioner.seen) == 2
    assert captions(fake) == ["a photo of 16 pixels", "a photo of 18 pixels"]
    assert json.loads(Path("out/a.json").read_text())["caption"] == "a photo of 16 pixels"
    assert "in/b.png: a photo of 18 pixels\n" in capsys.readouterr().out
    assert call("--from-sidecar", "out/b.json", "-o", "again") == 0
    assert captions(fake)[-1] == "a photo of 18 pixels" and len(captioner.loaded) == 1
    capsys.readouterr()
    assert call("--from-sidecar", "out/b.json", "-o", "again", *AUTO) == 2
    assert "--from-sidecar decides --captioner, --captions" in complaint(capsys)


def test_only_what_is_restored_is_described(fake: Fake, captioner: FakeCaptioner) -> None:
    save(Path("in/a.png"))
    assert call("in", "-o", "out", *AUTO, "--plan") == 0 and not captioner.loaded
    assert call("in", "-o", "out", *AUTO) == 0
    save(Path("in/b.png"), (16, 18))
    assert call("in", "-o", "out", *AUTO, "--skip-existing", "--captioner-prompt", "tags", "--yes") == 0
    assert [image.width for image in captioner.seen] == [16, 18]
    assert captioner.loaded[1] == ("some/model", "tags", permit)
    assert call("in", "-o", "out", *AUTO, "--skip-existing") == 0
    assert len(captioner.loaded) == 2


def test_a_photo_without_words_is_told_and_a_damaged_one_fails_alone(
    fake: Fake, captioner: FakeCaptioner, capsys: pytest.CaptureFixture
) -> None:
    save(Path("in/a.png"))
    save(Path("in/b.png"), (16, 20))
    Path("in/c.png").write_bytes(Path("in/a.png").read_bytes()[:60])
    assert call("in", "-o", "out", *AUTO) == 1
    assert captions(fake) == ["", "a photo of 16 pixels"]
    said = capsys.readouterr().err
    assert "warning: --captions auto: no caption for in/b.png; restored with --pos-prompt alone" in said
    assert said.count("in/c.png") == 1


def test_the_captioner_sees_the_photo_as_people_do(fake: Fake, captioner: FakeCaptioner) -> None:
    """Upright and on white, whatever the file holds; its metadata stay behind."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "my address", 6
    save(Path("in/turned.jpg"), (16, 24), exif=exif)
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save("in/deep.png")
    Image.fromarray(np.zeros((16, 16, 4), np.uint8)).save("in/clear.png")
    assert call("in", "-o", "out", *AUTO) == 0
    assert {(image.mode, str(image.info), len(image.getexif())) for image in captioner.seen} == {
        ("RGB", "{}", 0)
    }
    clear, deep, turned = captioner.seen
    assert np.asarray(clear).min() == np.asarray(deep).min() == 255
    assert turned.size == (16, 24)
    assert "address" not in Path("out/turned.json").read_text()


def test_a_captioner_that_fails_ends_the_run_in_one_line(
    fake: Fake, captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise UserError("the captioner some/model fails (ValueError: x)")

    monkeypatch.setattr(captioning, "load_captioner", fail)
    save(Path("in/a.png"))
    assert call("in", "-o", "out", *AUTO) == 1
    assert complaint(capsys) == "diffbir restore: the captioner some/model fails (ValueError: x)\n"
    assert not fake.seen and not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--captions", "auto", "--version", "v2"), "give its folder or name as --captioner"),
        (("--captioner", "x", "--version", "v2"), "--captioner belongs to --captions auto"),
        (
            ("--captioner-prompt", "x", "--captions", "sidecars", "--version", "v2"),
            "--captioner-prompt belongs",
        ),
        ((*AUTO, "--version", "tiny"), "--version tiny reads no text here; leave --captions out"),
        ((*AUTO, "--version", "v2", "--task", "faces"), "--task faces"),
    ],
)
def test_flags_that_do_not_fit_are_named(here: Path, flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(FlagError, match=said):
        settings_from(parse(["in", "-o", "out", *flags]))


def test_without_the_extra_it_is_one_line(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(settings, "check_captions", lambda *_: None)
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "transformers")
    save(Path("in/a.png"))
    assert call("in", "-o", "out", *AUTO) == 1
    assert complaint(capsys) == "diffbir restore: transformers missing: pip install 'diffbir-jax[captions]'\n"


def test_a_run_with_a_model_and_its_repetition_alone(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setattr(settings, "check_captions", lambda *_: None)  # the shipped versions read no text
    folder, file = tiny_captioner.make(tmp_path / "model", "blip"), save(Path("in/a.png"), (40, 48))
    tried = tiny_captioner.no_network(monkeypatch)
    monkeypatch.delenv("DIFFBIR_OFFLINE", raising=False)
    assert call("in", "-o", "out", "--captions", "auto", "--captioner", folder) == 0
    words = Captioner.load(folder)(Image.open(file))
    assert words and json.loads(Path("out/a.json").read_text())["caption"] == words
    shutil.rmtree(folder)
    assert call("--from-sidecar", "out/a.json", "-o", "again") == 0
    assert [request.caption for request, *_ in fake.seen] == [words, words]
    capsys.readouterr()
    assert call("in", "-o", "out", "--captions", "auto", "--captioner", "some/other") == 1
    assert complaint(capsys) == (
        "diffbir restore: the weights are not here. Captioner some/other: from huggingface.co, kept in transformers' "
        "cache. Give --yes to download them\n"
    )
    assert not tried
