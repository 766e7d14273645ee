"""Plans: what fits the memory, and that a forecast is of the programs that run."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from diffbir_jax.console.meter import Meter
from diffbir_jax.models.platform import tracing_for
from diffbir_jax.restoration import compiled, planner
from diffbir_jax.restoration.candidates import candidates, default_plan
from diffbir_jax.restoration.compiled import Programs
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.generator import Generator
from diffbir_jax.restoration.geometry import Shape, measure
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.planner import (
    RUNTIME,
    PlanError,
    compile_all,
    make_plan,
)
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from tests.command import call, complaint, save
from tests.micro import FEW, GUIDED, MICRO, micro, picture

IMAGE = ((16, 16), (16, 16))
TILED = dataclasses.replace(FEW, tile=64)


def restorer() -> Restorer:
    """One that has compiled nothing."""
    return Restorer(MICRO, micro().params)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """What a stage takes, in place of compiling it: 1000 bytes per pixel of its batch; and nothing was there before.

    Returns the side of sampling's tiles and the number of programs of each question.
    """
    asked: list[tuple[int, int | None]] = []

    def bytes_of(executor: Executor, stage: str, shape: Shape, most: int | None = None) -> int:
        asked.append((shape.sample[0], most))
        return 1000 * executor.batch(stage, shape) * math.prod(getattr(shape, stage))

    monkeypatch.setattr(planner, "analyse", bytes_of)
    monkeypatch.setattr(planner, "resident", lambda: 0)
    return asked


def test_images_that_cannot_fit_are_refused_before_anything_is_compiled(compilations: list[str]) -> None:
    using = restorer()
    compilations.clear()
    with pytest.raises(PlanError, match="takes at least"):
        forecast([((5000, 5000), (90_000, 90_000))], memory=2**30, using=using)
    assert not compilations


def forecast(images=(IMAGE,), memory: int | None = None, options=FEW, using: Restorer | None = None):
    using = using or restorer()
    return make_plan(using, using.programs, images, Wanted(options), memory)


@pytest.mark.slow
def test_what_is_planned_is_what_runs() -> None:
    """Of whole images and of tiles: nothing is compiled that was not analysed."""
    for size, options in (
        ((16, 16), FEW),
        ((90, 40), TILED),
        ((90, 40), dataclasses.replace(GUIDED, tile=64)),
    ):
        using = restorer()
        found = forecast([(size, size)], options=options, using=using)
        planned = using.compiled
        (outcome,) = using.restore_many([Request(picture(*size))], options=options, plan=found.plan)
        assert outcome.error is None and using.compiled == planned > 0


def test_a_forecast_adds_up() -> None:
    """At least the largest array of every stage, and what the process has already."""
    found = forecast([((512, 512), (512, 512))])
    assert found.stages.keys() == {"rm", "encode", "sample", "decode"}
    assert min(found.stages[name] for name in ("rm", "encode", "decode")) > 2 * 3 * 4 * 512 * 512
    assert found.peak > found.base + max(found.stages.values()) > psutil.Process().memory_info().rss / 2
    lines = found.lines()
    assert len(lines) == 6 and "512x512" in lines[1] and "predicted" in lines[-1]


def test_images_that_wait_take_memory(table: None) -> None:
    """Beside those of the pack that is computed, by the one plan."""
    large, plan = ((512, 512), (512, 512)), default_plan(MICRO, FEW)
    executor = Executor(restorer(), restorer().programs, plan, Wanted(FEW))
    found, many = (
        planner.forecast(executor, images, 2**40)
        for images in ([large], [IMAGE, ((16, 40), (16, 40)), large])
    )
    assert many.stages == found.stages
    assert many.peak > found.peak + 3 * 512 * 512


def test_less_memory_makes_smaller_tiles(table: None) -> None:
    """By what stages take; that these numbers are those of the programs is tested above."""
    using = Restorer(dataclasses.replace(MICRO, tile=256), micro().params)

    def planned(memory: int) -> planner.Forecast:
        wanted = Wanted(FEW)
        return make_plan(using, using.programs, [((256, 256), (256, 256))], wanted, memory, norms="tile")

    roomy = planned(2**40)
    assert roomy.plan.sample.tile == 256
    tight = RUNTIME + int(0.7 * (roomy.peak - RUNTIME))
    smaller = planned(tight)
    assert smaller.plan.sample.tile < 256 and smaller.peak <= tight


LARGE = ((1024, 1024), (1024, 1024))


@pytest.mark.parametrize(
    "pixels, tiles",
    [(1024**2, [1024]), (900**2, [1024, 768]), (400**2, [1024, 512, 384]), (100**2, [1024, 256])],
)
def test_few_plans_are_compiled(pixels: int, tiles: list[int], table: list[tuple[int, int | None]]) -> None:
    """There are five. What one takes tells which may fit, and so does a line through two; the last is the smallest."""
    using, plan = restorer(), default_plan(MICRO, FEW)
    roomy = planner.forecast(Executor(using, using.programs, plan, Wanted(FEW)), [LARGE], 2**40)
    memory = roomy.peak - 1000 * (1024**2 - pixels)
    table.clear()
    if tiles[-1] ** 2 <= pixels:
        assert forecast([LARGE], memory).plan.sample.tile == tiles[-1]
    else:
        with pytest.raises(PlanError, match="tiles of 256 pixels"):
            forecast([LARGE], memory)
    assert list(dict.fromkeys(side for side, _ in table)) == tiles


def test_programs_that_take_less_are_compiled_last(table: list[tuple[int, int | None]]) -> None:
    """A plan that does not fit anyhow needs none of them."""
    roomy = forecast([LARGE])
    assert table == 4 * [(1024, planner.MAIN)] + 4 * [(1024, None)]
    table.clear()
    forecast([LARGE], roomy.peak - 1)
    assert (1024, None) not in table and {most for _, most in table} == {planner.MAIN, None}


@pytest.mark.parametrize(
    "known, at, expected",
    [
        ({}, 5, 0),
        ({10: 70}, 10, 70),
        ({10: 70}, 5, 17.5),
        ({10: 70, 6: 50}, 4, 40),
        ({9: 9, 4: 6, 2: 4}, 1, 3),
    ],
)
def test_memory_on_a_line(known: dict[int, int], at: int, expected: float) -> None:
    assert planner.on_line(known, at) == expected


def test_a_plan_for_another_device(table: list[tuple[int, int | None]]) -> None:
    """It has batches for a GPU, whose memory holds the parameters and no images of the host."""
    with tracing_for("gpu"):
        with pytest.raises(ValueError, match="give `memory`"):
            forecast([LARGE])
        found = forecast([LARGE, LARGE], 2**36)
        assert found.lines()[-1].startswith("peak of the device")
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(micro().params))
    assert found.plan.sample.batch == 16 and found.plan.pixels == 2**20
    assert found.base == weights and found.peak == weights + max(found.stages.values())


def test_parameters_are_no_inputs() -> None:
    """They are counted once, also those of guidance, and those of which only the shapes are known."""
    options = dataclasses.replace(GUIDED, guidance_space="rgb")
    abstract = jax.eval_shape(lambda: micro().params)
    taken = []
    for params in (micro().params, abstract):
        using = Generator(MICRO, params)
        executor = Executor(using, Programs(), default_plan(MICRO, options), Wanted(options))
        shape = measure(*IMAGE, MICRO, executor.plan)[1]
        taken.append(planner.analyse(executor, "sample", shape))
        ((_, (inputs, *_), _),) = planner.abstract_calls(executor, "sample", shape)
        assert inputs.guidance.params is executor.params["vae"]
    assert taken[0] == taken[1]
    assert planner.size_of(jax.tree.leaves(abstract)) == sum(
        x.nbytes for x in jax.tree.leaves(micro().params)
    )


def test_no_memory_is_said_at_once(table: None) -> None:
    """With what would do."""
    with pytest.raises(PlanError, match=r"do not suffice: the smallest plan, .* give `memory_gb` \d+\.\d"):
        forecast(memory=2**20)


def test_plans_go_from_fast_to_small() -> None:
    guided = dataclasses.replace(GUIDED, guidance_space="rgb")
    for options in (FEW, guided):
        plans = list(candidates(MICRO, options, 1, many=True))
        tiles = [plan.sample.tile for plan in plans]
        assert tiles == sorted(tiles, reverse=True) and min(tiles) >= 64
        assert plans[0].sample.batch > 1 == plans[-1].sample.batch
        assert {plan.remat for plan in plans} == ({True} if options is FEW else {False, True})
    assert {plan.sample.tile for plan in candidates(MICRO, TILED, 1, many=False)} == {64}
    assert default_plan(MICRO, TILED).sample == (64, 32, 1)


def test_programs_ahead_of_time() -> None:
    """One shape after the other, and then none is left to compile."""
    using, images = restorer(), [((16, 16), (16, 16)), ((16, 40), (16, 40)), ((24, 24), (24, 24))]
    found = forecast(images, using=using)
    assert len(list(compile_all(found.executor, images))) == 2
    compiled = using.compiled
    for outcome in using.restore_many(
        [Request(picture(*size)) for size, _ in images], 1.0, FEW, plan=found.plan
    ):
        assert outcome.error is None and np.isfinite(outcome.results[0].image).all()
    assert using.compiled == compiled


def test_the_command_line(inputs, capsys) -> None:
    """--plan and --warmup compute nothing; too little memory is one line."""
    save(inputs / "a.png")
    flags = ("--input", "in", "--output", "out", "--version", "micro", "--upscale", "1")
    assert call(*flags, "--plan") == 0
    assert "peak of the process" in capsys.readouterr().out
    assert call(*flags, "--warmup") == 0
    assert "4 programs in the cache" in capsys.readouterr().out
    assert not (inputs.parent / "out").exists()
    assert call(*flags, "--memory-gb", "0.001") == 1
    assert "do not suffice" in complaint(capsys)


def test_a_run_numbers_its_programs(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of small images, too, which are compiled when their turn comes; each by its stage."""
    shown: list[str] = []
    compiling = Meter.compiling

    @contextmanager
    def seen(meter: Meter, kind: str, again: bool = False) -> Iterator[None]:
        with compiling(meter, kind, again):
            shown.append(meter.text())
            yield

    monkeypatch.setattr(compiled, "_COMPILED", {})
    monkeypatch.setattr(Meter, "compiling", seen)
    save(inputs / "a.png", (16, 16))
    save(inputs / "b.png", (16, 40))
    flags = ("--version", "micro", "--upscale", "1", "--stage1-only")
    assert call("--input", "in", "--output", "out", *flags) == 0
    for number, text in enumerate(shown, start=1):
        assert text.startswith(f"compiling: stage 1, program {number} of 2")
    assert len(shown) == 2


@pytest.mark.slow
def test_programs_in_memory_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are the same when they have to be fetched again."""
    monkeypatch.setattr(compiled, "KEPT", 2)
    monkeypatch.setattr(compiled, "_COMPILED", {})
    using, wanted = restorer(), micro().restore([picture(16, 16)], options=FEW)[0]
    for _ in range(2):
        np.testing.assert_array_equal(using.restore([picture(16, 16)], options=FEW)[0].image, wanted.image)
        assert len(using.programs.compiled) <= 2 and using.compiled == 4


@pytest.mark.slow
def test_a_share_of_the_detail_is_planned_for_and_none_needs_no_stage_2() -> None:
    """Nothing else is compiled in the run, and at upscale 1 only stage 1."""
    preset = dataclasses.replace(MICRO, all_detail_from=4.0)
    for upscale, programs in ((1, 1), (2, 4)):
        using, size = Restorer(preset, micro().params), (24 * upscale, 24 * upscale)
        found = forecast([((24, 24), size)], using=using)
        assert using.compiled == programs == len(found.stages)
        (outcome,) = using.restore_many([Request(picture(24, 24))], upscale, FEW, plan=found.plan)
        assert outcome.error is None and using.compiled == programs
