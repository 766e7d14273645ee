"""benchmarks/gpu_aot.py: how it reads a compiled program. The compiler itself is not here: make gpu-aot installs it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_plans
from benchmarks.gpu_aot import Case, as_held, case_of, kinds, largest, parser, row
from benchmarks.gpu_plans import HEADER, PlanCase, Recorded, plan_row, planning
from benchmarks.gpu_targets import TARGETS, capability_of
from benchmarks.pod_programs import training_step
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.restoration.compiled import Memory
from diffbir_jax.sharding import make_mesh
from tests.micro import MICRO
from tests.test_tpu_aot import PRESET

HLO = """
%fused_norm.7 (p.1: bf16[8,4096,4096]) -> bf16[2,64] {
  %wide = f32[8,4096,4096]{2,1,0} convert(%p.1), metadata={op_name="jit(f)/norm/convert"}
  ROOT %r = bf16[2,64]{1,0} reduce(%wide), metadata={op_name="jit(f)/norm/mul"}
}

ENTRY %main.3 (p.0: f32[99999]) -> f32[4,1024,1024] {
%fusion.1 = (bf16[2,64]{1,0}, f32[8]{0}) fusion(%p), kind=kLoop, calls=%fused_norm.7, metadata={op_name="jit(f)/norm/mul" stack_frame_id=1}
ROOT %c.2 = f32[4,1024,1024]{2,1,0} custom-call(%q), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(f)/attention/dot"}
%p.0 = f32[99999]{0} parameter(0)
}
"""  # noqa: E501


def test_the_largest_array_and_where_it_comes_from() -> None:
    """Arguments have no origin: they are not counted. Nor are arrays inside fusions, which are never whole."""
    assert largest(HLO) == (4 * 4 * 1024 * 1024, "jit(f)/attention/dot")
    assert largest("") == (0, "")


@pytest.mark.parametrize(
    "line, expected",
    [
        ('custom_call_target="__cudnn$fmhaSoftmaxBackward"', ["fused attention"]),
        ('custom_call_target="__cudnn$convBiasActivationForward"', ["cuDNN convolution"]),
        ('custom_call_target="__cublas$lt$matmul"', ["cuBLAS product"]),
        ('"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}', ["Triton"]),
        ("%t = bf16[3,3]{1,0} transpose(%p), dimensions={1,0}", ["transposition"]),
        ("%a = f32[] add(%x, %y)", []),
    ],
)
def test_kinds_of_kernels(line: str, expected: list[str]) -> None:
    assert kinds(line) == expected


def test_a_row_has_the_sum_in_gib() -> None:
    found = {"arguments": 2**30, "temporaries": 2**29, "output": 0, "flops": 3e12, "seconds": 5.4}
    text = row(
        Case("v2.1", "sample", "h100", guidance=0.5), found | {"largest": (2**20, "a/b/c/d"), "kernels": {}}
    )
    assert (
        "| v2.1 sample, 1 of 512, bf16, guidance 0.5 | h100 | auto | as held | 1.00 | 0.50 | 0.00 | 1.50 |"
        in text
    )
    assert "| 1 MiB (b/c/d) | 3.0 |  | 5 |" in text


def test_training_is_compiled_as_it_runs() -> None:
    """In one size and precision, with the frozen networks' weights as `train` lays them."""
    args = parser().parse_args(["--program", "train", "--side", "1024"])
    case = case_of(args, "h100", 0.5)
    assert (case.layouts, case.side, case.guidance) == ("held", 512, 0.0)


def test_only_frozen_weights_lie_in_another_order() -> None:
    mesh = make_mesh()
    program = training_step(PRESET, mesh, mesh.size, remat=False)
    state, frozen, _ = as_held(program, mesh, 9.0).arguments
    kernels = [leaf for leaf in jax.tree.leaves(frozen) if leaf.ndim == 4]
    assert kernels and all(leaf.format.layout.major_to_minor == (3, 0, 1, 2) for leaf in kernels)
    assert state is program.arguments[0]


def test_targets_are_of_four_kinds() -> None:
    assert {file.stem for file in TARGETS.glob("*.txt")} == {"h100", "a100", "rtx4090", "l4"}


def test_the_capability_of_a_target() -> None:
    found = {path.stem: capability_of(path.stem) for path in TARGETS.glob("*.txt")}
    assert found == {"h100": 9.0, "a100": 8.0, "rtx4090": 8.9, "l4": 8.9}


def test_the_memory_of_a_program_is_kept(tmp_path: Path) -> None:
    """By what it computes: another process finds it, and another program is another one."""
    double, path = jax.jit(lambda x: 2.0 * x), tmp_path / "programs.json"
    one, two = (jax.ShapeDtypeStruct((size,), jnp.float32) for size in (64, 128))
    first, again = (Recorded(make_mesh(devices=jax.devices()[:1]), path) for _ in range(2))
    assert first.memory(double, one).results == 256 and first.new == 1
    again.found = Recorded(first.mesh, path).found
    assert again.memory(double, one) == first.memory(double, one) and again.new == 0
    assert again.memory(double, two).results == 512 and again.new == 1


def test_a_plan_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is predicted is the weights of all networks and the largest program; too little memory is an error."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    monkeypatch.setattr(gpu_plans, "mesh_of", lambda _: make_mesh(devices=jax.devices()[:1]))
    monkeypatch.setattr(Recorded, "memory", lambda *_, **__: Memory(2**30, 2**20, 2**31))
    plan = planning(tmp_path / "found.json")
    found = plan(PlanCase("micro", "h100", 64, "fp32", 8))
    assert found["predicted"] == found["weights"] + max(found["stages"].values()) < found["budget"]
    assert found["weights"] > 0 and found["compiled"]["temporary"] == 2**31
    short = plan(PlanCase("micro", "h100", 64, "fp32", 2))
    assert "do not suffice" in short["error"]


@pytest.mark.parametrize(
    "found, expected",
    [
        (
            {"error": "1.35 GiB of memory do not suffice", "programs": 8},
            "| 5.40 | 1.35 GiB of memory do not suffice |",
        ),
        (
            {
                "tiles": {"rm": (16, 16), "sample": (64, 96)},
                "predicted": 2**31,
                "largest": "sample",
                "compiled": Memory(2**30, 0, 2**29)._asdict(),
                "programs": 4,
            },
            "| 5.40 | 96x64 | 2048 | sample | 1024 | 512 | 0 | 1536 | 4 |",
        ),
    ],
)
def test_a_row_of_a_plan(found: dict[str, Any], expected: str) -> None:
    text = plan_row(PlanCase("tiny", "h100", 512, "fp32", 8), found | {"budget": int(5.4 * 2**30)})
    assert expected in text and text.count("|") == len(HEADER) + 1
