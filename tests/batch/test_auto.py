"""--auto: each photo gets settings of its own, which are printed and kept in the sidecar."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import auto
from diffbir_jax.restoration.auto import Choice
from diffbir_jax.restoration.estimate import Estimate
from tests.batch.fake import Fake
from tests.command import call, complaint, save

CLEAN = Estimate(0.1, 0.2, 100.0, 1.0, (0.1, 0.1, 0.1, 0.1))
NOISY = Estimate(0.1, 20.0, 100.0, 1.0, (0.1, 0.1, 0.1, 0.1))


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
