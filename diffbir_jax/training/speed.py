"""Speed of a run: step times, images per second, and the share of the devices' peak FLOP/s that the model uses."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import jax
import numpy as np
from jax.stages import Wrapped

from diffbir_jax.files.trees import Tree
from diffbir_jax.training.flops import count

T = TypeVar("T")
# Seconds until a signal is handled at the latest.
SOON = 0.2
# Dense bfloat16 TFLOP/s of one device by `device_kind`, from the vendors' data sheets.
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


def compile_step(step: Wrapped, *arguments: Tree) -> tuple[Callable, float]:
    """Compile a jitted step for its arguments.

    Returns:
        The program, and its FLOPs per device, if all devices that hold arguments do an equal share. The count is that
        of `flops.count`: recomputed blocks (remat) count twice, and the body of a loop (gradient accumulation) counts
        once per iteration. XLA's own count has the body only once.
    """
    traced = step.trace(*arguments)
    devices = max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(arguments))
    return beside(traced.lower().compile), count(traced.jaxpr).total / devices


def beside(work: Callable[[], T]) -> T:
    """Return what `work` does in a thread, so that signals are handled meanwhile: XLA would delay them by minutes."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    # A daemon: a run that is told to end at once does not wait for it.
    threading.Thread(target=run, daemon=True).start()
    # The system may give a signal to another thread, which does not end the wait of this one.
    while not wait([done], SOON).done:
        pass
    return done.result()


class Stopwatch:
    """Measures the step times since the last reading."""

    def __init__(self, batch_size: int, peak_tflops: float | None = None):
        """Start the clock; `peak_tflops` is that of one device, by default from `PEAK_TFLOPS`."""
        kind = jax.devices()[0].device_kind
        self._peak = PEAK_TFLOPS.get(kind) if peak_tflops is None else peak_tflops
        self._batch, self._flops, self._seconds = batch_size, None, list[float]()
        self.restart()

    def restart(self, flops: float | None = None) -> None:
        """Let the next step begin now; `flops`, if given, are the FLOPs of a step on one device."""
        self._flops = self._flops if flops is None else flops
        self._last = time.perf_counter()

    def step(self) -> None:
        """Record the end of a step."""
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now

    def read(self) -> dict[str, float]:
        """Return the speed since the last reading; {} if there were no steps.

        Returns:
            `images_per_second`; `step_seconds_p50`, `_p90`, `_p99`; `mfu`, the model FLOPs utilisation in [0, 1], if
            FLOPs and peak are known.
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
    """Traces some steps with `jax.profiler`; a context manager that ends the trace."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        """Trace the steps from `steps[0]` to `steps[1]`, both included, into `folder`."""
        # Without steps the range (1, 0) is empty, so no step starts a trace.
        self._folder, self._steps, self._running = folder, steps or (1, 0), False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Start the trace at the first of the steps, or at the first one that a resumed run reaches."""
        if self._steps[0] <= step <= self._steps[1] and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result: Tree) -> None:
        """End the trace after the last of the steps; it waits for `result`, the output of the step."""
        if self._running and step >= self._steps[1]:
            # The step runs asynchronously; the trace must include its end.
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
