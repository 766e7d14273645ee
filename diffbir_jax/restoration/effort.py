"""Operations that images take in each stage, as the compiler counts them, to predict the time that is left."""

from collections.abc import Mapping

from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.geometry import Shape, measure, stage_grid
from diffbir_jax.restoration.planner import Size, Sizes, abstract_calls, stages_of
from diffbir_jax.restoration.results import STAGE_NAMES

# Operations per pixel of a tile, by stage.
Costs = Mapping[str, float]


def costs(executor: Executor, images: Sizes, shape: Shape) -> Costs:
    """Count the operations per pixel of each stage, in its programs for images of a shape.

    The compiler counts one turn of each loop, and the loops of all programs run over batches of tiles.
    """
    found = {}
    for stage in stages_of(executor, images):
        calls = abstract_calls(executor, stage, shape)
        executor.programs.doing = STAGE_NAMES[stage]
        operations = sum(executor.programs.operations(call, *args, **static) for call, args, static in calls)
        height, width = getattr(shape, stage)
        turns = executor.generator.calls(executor.wanted.options) if stage == "sample" else 1
        found[stage] = operations * turns / (executor.batch(stage, shape) * height * width)
    return found


def effort(executor: Executor, image: tuple[Size, Size], costs: Costs) -> dict[str, float]:
    """Operations that an image takes in each stage, for the sides of the input and of the output."""
    return {
        stage: costs[stage] * pixels for stage, pixels in _pixels(executor, image).items() if stage in costs
    }


def passes(executor: Executor) -> dict[str, int]:
    """How many times a pack goes through each stage.

    Results with other noise repeat sampling and decoding. If sampling starts from the input, the input is encoded, too.
    If latents are drawn from the posterior, every result has its own encoding.
    """
    count = executor.wanted.count
    draws = count if executor.preset.one_step is not None else 1
    return {"rm": 1, "encode": draws + executor.starts_from_input, "sample": count, "decode": count}


def _pixels(executor: Executor, image: tuple[Size, Size]) -> dict[str, float]:
    """Pixels of all tiles of an image, by stage."""
    plan, again = executor.plan, passes(executor)
    sides, shape = measure(*image, executor.preset, plan)
    pixels = {}
    for stage in ("rm", "encode", "sample", "decode"):
        side = sides.lq_padded if stage == "rm" else sides.padded
        tile = getattr(shape, stage)
        pixels[stage] = (
            again[stage] * len(stage_grid(side, tile, getattr(plan, stage)).starts) * tile[0] * tile[1]
        )
    return pixels
