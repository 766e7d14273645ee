import dataclasses
from pathlib import Path

import pytest

from diffbir_jax.evaluation.suites.datasets import find_datasets
from diffbir_jax.evaluation.suites.spec import Suite, read_suite
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.writing import write_png
from tests.evaluation.suites.small import write_data, write_suite
from tests.micro import picture


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path / "suites")


def test_images_are_found_in_their_folders(tmp_path: Path, suite: Suite) -> None:
    pair, alone = find_datasets(suite, write_data(tmp_path))
    assert [case.name for case in pair.cases] == ["a", "sub/b"]
    assert pair.gt == tmp_path / "pair" / "gt" and alone.gt is None
    assert [images.dataset.name for images in find_datasets(suite, tmp_path, ["alone"])] == ["alone"]


def test_all_folders_that_are_missing_are_told_of_at_once(tmp_path: Path, suite: Suite) -> None:
    with pytest.raises(ValueError) as error:
        find_datasets(suite, tmp_path)
    here = str(tmp_path)
    assert str(error.value) == (
        "suite small lacks images, make these folders (of so many images), or choose others by --datasets: "
        f"{here}/pair/lq and {here}/pair/gt: pair (2), from a drawer; "
        f"{here}/alone/lq: alone (1), from another drawer"
    )
    with pytest.raises(ValueError, match="give --data DIR with these folders .* DIR/pair/lq and DIR/pair/gt"):
        find_datasets(suite, None)


def test_unknown_datasets_are_refused(tmp_path: Path, suite: Suite) -> None:
    with pytest.raises(ValueError, match="'trio' given, allowed with --suite small are pair, alone"):
        find_datasets(suite, tmp_path, ["alone", "trio"])


def test_inputs_need_their_ground_truths(tmp_path: Path, suite: Suite) -> None:
    (write_data(tmp_path) / "pair" / "gt" / "a.png").unlink()
    with pytest.raises(ImageFileError, match="1 image has no ground truth in .*gt .a."):
        find_datasets(suite, tmp_path, ["pair"])


def test_a_part_of_a_dataset_is_not_called_the_dataset(tmp_path: Path, suite: Suite) -> None:
    write_png(write_data(tmp_path) / "alone" / "lq" / "d.png", picture(16, 16))
    with pytest.warns(UserWarning, match="holds 2 images, alone has 1: scores are not comparable"):
        find_datasets(suite, tmp_path, ["alone"])


@pytest.mark.parametrize(("name", "count"), [("tiny", 8), ("photos", 40)])
def test_two_suites_ship_their_images(name: str, count: int) -> None:
    suite = read_suite(name)
    (images,) = find_datasets(suite, None)
    assert len(images.cases) == images.dataset.images == count
    assert len(suite.sha256) == 2 * count
    with pytest.raises(ValueError, match=f"suite {name} ships its images: leave it out"):
        find_datasets(suite, Path("here"))


@pytest.mark.parametrize("name, problem", [("pictures/lq/chelsea.png", "is not"), ("x.png", "is missing")])
def test_shipped_images_are_known_by_their_checksums(name: str, problem: str) -> None:
    changed = dataclasses.replace(read_suite("tiny"), sha256={name: "0" * 64})
    with pytest.raises(ValueError, match=f"{name} {problem}.*install diffbir_jax anew"):
        find_datasets(changed, None)
