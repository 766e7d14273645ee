import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.data.example import DataError, Source
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import check_copies, check_reads, png

ROOT = Path(__file__).parents[3]
COUNT = 5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A data set that another process built, and what that process said of it: this one may know TensorFlow."""
    folder = tmp_path_factory.mktemp("tfds")
    run = [sys.executable, "-m", "tests.data.sources.tiny_tfds", str(folder)]
    output = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return folder, json.loads(output.splitlines()[-1])


def open_tfds(**fields: object) -> Source:
    return make_source({"kind": "tfds", "short_key": "caption", **fields})


def test_a_data_set_is_built_and_read_without_tensorflow(built: tuple[Path, dict]) -> None:
    expected = [[f"tiny_photos/1.0.0, train, {i}", png(i).hex(), {"short": f"ä {i}"}] for i in range(COUNT)]
    assert built[1] == {"examples": expected, "tensorflow": False}


def test_a_data_set_may_be_named_or_pointed_at(built: tuple[Path, dict]) -> None:
    folder, _ = built
    by_name = open_tfds(name="tiny_photos:1.0.0", data_dir=str(folder), split="train[1:4]")
    by_folder = open_tfds(directory=str(folder / "tiny_photos" / "1.0.0"), split="train[1:4]")
    for source in (by_name, by_folder):
        check_reads(source, [png(i) for i in (1, 2, 3)], [{"short": f"ä {i}"} for i in (1, 2, 3)], str)
        check_copies(source)
    assert by_name.fingerprint == by_folder.fingerprint
    assert open_tfds(name="tiny_photos", data_dir=str(folder)).fingerprint != by_name.fingerprint


def test_of_several_captions_the_first_counts(built: tuple[Path, dict]) -> None:
    source = open_tfds(name="tiny_photos", data_dir=str(built[0]), long_key="captions")
    found = [dict(source[i].captions) for i in range(3)]
    assert found == [{"short": "ä 0"}, *({"short": f"ä {i}", "long": f"long {i}"} for i in (1, 2))]


def test_an_image_may_be_pixels(built: tuple[Path, dict]) -> None:
    source = open_tfds(name="tiny_photos", data_dir=str(built[0]), image_key="pixels")
    image = source[2].image
    assert isinstance(image, np.ndarray) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.full((4, 6, 3), 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "no_such_data"}, "no_such_data in .*: is no data set .*not found.*download_and_prepare"),
        (
            {"name": "tiny_photos", "data_dir": "elsewhere"},
            "tiny_photos in elsewhere: .*download_and_prepare",
        ),
        ({"directory": "elsewhere", "data_dir": None}, "elsewhere: .*Could not read.*download_and_prepare"),
        ({"name": "tiny_photos", "split": "test"}, "random access to test .*Unknown split"),
        ({"name": "tiny_photos", "split": "train[:0]"}, r"random access to train\[:0\]"),
        (
            {"name": "tiny_photos", "image_key": "photo"},
            "no feature photo; image_key may be caption, captions",
        ),
        ({"name": "tiny_photos", "long_key": "text"}, "no feature text; long_key may be caption, captions"),
        ({"name": "tiny_photos", "directory": "x"}, "either name or directory"),
        ({}, "either name or directory"),
    ],
)
def test_a_data_set_of_no_use_is_refused(built: tuple[Path, dict], fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_tfds(**{"data_dir": str(built[0])} | fields)
    assert "\n" not in str(error.value)
