"""Which images a plan of memory is made for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffbir_jax.batch import run
from diffbir_jax.batch.memory import fitting
from diffbir_jax.restoration.planner import PlanError
from tests.batch.fake import Fake
from tests.command import call, save


def plan_for(most: int) -> Any:
    """Plans that hold for the smallest images, at most so many."""

    def plan(number: int) -> Any:
        if number > most:
            raise PlanError("too little memory")
        return SimpleNamespace(images=number)

    return plan


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_as_many_of_the_smallest_images_as_fit_are_planned_for(count: int) -> None:
    for most in range(1, count + 2):
        found, number = fitting(plan_for(most), count)
        assert number == min(most, count) and vars(found) == {"images": number}


def test_a_run_ends_if_not_even_the_smallest_fits() -> None:
    for count in (1, 5):
        with pytest.raises(PlanError, match="too little memory"):
            fitting(plan_for(0), count)


def test_a_mask_of_other_sides_fails_before_the_networks_are_loaded(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    save(Path("in/a.png"), (64, 80))
    save(Path("in/b.png"), (80, 64))
    save(Path("mask.png"), (64, 80))
    command = ("-o", "out", "--version", "tiny", "--operator", "mask:mask.png")
    assert call("in", *command) == 1
    told = capsys.readouterr()
    assert (
        "in/b.png: mask mask.png has 80x64 pixels, the image 64x80; give a mask of the image's size"
        in told.err
    )
    assert "1 restored, 1 failed" in told.out and len(fake.seen) == 1
    monkeypatch.delattr(run, "load")
    assert call("in/b.png", *command) == 1 and not Path("out/b.png").exists()
