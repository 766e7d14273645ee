import numpy as np

from diffbir_jax.evaluation.suites.spec import FOLDER
from diffbir_jax.imaging.reading import read_image
from scripts.make_photo_suite import CROPS, DATASET, SIDE, degraded
from scripts.select_photos import HELD_OUT_LANDS

IMAGES = FOLDER / "photos" / DATASET


def test_there_is_a_crop_of_each_held_out_photo() -> None:
    assert set(CROPS) == HELD_OUT_LANDS
    for kind in ("gt", "lq"):
        assert {path.name for path in (IMAGES / kind).iterdir()} == {f"{name}.png" for name in CROPS}


def test_the_committed_inputs_are_those_that_the_script_makes() -> None:
    for name in CROPS:
        truth = read_image(IMAGES / "gt" / f"{name}.png")
        assert truth.shape == (SIDE, SIDE, 3)
        committed = read_image(IMAGES / "lq" / f"{name}.png")
        np.testing.assert_array_equal(committed, degraded(name, truth), err_msg=name)


def test_every_photo_is_credited() -> None:
    readme = (FOLDER / "photos" / "README.md").read_text()
    for name in CROPS:
        assert f"| `{name}.png` | `{name}@2x.jpg` |" in readme
