"""Restoring in one call: every kind of picture comes back as it was given. All results have one size."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diffbir_jax
from diffbir_jax import Options, Restorer, restore
from diffbir_jax.console.errors import UserError, as_flags
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.metadata import srgb_profile
from diffbir_jax.restoration import restore as module
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.pictures import take
from diffbir_jax.restoration.results import Progress, Wanted
from tests.command import save
from tests.micro import FEW, MICRO, micro, picture

NOTEBOOK = Path(__file__).parents[2] / "examples" / "restore.ipynb"
SMALL = picture(32, 48)
ALPHA = np.zeros((32, 48), np.uint8)
ALPHA[:, 24:] = 255


def unplanned(restorer: Restorer, programs: Any, sizes: Any, wanted: Wanted, memory: int | None) -> Any:
    """In place of plans by memory, for which many programs are compiled: tests/restoration/test_planner.py."""
    assert len(sizes) and (memory is None or memory == 2**29)
    return SimpleNamespace(plan=default_plan(MICRO, wanted.options))


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small network in place of any version: what comes back depends on the picture alone."""
    monkeypatch.setattr(module, "loaded", lambda *args: micro())
    for version in ("one-step", "micro"):
        monkeypatch.setitem(DEFAULTS, version, FEW)
    monkeypatch.setattr(module, "make_plan", unplanned)


def pillow(mode: str) -> Image.Image:
    rgba = Image.fromarray(np.dstack([SMALL, ALPHA]))
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(Image.fromarray(SMALL).convert("L"))
        deep = {"I;16": grey.astype(np.uint16) * 257, "I": grey.astype(np.int32), "F": grey / np.float32(255)}
        return Image.fromarray(deep[mode])
    if mode == "PA":
        return rgba.convert("P").convert("PA")
    return (rgba if "A" in mode else rgba.convert("RGB")).convert(mode)


@pytest.mark.parametrize(
    "mode, back",
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("PA", "RGBA"), ("RGB", "RGB"), ("RGBA", "RGBA")]
    + [
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("LAB", "RGB"),
        ("HSV", "RGB"),
        ("I;16", "I;16"),
        ("I", "I"),
        ("F", "F"),
    ],
)
def test_pillow_images_of_all_modes(mode: str, back: str) -> None:
    found = restore(pillow(mode), upscale=1)
    assert found.mode == back and found.size == (48, 32)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_come_back_with_their_layout_and_dtype(channels: int | None, dtype: type) -> None:
    levels = {np.uint8: SMALL, np.uint16: SMALL.astype(np.uint16) * 257}.get(dtype, SMALL / 255)
    parts = {
        1: [levels[..., :1]],
        2: [levels[..., :1], levels[..., 1:2]],
        3: [levels],
        4: [levels, levels[..., :1]],
    }
    image = levels[..., 0] if channels is None else np.concatenate(parts[channels], axis=2).astype(dtype)
    found = restore(image.astype(dtype), upscale=1)
    assert found.shape == image.shape and found.dtype == dtype
    assert (found != image).any() and found.max() <= (
        1 if dtype in (np.float32, np.float64) else np.iinfo(dtype).max
    )


def test_the_result_is_that_of_the_restorer() -> None:
    (expected,) = micro().restore([SMALL], 1.0, FEW)
    np.testing.assert_array_equal(restore(SMALL, upscale=1), expected.image)
    np.testing.assert_array_equal(np.asarray(restore(Image.fromarray(SMALL), upscale=1)), expected.image)
    np.testing.assert_array_equal(micro().restore(Image.fromarray(SMALL), 1.0, FEW).image, expected.image)


def test_transparency_is_resized_and_hidden_colours_do_not_show() -> None:
    hidden = np.dstack([SMALL, ALPHA])[::2, ::2]
    hidden[:, :12, :3] = 0
    found = restore(hidden, upscale=2, memory_gb=0.5)
    assert found.shape == (32, 48, 4)
    np.testing.assert_array_equal(found[..., 3][:, ::47], [[0, 255]] * 32)


def test_several_pictures_of_different_kinds_come_back_in_order(tmp_path: Path) -> None:
    Image.fromarray(SMALL).save(tmp_path / "a.png")
    found = restore([tmp_path / "a.png", SMALL[..., 0], Image.fromarray(SMALL)], upscale=1)
    assert [type(each) for each in found] == [Image.Image, np.ndarray, Image.Image]
    assert found[0].size == (48, 32) and found[1].shape == (32, 48) and found[2].size == (48, 32)
    assert restore([]) == []


