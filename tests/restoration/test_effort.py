"""Operations of a run, stage by stage."""

import dataclasses

import pytest

from diffbir_jax.restoration.effort import costs, effort
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.geometry import measure
from diffbir_jax.restoration.plan import Plan, StagePlan
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options
from tests.micro import FEW, MICRO, micro

IMAGE = ((48, 48), (48, 48))


def executor(batch: int = 1, options: Options = FEW, count: int = 1, stage1_only: bool = False) -> Executor:
    plan = Plan(*[StagePlan(64, 32, batch)] * 4)
    return Executor(micro(), micro().programs, plan, Wanted(options, count, stage1_only=stage1_only))


def cost(run: Executor, stage: str) -> float:
    return costs(run, [IMAGE], measure(*IMAGE, MICRO, run.plan)[1])[stage]


def test_a_pixel_costs_the_same_in_batches_of_any_size() -> None:
    """A module's convolutions are counted, twice per product: the first one alone has 9 x 3 x 8."""
    alone, together = (cost(executor(batch, stage1_only=True), "rm") for batch in (1, 4))
    assert alone == pytest.approx(together, rel=0.02) and alone > 2 * 9 * 3 * 8


@pytest.mark.slow
def test_sampling_costs_as_much_as_it_has_steps() -> None:
    two, four = (cost(executor(options=dataclasses.replace(FEW, steps=n)), "sample") for n in (2, 4))
    assert four == pytest.approx(2 * two, rel=0.02)


def test_effort_is_that_of_all_tiles_and_results() -> None:
    known = {"rm": 1.0, "encode": 2.0, "sample": 3.0, "decode": 4.0}
    one = effort(executor(), IMAGE, known)
    assert one == {"rm": 48 * 48, "encode": 2 * 48 * 48, "sample": 3 * 48 * 48, "decode": 4 * 48 * 48}
    three = effort(executor(count=3), IMAGE, known)
    assert three == one | {"sample": 3 * one["sample"], "decode": 3 * one["decode"]}
    assert effort(executor(), IMAGE, {"rm": 1.0}) == {"rm": 48 * 48}
    from_input = effort(executor(options=dataclasses.replace(FEW, start_point="input")), IMAGE, known)
    assert from_input == one | {"encode": 2 * one["encode"]}


def test_tiles_that_overlap_count_twice() -> None:
    """96 rows in tiles of 64, 32 apart: two tiles."""
    assert effort(executor(), ((96, 48), (96, 48)), {"decode": 1.0}) == {"decode": 2 * 64 * 48}
