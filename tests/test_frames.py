"""How an image is cut by a plan, and which plans it cannot be cut by."""

import dataclasses

import pytest

from diffbir_jax.frames import measure
from diffbir_jax.plan import Plan, StagePlan
from tests.micro import MICRO, micro

PLAN = Plan(*[StagePlan(64, 32, 4)] * 4)


def test_sides_of_a_long_image() -> None:
    """Narrower than a tile along one axis: cut along the other alone."""
    sides, shape = measure((300, 20), (300, 20), MICRO, PLAN)
    assert sides.work == (360, 24) and sides.padded == (360, 24)
    assert shape.sample == shape.encode == shape.decode == (64, 24)
    assert shape.canvas == (384, 24)


@pytest.mark.parametrize(
    "stage, wrong", [("sample", (60, 20)), ("encode", (64, 64)), ("decode", (64, 30)), ("rm", (6, 2))]
)
def test_plans_that_cannot_be_cut(stage: str, wrong: tuple[int, int]) -> None:
    """Before anything is computed."""
    plan = dataclasses.replace(PLAN, **{stage: StagePlan(*wrong)})
    with pytest.raises(
        ValueError, match=rf"the plan has tiles of {wrong[0]} that overlap by {wrong[1]} for {stage}"
    ):
        micro().restore_many([], plan=plan)
