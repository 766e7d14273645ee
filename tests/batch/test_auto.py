"""--auto: each photo gets settings of its own, which are printed and kept in the sidecar."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.files.digest import sha256
from diffbir_jax.restoration import auto
from diffbir_jax.restoration.auto import Choice
from diffbir_jax.restoration.estimate import Estimate
from tests.batch.fake import Fake
from tests.command import call, complaint, save

CLEAN = Estimate(0.1, 0.2, 100.0, 1.0, (0.1, 0.1, 0.1, 0.1))
NOISY = Estimate(0.1, 20.0, 100.0, 1.0, (0.1, 0.1, 0.1, 0.1))
SAME = ("--format", "same")


@pytest.fixture
def two(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A clean and a noisy photo in in/, which a table of the test tells apart."""
    for seed, name in enumerate(("clean", "noisy")):
        save(Path(f"in/{name}.png"), (64, 64), seed)
    clean = np.asarray(Image.open("in/clean.png"))
    monkeypatch.setattr(auto, "estimate", lambda image: CLEAN if np.array_equal(image, clean) else NOISY)
    noisy = Choice(options={"detail": 0.25, "texture": 0.5}, why="noise")
    monkeypatch.setattr(
        auto, "choose", lambda found, _: Choice(alone=True, why="clean") if found is CLEAN else noisy
    )
    return fake


def restored(*flags: str) -> int | str | None:
    return call("in", "-o", "out", "--upscale", "1", "--auto", *flags)


def test_what_is_chosen_is_printed_used_and_kept(two: Fake, capsys: pytest.CaptureFixture):
    assert restored() == 0
    lines = capsys.readouterr().out
    assert "in/clean.png  blur 0.1, noise 0.2, no JPEG, scale 1.0: left alone (clean)" in lines
    assert "in/noisy.png  blur 0.1, noise 20.0, no JPEG, scale 1.0: detail 0.25, texture 0.5 (noise)" in lines
    assert "2 restored, 0 failed" in lines
    record = json.loads(Path("out/noisy.json").read_text())
    assert record["auto"]["estimate"]["noise"] == 20.0
    assert record["auto"]["options"] == {"detail": 0.25, "texture": 0.5}
    assert record["parameters"]["options"]["detail"] == 0.25
    assert {(options.detail, options.texture) for _, _, options in two.seen} == {(None, 1.0), (0.25, 0.5)}
    assert json.loads(Path("out/clean.json").read_text())["weights"] == {}


def test_flags_that_are_given_win(two: Fake, capsys: pytest.CaptureFixture):
    assert restored("--texture", "0.9") == 0
    assert "left alone" not in capsys.readouterr().out
    assert {(options.detail, options.texture) for _, _, options in two.seen} == {(None, 0.9), (0.25, 0.9)}


