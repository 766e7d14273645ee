"""Which images a plan of memory is made for."""

from types import SimpleNamespace
from typing import Any

import pytest

from diffbir_jax.batch.memory import fitting
from diffbir_jax.restoration.planner import PlanError


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
