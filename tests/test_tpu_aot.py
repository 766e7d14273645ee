"""The programs of a pod, compiled for the tests' four devices at a size that compiles in a moment."""

import argparse
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import lora_memory, pod_programs, tpu_aot
from benchmarks.collectives import Traffic, collectives
from benchmarks.pod_programs import Program, lora_step, sampling, training_step
from benchmarks.results import Results
from benchmarks.tpu_aot import HEADER, Case, largest, measures, needed, projected, row
from configs import bsr
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.sampling.options import Options
from diffbir_jax.sharding import make_mesh, tree_shardings
from diffbir_jax.training.flops import count
from diffbir_jax.weights.safetensors import flatten
from tests.training.micro import MICRO

PRESET = dataclasses.replace(
    MICRO,
    unet=dataclasses.replace(MICRO.unet, context_dim=8),
    text=CLIPTextConfig(width=8, heads=2, layers=3, vocab=99),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pod_programs, "SIDE", 32)
    monkeypatch.setattr(pod_programs, "SAMPLING", Options(steps=3, cfg_scale=2.0, guidance_scale=1.0))
    # As users have it: JAX's own attention mixes bfloat16 and float32.
    with jax.numpy_dtype_promotion("standard"):
        yield


def bytes_of(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled(program: Program) -> dict[str, Any]:
    return measures(program.function.lower(*program.arguments).compile())


def test_the_state_is_split_over_chips_as_asked_for() -> None:
    """Without compiling: what a device holds of parameters, optimizer state and EMA."""
    rules = bsr.get_config().sharding_rules
    for mesh, least, most in ((make_mesh(), 1.0, 1.0), (make_mesh(fsdp=4), 0.25, 0.5)):
        state = training_step(PRESET, mesh, 4, remat=False).arguments[0]
        tree = (state.params, state.ema, state.opt_state)
        parts = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(where.shard_shape(leaf.shape), leaf.dtype),
            tree,
            tree_shardings(tree, mesh, rules),
        )
        assert least <= bytes_of(parts) / bytes_of(tree) <= most


def test_a_lora_step_holds_two_networks_and_four_copies_of_the_factors() -> None:
    """Parameters, EMA and two moments, float32; the networks in bfloat16. Without compiling."""
    state, frozen, batch = lora_step(
        dataclasses.replace(PRESET, name="v2.1"), make_mesh(), 4, remat=False
    ).arguments
    assert state.params["lora"].keys() == frozen.keys() == {"unet", "control"}
    factors = bytes_of(state.params)
    assert bytes_of((state.ema, state.opt_state)) == pytest.approx(3 * factors, rel=0.001)
    ranks = {leaf.shape[-1] for path, leaf in flatten(state.params).items() if path.endswith("/a")}
    assert ranks == {16} and batch["z0"].shape == (4, 8, 8, 4)
    kernels = {leaf.dtype for path, leaf in flatten(frozen).items() if path.endswith("kernel")}
    assert kernels == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.tools
def test_data_parallel_training_sends_gradients_and_nothing_else() -> None:
    program = training_step(PRESET, make_mesh(), 4, remat=False)
    found = compiled(program)
    state, frozen, batch = program.arguments
    assert found["collectives"].keys() == {"all-reduce"}
    # Besides gradients, the loss and other sums over the batch.
    assert bytes_of(state.params) <= found["collectives"]["all-reduce"].bytes < 1.05 * bytes_of(state.params)
    # Frozen weights are whole on each device, save for what the step does not read: the autoencoder's decoder.
    decoder = {name: frozen["vae"][name] for name in ("decoder", "post_quant_conv", "to_patch")}
    expected = bytes_of((state, frozen)) - bytes_of(decoder) + bytes_of(batch) // 4
    assert found["arguments"] == pytest.approx(expected, rel=0.001)


@pytest.mark.tools
def test_fsdp_splits_the_state_and_gathers_what_trains() -> None:
    program = training_step(PRESET, make_mesh(fsdp=4), 4, remat=False)
    found = compiled(program)
    state, frozen, batch = program.arguments
    split, whole = bytes_of((state.params, state.ema, state.opt_state)), bytes_of((frozen, batch))
    assert found["arguments"] < 0.5 * split + whole
    assert 0 < found["collectives"]["all-gather"].bytes < 3 * bytes_of(state.params)