def test_a_file_comes_back_upright_with_profile_and_density(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    path = tmp_path / "a.jpg"
    Image.fromarray(SMALL.swapaxes(0, 1)).save(path, exif=exif, dpi=(300, 300))
    found = restore(str(path), upscale=1)
    assert found.size == (48, 32)
    file = io.BytesIO()
    found.save(file, "JPEG", exif=found.info["exif"])
    again = Image.open(file)
    assert again.getexif()[0x010F] == "maker" and again.getexif().get(0x0112, 1) == 1


def test_pillows_image_keeps_density_and_profile() -> None:
    image = Image.fromarray(SMALL)
    known = {"dpi": (300, 300), "icc_profile": srgb_profile()}
    image.info.update(known, other=1)
    assert restore(image, upscale=1).info == known


def test_pillows_image_comes_back_upright() -> None:
    """As a file does, with the rest of its EXIF."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.fromarray(SMALL.swapaxes(0, 1)[::-1]).save(file, "PNG", exif=exif)
    found = restore(Image.open(file), upscale=1)
    np.testing.assert_array_equal(np.asarray(found), restore(SMALL, upscale=1))
    assert found.getexif()[0x010F] == "maker" and found.getexif()[0x0112] == 1


def test_progress_is_told_for_each_stage() -> None:
    told: list[Progress] = []
    restore(SMALL, upscale=1, callback=told.append)
    stages = list(dict.fromkeys(each.stage for each in told))
    assert stages == ["rm", "encode", "sample", "decode"]
    for stage in stages:
        steps = [each for each in told if each.stage == stage]
        assert steps[0].done == 0 and steps[-1].done == steps[-1].total
        assert [each.done for each in steps] == sorted(each.done for each in steps)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"stepz": 3}, "there is no option 'stepz'; did you mean 'steps'"),
        ({"zzz": 3}, "there is no option 'zzz'; there are version, "),
        ({"upsacle": 3}, "there is no option 'upsacle'; did you mean 'upscale'"),
        ({"precision": "half"}, "`precision` is 'half'; use one of"),
        ({"version": "v9"}, "version 'v9' given, allowed are"),
        ({"steps": 0}, "steps is 0"),
        ({"texture": "1"}, "texture is '1'; allowed are shares from 0 to 1"),
        ({"texture": None}, "texture is None; allowed are shares from 0 to 1"),
        ({"steps": 1.5}, "steps is 1.5; allowed are whole numbers"),
        ({"pos_prompt": 3}, "pos_prompt is 3; allowed are texts"),
        ({"rescale_cfg": "no"}, "rescale_cfg is 'no'; allowed are True and False"),
        ({"eta": "all"}, "eta is 'all'; allowed are numbers and None"),
        ({"upscale": 0}, "`upscale` is 0; give a finite number above 0"),
        ({"upscale": "2"}, "`upscale` is '2'"),
        ({"upscale": float("nan")}, "`upscale` is nan"),
        ({"memory_gb": -1}, "`memory_gb` is -1"),
        ({"upscale": 1e5}, "becomes 4800000x3200000; allowed are sides from 1 to"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        restore(SMALL, **given)


@pytest.mark.parametrize(
    "bad, message",
    [
        (SMALL.astype(np.int64), "int64 of shape"),
        (SMALL[None], r"uint8 of shape \(1, 32, 48, 3\)"),
        (3, "the picture is a int; give Pillow's image"),
        (None, "the picture is a NoneType; give Pillow's image"),
        (np.zeros((0, 5, 3), np.uint8), "a picture of 5x0"),
    ],
)
def test_what_is_no_picture_is_refused(bad: object, message: str) -> None:
    for given in (bad, [bad]):
        with pytest.raises(UserError, match=message):
            restore(given)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="no such file"):
        restore(tmp_path / "none.png")


def test_floats_are_a_range() -> None:
    with pytest.raises(UserError, match="floats are in"):
        restore(SMALL.astype(np.float32), upscale=1)


def test_numbers_without_a_clear_range_are_refused() -> None:
    with pytest.raises(ImageFileError, match="holds numbers from"):
        take(Image.fromarray(SMALL[..., 0].astype(np.float32)))


def test_what_is_shown_is_short() -> None:
    restored = micro().restore(SMALL, 1.0, FEW)
    assert repr(restored) == "Restored(48x32, uint8)"
    assert repr(micro()).startswith("Restorer(micro, ") and len(repr(micro())) < 60
    assert Image.open(io.BytesIO(restored._repr_png_())).size == (48, 32)


def test_messages_name_arguments_and_commands_flags() -> None:
    assert as_flags("give `memory_gb` 2 or a lower `upscale`") == "give --memory-gb 2 or a lower --upscale"


def test_the_package_offers_four_names() -> None:
    names = ["Options", "Restorer", "UserError", "restore"]
    assert diffbir_jax.__all__ == names and {*names} <= {*dir(diffbir_jax)}
    assert Options().steps and Restorer.load and issubclass(diffbir_jax.UserError, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        diffbir_jax.nothing  # noqa: B018


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell; its last line is what a notebook shows as a picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Restorer, "load", classmethod(lambda cls: micro()))
    save(Path("photo.png"), (16, 24))
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert names["restored"].size == (48, 32) and names["softer"].shape == (32, 48, 3)
    assert names["both"]._repr_png_().startswith(b"\x89PNG") and np.any(names["both"].stage1)
