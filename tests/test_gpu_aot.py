"""benchmarks/gpu_aot.py: how it reads a compiled program. The compiler itself is not here: make gpu-aot installs it."""

import jax
import pytest

from benchmarks.gpu_aot import TARGETS, Case, as_held, capability_of, case_of, kinds, largest, parser, row
from benchmarks.pod_programs import training_step
from diffbir_jax.sharding import make_mesh
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