def test_recomputing_costs_products() -> None:
    plain, again = (training_step(PRESET, make_mesh(), 4, remat) for remat in (False, True))
    counts = [count(each.function.trace(*each.arguments).jaxpr).total for each in (plain, again)]
    assert counts[0] < counts[1] < 1.5 * counts[0]


@pytest.mark.tools
def test_sampling_sends_nothing() -> None:
    """Each device restores its images with both prompts and guidance; weights are whole on all."""
    assert compiled(sampling(PRESET, make_mesh(), 4))["collectives"] == {}


def test_sampling_counts_its_steps() -> None:
    program = sampling(PRESET, make_mesh(), 4)
    flops = count(program.function.trace(*program.arguments).jaxpr)
    assert 2 < flops.total / flops.once < 3


HLO = """
  %a.1 = (f32[8,4]{1,0:T(8,128)S(1)}, /*index=1*/bf16[3]{0}) all-reduce(%x, %y), channel_id=1
  %s = ((f32[2]), (f32[8])) all-gather-start(%z), dimensions={0}
  ROOT %d = f32[8]{0} all-gather-done(%s)
  %u = u32[]{:T(128)} all-reduce(%x)
  %f = f32[9] fusion(%d), kind=kLoop, calls=%all-reduce.5
"""


def test_collectives_are_counted_with_their_results() -> None:
    assert collectives(HLO) == {
        "all-reduce": Traffic(2, 8 * 4 * 4 + 3 * 2 + 4),
        "all-gather": Traffic(1, 8 * 4),
    }


@pytest.mark.parametrize("best", [0, 1, 2, 3, 4, 7, 30])
@pytest.mark.parametrize("known", [True, False])
def test_the_largest_batch_is_found_in_few_compilations(best: int, known: bool) -> None:
    """Memory grows not quite linearly; beyond the limit it may be unknown."""
    asked = []

    def memory(batch: int) -> float:
        asked.append(batch)
        return 5 + batch + 0.01 * batch**2 if known or batch <= best else math.inf

    limit = 5 + (best + 0.5) + 0.01 * (best + 0.5) ** 2
    assert largest(memory, limit) == best
    assert len(asked) == len(set(asked)) <= 9


FOUND = {
    "chips": 16,
    "analytic": [3e12, 2e12],
    "seconds": 100.0,
    "arguments": 2**30,
    "temporaries": 2**30,
    "output": 0,
    "flops": 2.1e12,
    "bytes": 819e9,
    "collectives": {"all-reduce": (3, 2**21)},
}


def test_rows_and_projections() -> None:
    case = Case("v2.1", "train", "v5e:4x4", 1)
    assert needed(FOUND) == 2 * 2**30
    assert projected(case, FOUND) == pytest.approx(1.5)
    assert projected(case, FOUND | {"bytes": 0.0}) == pytest.approx(1.5 * 2.1 / 197)
    cells = row(case, FOUND).strip("| ").split(" | ")
    assert len(cells) == len(HEADER)
    assert cells[HEADER.index("ratio")] == "1.050" and "3 all-reduce (2)" in cells
    failed = {"chips": 16, "analytic": [3e12, 2e12], "error": "out of memory"}
    assert needed(failed) == math.inf and "out of memory" in row(case, failed)


def test_what_was_compiled_is_not_compiled_again(tmp_path: Path) -> None:
    calls = []
    made = (tmp_path / "new" / "results.json", lambda case: calls.append(case) or FOUND, row)
    case = Case("v2.1", "train", "v5e:4x4", 1)
    first = Results(*made)(case)
    again = Results(*made)
    assert needed(again(case)) == needed(first) and calls == [case]
    again(dataclasses.replace(case, batch=2))
    assert len(calls) == 2


def test_unknown_chips_are_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'v9:4x4' given; allowed are v5e, v6e, v5p"):
        tpu_aot._topology("v9:4x4")


@pytest.mark.tools
def test_recomputing_saves_less_for_the_backward_pass() -> None:
    """And the step holds what its arguments are."""
    preset = dataclasses.replace(PRESET, name="v2.1")
    state, frozen, _ = lora_step(preset, make_mesh(), 4, remat=True).arguments
    found = lora_memory.held(preset)
    assert found == {
        "factors": bytes_of((state.params, state.ema, state.opt_state)),
        "networks": bytes_of(frozen),
    }
    assert 0 < lora_memory.saved(preset, True) < lora_memory.saved(preset, False)
