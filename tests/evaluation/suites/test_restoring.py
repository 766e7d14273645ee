import dataclasses
import json
from pathlib import Path

import pytest

from diffbir_jax.evaluation.suites.datasets import Images, find_datasets
from diffbir_jax.evaluation.suites.methods import Method
from diffbir_jax.evaluation.suites.restoring import RECIPE, check_recipe, recipe, restore_images
from diffbir_jax.evaluation.suites.spec import Suite
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_png
from tests.evaluation.suites.small import Painter, write_data, write_suite
from tests.micro import picture


@pytest.fixture
def work(tmp_path: Path) -> tuple[Suite, Images, Path]:
    """The suite, the dataset pair, and a folder that does not exist."""
    suite = write_suite(tmp_path / "suites")
    images = find_datasets(suite, write_data(tmp_path / "data"), ["pair"])[0]
    return suite, images, tmp_path / "out" / "painter"


def restore(work: tuple[Suite, Images, Path], method: Method) -> None:
    suite, images, folder = work
    wanted = recipe(suite, images, method)
    check_recipe(folder, wanted)
    restore_images(images, method, folder, wanted)


def test_images_have_the_names_of_their_inputs_and_a_folder_per_seed(
    work: tuple[Suite, Images, Path],
) -> None:
    painter = Painter()
    restore(work, painter.method(seeds=(5, 6)))
    for seed in (5, 6):
        for index, name in enumerate(("a", "sub/b")):
            found = read_image(work[2] / f"seed{seed}" / f"{name}.png")
            assert found.shape == (32, 32, 3) and (found == 10 * index + seed).all()


def test_only_what_is_missing_is_made(work: tuple[Suite, Images, Path]) -> None:
    """With the index that it has among all, on which its noise depends."""
    painter = Painter()
    restore(work, painter.method())
    (work[2] / "sub" / "b.png").unlink()
    painter.asked.clear()
    restore(work, painter.method())
    restore(work, painter.method())
    assert painter.asked == [(1, 0)]


def test_an_interrupted_run_goes_on(work: tuple[Suite, Images, Path]) -> None:
    painter = Painter()
    painter.breaks_at = 1
    with pytest.raises(KeyboardInterrupt):
        restore(work, painter.method(seeds=(5, 6)))
    painter.breaks_at = None
    restore(work, painter.method(seeds=(5, 6)))
    assert painter.asked == [(0, 5), (1, 5), (0, 6), (1, 6)]


def test_images_of_another_recipe_are_not_taken(work: tuple[Suite, Images, Path]) -> None:
    suite, images, folder = work
    painter = Painter()
    restore(work, painter.method())
    with pytest.raises(
        ValueError, match=r"of another recipe .of other settings.strength.: give a new --output"
    ):
        restore(work, painter.method(strength=2))
    newer = dataclasses.replace(suite, version=4)
    with pytest.raises(ValueError, match="of other suite_version"):
        restore((newer, images, folder), painter.method())
    assert len(painter.asked) == 2


def test_other_inputs_are_another_recipe(work: tuple[Suite, Images, Path]) -> None:
    suite, images, _ = work
    before = recipe(suite, images, Painter().method())
    write_png(images.lq / "a.png", picture(16, 16, seed=9))
    after = recipe(suite, images, Painter().method())
    assert before["inputs"] != after["inputs"]


def test_weights_are_known_by_their_checksums(work: tuple[Suite, Images, Path], tmp_path: Path) -> None:
    suite, images, _ = work
    file = tmp_path / "rm.safetensors"
    file.write_bytes(b"abc")
    method = dataclasses.replace(Painter().method(), files=lambda: {"rm": file})
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, of "abc"
    assert recipe(suite, images, method)["weights"] == {"rm": digest}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "holds images, but no recipe.json"),
        ("{", "recipe.json: is no recipe"),
        ("[]", "recipe.json: is no recipe"),
    ],
)
def test_images_of_unknown_origin_are_not_taken(
    work: tuple[Suite, Images, Path], content: str | None, message: str
) -> None:
    write_png(work[2] / "a.png", picture(16, 16))
    if content is not None:
        (work[2] / RECIPE).write_text(content)
    with pytest.raises(ValueError, match=message):
        restore(work, Painter().method())


def test_a_recipe_is_json(work: tuple[Suite, Images, Path]) -> None:
    wanted = recipe(work[0], work[1], Painter().method(seeds=(5, 6)))
    assert json.loads(json.dumps(wanted)) == wanted
