import numpy as np

from diffbir_jax.evaluation.suites.spec import FOLDER
from diffbir_jax.imaging.reading import read_image
from scripts.make_suite import CROPS, DATASET, degraded, truth


def test_the_committed_images_are_those_that_the_script_makes() -> None:
    for name in CROPS:
        for kind, make in (("gt", truth), ("lq", degraded)):
            committed = read_image(FOLDER / "tiny" / DATASET / kind / f"{name}.png")
            np.testing.assert_array_equal(committed, make(name), err_msg=f"{kind}/{name}")


def test_crops_of_a_picture_show_different_things() -> None:
    """Overlapping images would count the same pixels twice."""
    sides = {}
    for name, (picture, top, left) in CROPS.items():
        sides.setdefault(picture, []).append((name, top, left))
    for crops in sides.values():
        for i, (_, top, left) in enumerate(crops):
            assert all(abs(top - t) >= 256 or abs(left - x) >= 256 for _, t, x in crops[:i])