def test_without_auto_nothing_is_estimated(two: Fake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(auto, "estimate")
    assert call("in", "-o", "out", "--upscale", "1") == 0
    assert {options.detail for _, _, options in two.seen} == {None}
    assert "auto" not in json.loads(Path("out/noisy.json").read_text())


def test_a_repetition_needs_no_estimate(two: Fake, monkeypatch: pytest.MonkeyPatch):
    assert restored() == 0
    first = two.seen[-1][2]
    monkeypatch.delattr(auto, "estimate")
    assert call("--from-sidecar", "out/noisy.json", "-o", "again") == 0
    assert two.seen[-1][2] in (first, two.seen[0][2])
    assert Path("again/noisy.png").read_bytes() == Path("out/noisy.png").read_bytes()


def test_a_photo_too_small_for_an_estimate_is_restored_by_default(fake: Fake, capsys: pytest.CaptureFixture):
    save(Path("in/a.png"), (40, 80))
    assert restored() == 0
    told = capsys.readouterr()
    assert "in/a.png: no estimate, so it gets the usual settings: the image is 80x40" in told.err
    assert "1 restored" in told.out
    assert json.loads(Path("out/a.json").read_text())["auto"] == {"estimate": None, "why": "no estimate"}


def test_a_damaged_photo_fails_alone(two: Fake, capsys: pytest.CaptureFixture):
    Path("in/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert restored() == 1
    assert "2 restored, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", [("--version", "tiny"), ("--stage1", "none"), ("--stage1-only",), ("--n-samples", "2")]
)
def test_flags_that_leave_nothing_to_choose(
    fake: Fake, flags: tuple[str, ...], capsys: pytest.CaptureFixture
):
    save(Path("in/a.png"), (64, 64))
    assert restored(*flags) == 2
    assert "--auto" in complaint(capsys)


def test_a_photo_left_alone_keeps_its_pixels(here: Path, monkeypatch: pytest.MonkeyPatch):
    save(Path("in/a.png"), (64, 80))
    monkeypatch.setattr(auto, "estimate", lambda image: CLEAN)
    assert restored() == 0
    np.testing.assert_array_equal(np.asarray(Image.open("out/a.png")), np.asarray(Image.open("in/a.png")))
    assert call("--from-sidecar", "out/a.json", "-o", "again") == 0
    assert Path("again/a.png").read_bytes() == Path("out/a.png").read_bytes()


@pytest.fixture
def clean(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every photo is clean; the networks are those of a photo left alone, which are none."""
    monkeypatch.setattr(auto, "estimate", lambda image: CLEAN)


FORMS = {"png": "a.png", "jpeg": "a.jpg", "webp": "a.webp", "tiff": "a.tif"}


@pytest.mark.parametrize(("form", "flags"), [(form, ("--format", form)) for form in FORMS] + [("jpeg", SAME)])
def test_a_photo_left_alone_in_its_own_format_is_copied(
    clean: None, form: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture
):
    """Byte for byte, with its thumbnail and whatever else its file has; and again from the sidecar."""
    photo = save(Path("in") / FORMS[form], (64, 80))
    photo.write_bytes(photo.read_bytes() + (b"\xff\xd9 trailer" if form == "jpeg" else b""))
    assert restored(*flags) == 0
    assert "left alone (clean); its file is copied" in capsys.readouterr().out
    assert Path("out", photo.name).read_bytes() == photo.read_bytes()
    sidecar = Path("out", f"{photo.name if flags == SAME else 'a'}.json")
    record = json.loads(sidecar.read_text())
    assert record["auto"]["copied"] and record["parameters"]["copied"]
    assert call("--from-sidecar", sidecar, "-o", "again") == 0
    assert sha256(Path("again", photo.name)) == record["input"]["sha256"]
    assert not [*Path("out").glob(".*")]


def test_a_run_that_goes_on_leaves_copies_as_they_are(clean: None, capsys: pytest.CaptureFixture):
    save(Path("in/a.jpg"), (64, 80))
    assert restored(*SAME) == restored(*SAME, "--skip-existing") == 0
    assert "0 restored, 0 failed, 1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("a.jpg", ()),
        ("a.jpg", ("--format", "jpeg", "--quality", "95")),
        ("a.webp", (*SAME, "--quality", "95")),
        ("a.png", ("--bit-depth", "16")),
        ("a.tif", (*SAME, "--bit-depth", "8")),
        ("a.bmp", SAME),
    ],
)
def test_a_copy_that_lacks_what_was_asked_is_none(clean: None, name: str, flags: tuple[str, ...]):
    """The photo is still left alone, and written anew."""
    save(Path("in") / name, (64, 80))
    assert restored(*flags) == 0
    (sidecar,) = Path("out").glob("*.json")
    record = json.loads(sidecar.read_text())
    assert record["auto"]["alone"] and not record["auto"]["copied"] and not record["parameters"]["copied"]
    (result,) = [path for path in Path("out").iterdir() if path != sidecar]
    assert result.read_bytes() != (Path("in") / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "flags"), [("a.jpg", (*SAME, "--bit-depth", "8")), ("a.png", ("--quality", "80"))]
)
def test_flags_that_a_copy_fulfils(clean: None, name: str, flags: tuple[str, ...]):
    photo = save(Path("in") / name, (64, 80))
    assert restored(*flags) == 0
    assert Path("out", name).read_bytes() == photo.read_bytes()


def test_the_content_decides_the_format_and_one_image_is_asked_for(clean: None):
    """A PNG named .jpg becomes a JPEG, and an animation its first image."""
    save(Path("in/a.jpg"), (64, 80), format="PNG")
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (10, 90)]
    frames[0].save("in/b.png", save_all=True, append_images=frames[1:])
    assert restored(*SAME) == 0
    assert Path("out/a.jpg").read_bytes().startswith(b"\xff\xd8")
    with Image.open("out/b.png") as found:
        assert getattr(found, "n_frames", 1) == 1


def test_a_photo_with_alpha_and_metadata_is_copied_and_the_other_files_are_written(clean: None):
    """With its transparency and EXIF, turned or not; --compare and --save-stages go with it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Path("in").mkdir()
    Image.new("RGBA", (64, 80), (200, 10, 90, 120)).save("in/a.png", exif=exif)
    assert restored("--compare", "--save-stages") == 0
    assert Path("out/a.png").read_bytes() == Path("in/a.png").read_bytes()
    assert Image.open("out/a_compare.png").size == (3 * 80, 64)
    assert Image.open("out/a_stage1.png").size == (80, 64)


@pytest.mark.parametrize("changes", [{"upscale": 2.0}, {"stage1_only": False}])
def test_a_sidecar_that_copies_a_changed_photo_is_refused(
    clean: None, changes: dict[str, object], capsys: pytest.CaptureFixture
):
    save(Path("in/a.png"), (64, 64))
    assert restored() == 0
    capsys.readouterr()
    record = json.loads(Path("out/a.json").read_text())
    record["parameters"] |= changes
    Path("other.json").write_text(json.dumps(record))
    assert call("--from-sidecar", "other.json", "-o", "again") == 1
    assert "copied is true, but the photo is changed" in complaint(capsys)
