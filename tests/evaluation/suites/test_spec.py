import dataclasses
from pathlib import Path

import pytest

from diffbir_jax.evaluation.registry import select
from diffbir_jax.evaluation.suites.spec import read_suite, suite_names
from diffbir_jax.models.presets import PRESETS, with_stage2
from diffbir_jax.restoration.defaults import default_options
from tests.evaluation.suites.small import SUITE, write_suite


def test_there_is_a_suite_for_each_task_and_two_that_need_nothing() -> None:
    assert suite_names() == ["bfr", "bid", "bsr", "photos", "tiny"]
    assert [read_suite(name).task for name in suite_names()] == ["face", "denoise", "sr", "sr", "sr"]
    assert [name for name in suite_names() if read_suite(name).shipped] == ["photos", "tiny"]


@pytest.mark.parametrize("name", ["bfr", "bid", "bsr", "photos", "tiny"])
def test_suites_sample_all_versions_as_their_makers_chose(name: str) -> None:
    """A default is resolved to a value, so that a result says which it was."""
    suite = read_suite(name)
    assert suite.versions.keys() == {name for name in with_stage2() if PRESETS[name].one_step is None}
    for version, point in suite.versions.items():
        assert default_options(version) in point.options(version)
        assert len(point.options(version)) >= 2


@pytest.mark.parametrize("name", ["bfr", "bid", "bsr", "photos", "tiny"])
def test_the_metrics_of_suites_exist(name: str) -> None:
    assert select(read_suite(name).metrics)


def test_photos_compares_the_methods_of_tiny_in_the_same_way() -> None:
    photos, tiny = read_suite("photos"), read_suite("tiny")
    for field in ("methods", "metrics", "seeds", "versions", "task", "upscale", "crop", "colour", "bicubic"):
        assert getattr(photos, field) == getattr(tiny, field), field


def test_values_of_the_file_take_the_place_of_defaults(tmp_path: Path) -> None:
    off, default = write_suite(tmp_path).versions["tiny"].options("tiny")
    assert default == dataclasses.replace(default_options("tiny"), steps=4)
    assert off == dataclasses.replace(default, guidance_scale=0.0)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("version = 3", "version = 3.5", "version is 3.5, wanted is a whole number"),
        ("version = 3", "", "no entry version"),
        ("version = 3", "version = 3\nsides = 1", "unknown entry 'sides', allowed are name, version"),
        ('task = "sr"', 'task = "srr"', "task is 'srr', wanted is 'sr' or 'face' or 'denoise'"),
        ('"rm", ', '"rms", ', r"methods\[1\] is 'rms', wanted is 'bicubic' or"),
        ("images = 2", 'images = "2"', r"datasets\[0\].images is '2', wanted is a whole number"),
        ("truths = true", "truths = 1", r"datasets\[0\].truths is 1, wanted is true or false"),
        (
            'published = "a drawer"',
            'published = "a drawer"\nreference = "FFHQ"',
            "pair: no entry of references is named 'FFHQ'",
        ),
        ("upscale = 2", "upscale = 0", "upscale is 0; allowed are whole numbers of at least 1"),
        ("crop = 2", "crop = -1", "crop is -1; allowed are whole numbers of at least 0"),
        ("seeds = [5, 6]", "seeds = []", "datasets, methods, metrics and seeds need an entry each"),
        ("seeds = [5, 6]", "seeds = [-1]", "seed is -1; allowed are 0 to"),
        ("versions.tiny", "versions.v9", "versions: 'v9' given, allowed are tiny, one-step, v1, v2, v2.1"),
        ("steps = 4", "steps = 4000", "steps is 4000; allowed with start 0.4 are 1 to 400"),
        ("steps = 4", 'steps = "few"', "versions.tiny.steps is 'few', wanted is a whole number or 'default'"),
        ("[0.0, ", "[-1.0, ", "guidance_scale is -1.0; allowed are finite numbers"),
        ('title = "', "title = ", r"\(at line 2"),
    ],
)
def test_a_wrong_file_is_told_of_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SUITE
    with pytest.raises(ValueError, match=message) as error:
        write_suite(tmp_path, SUITE.replace(old, new))
    assert str(error.value).startswith(f"{tmp_path / 'small.toml'}: ") and "\n" not in str(error.value)


def test_unknown_suites_are_refused() -> None:
    with pytest.raises(ValueError, match="suite 'huge' given, allowed are bfr, bid, bsr, photos, tiny"):
        read_suite("huge")
