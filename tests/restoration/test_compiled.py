"""How parameters lie in memory on a platform whose convolutions read kernels in another order."""

import jax
import numpy as np
import pytest
from jax.stages import Compiled

from diffbir_jax.models.platform import tracing_for
from diffbir_jax.restoration.compiled import Programs, kernel_order
from diffbir_jax.restoration.restorer import Restorer
from tests.micro import FEW, MICRO, micro, picture, random_params


def test_kernels_lie_as_the_platform_reads_them() -> None:
    """Nothing else does, and results are the same; programs of one order are not taken for the other."""
    usual = micro().restore([picture(16, 16)], options=FEW)[0]
    with tracing_for("gpu"):
        using = Restorer(MICRO, random_params(MICRO))
    orders = {(x.ndim, x.format.layout.major_to_minor) for x in jax.tree.leaves(using.params) if x.ndim != 2}
    assert orders == {(4, (3, 2, 0, 1)), (1, (0,))}
    np.testing.assert_array_equal(using.restore([picture(16, 16)], options=FEW)[0].image, usual.image)
    assert not micro().programs.ordered


@pytest.mark.parametrize(
    ("dtype", "capability", "order"),
    [
        ("bfloat16", 8.0, (3, 0, 1, 2)),
        ("float16", 8.9, (3, 0, 1, 2)),
        ("float32", 8.9, (3, 2, 0, 1)),
        ("float32", 9.0, (3, 0, 1, 2)),
    ],
)
def test_the_order_is_the_compiler_s_choice(dtype: str, capability: float, order: tuple[int, ...]) -> None:
    """As XLA's CUDA compiler lays arguments that it may lay as it likes, see docs/gpu.md."""
    assert kernel_order(dtype, capability).major_to_minor == order


def test_what_is_compiled_is_named_by_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a planner, as when a sidecar has the plan."""
    restorer, named = micro(), []
    get = Programs.get
    monkeypatch.setattr(
        Programs, "get", lambda self, *args, **static: named.append(self.doing) or get(self, *args, **static)
    )
    restorer.restore([picture(16, 16)], options=FEW)
    assert list(dict.fromkeys(named)) == ["stage 1", "encoder", "sampling", "decoder"]


def test_the_memory_of_a_program_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `restore` plans, and asks for the same programs."""
    counted, count = [], Compiled.memory_analysis
    monkeypatch.setattr(Compiled, "memory_analysis", lambda self: counted.append(self) or count(self))
    programs, double, ones = Programs(), jax.jit(lambda x: 3.0 * x), np.ones(32, np.float32)
    assert programs.memory(double, ones) == programs.memory(double, ones)
    assert programs.memory(double, ones).results == 128
    assert len(counted) == 1
