from pathlib import Path

import pytest

from diffbir_jax.evaluation.cache import Cache, Outcome
from diffbir_jax.files.errors import ImageFileError

OUTCOMES = {"a": Outcome(0.1 + 0.2), "b": Outcome(None, "too small: ≥ 161"), "c": Outcome(-1e-300)}


def filled(path: Path) -> bytes:
    with Cache(path) as cache:
        for key, outcome in OUTCOMES.items():
            cache.put(key, outcome)
    return path.read_bytes()


def known(path: Path) -> dict[str, Outcome]:
    with Cache(path) as cache:
        return {key: cache[key] for key in [*OUTCOMES, "d"] if key in cache}


def test_outcomes_come_back_exactly(tmp_path: Path):
    filled(tmp_path / "cache")
    assert known(tmp_path / "cache") == OUTCOMES


def test_it_goes_on_after_a_kill_at_any_byte(tmp_path: Path):
    path = tmp_path / "cache"
    content = filled(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        # A line that lacks nothing but its end is whole.
        lines = (content[:length] + b"\n").splitlines(keepends=True)
        whole = sum(line in content.splitlines(keepends=True) for line in lines if line.strip())
        assert known(path) == dict(list(OUTCOMES.items())[:whole])
        with Cache(path) as cache:
            cache.put("d", Outcome(1.0))
        assert known(path) == dict(list(OUTCOMES.items())[:whole]) | {"d": Outcome(1.0)}


def test_lines_that_are_no_outcomes_are_passed_over(tmp_path: Path):
    path = tmp_path / "cache"
    path.write_bytes(b'[1]\n3\nnull\n{"key": "x"}\n\xff\xfe\n' + filled(path))
    assert known(path) == OUTCOMES


def test_an_outcome_is_in_the_file_at_once(tmp_path: Path):
    with Cache(tmp_path / "cache") as cache:
        cache.put("a", OUTCOMES["a"])
        assert known(tmp_path / "cache") == {"a": OUTCOMES["a"]}


def test_a_place_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(ImageFileError, match="cannot be kept .*; choose another --output"):
        Cache(tmp_path)
