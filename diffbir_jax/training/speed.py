"""How fast a run is: times of steps, images per second, and the share of the devices' peak that the model uses."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from diffbir_jax.training.flops import count

# Dense bfloat16 TFLOP/s of one device by `device_kind`, as their makers publish them.
PEAK_TFLOPS = {
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H200": 989.0,
}


def compile_step(step: Callable, *arguments: Any) -> tuple[Callable, float]:
    """Compile a jitted step for its arguments.

    Returns:
        The program, and how many FLOPs one device does in it, if all that hold arguments do as much. They are those of
        products (`flops.count`): what is computed twice (remat) counts twice, and the body of a loop, such as the parts
        of a batch that is accumulated, as often as it runs. XLA's own count has it once.
    """
    traced: Any = step.trace(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
    devices = max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(arguments))
    return traced.lower().compile(), count(traced.jaxpr).total / devices


class Stopwatch:
    """Times the steps since it was last read."""

    def __init__(self, batch_size: int, peak_tflops: float | None = None):
        """Start; `peak_tflops` of one device, by default what `PEAK_TFLOPS` says."""
        kind = jax.devices()[0].device_kind
        self._peak = PEAK_TFLOPS.get(kind) if peak_tflops is None else peak_tflops
        self._batch, self._flops, self._seconds = batch_size, None, list[float]()
        self.restart()

    def restart(self, flops: float | None = None) -> None:
        """Take the next step to begin now; `flops`, if given, is what each takes on one device."""
        self._flops = self._flops if flops is None else flops
        self._last = time.perf_counter()

    def step(self) -> None:
        """A step has ended."""
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now

    def read(self) -> dict[str, float]:
        """Return what the steps since the last reading took, nothing if there were none.

        Returns:
            `images_per_second`; `step_seconds_p50`, `_p90`, `_p99`; `mfu`, model FLOPs utilisation in [0, 1], where the
            FLOPs and the peak are known.
        """
        seconds, self._seconds = self._seconds, []
        if not seconds:
            return {}
        mean = float(np.mean(seconds))
        values = {"images_per_second": self._batch / mean}
        values |= {f"step_seconds_p{p}": float(np.percentile(seconds, p)) for p in (50, 90, 99)}
        if self._peak and self._flops is not None:
            values["mfu"] = self._flops / mean / (1e12 * self._peak)
        return values


class Profiler:
    """Traces some steps with `jax.profiler`; a context that ends the trace."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        """Trace the steps from `steps[0]` to `steps[1]`, both included, into `folder`."""
        self._folder, self._steps, self._running = folder, steps or (1, 0), False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Begin with the first of the steps, or where a resumed run meets them."""
        if self._steps[0] <= step <= self._steps[1] and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """End after the last of the steps; `result` is what to wait for."""
        if self._running and step >= self._steps[1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
