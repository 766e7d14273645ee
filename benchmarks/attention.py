"""Time of the chunked attention on a CPU, beside `jax.nn.dot_product_attention` and PyTorch's fused kernel.

    python benchmarks/attention.py [--repeats N]

PyTorch is measured where it can be imported. Every round runs each implementation once, and the fastest round
counts, so that other work on the machine touches all of them alike.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.models.attention import attention

# (B, N, heads, D): self-attention of the UNet at 512x512 pixels (64x64 latents), then of the autoencoder.
SHAPES = {"UNet, 8 heads of 64": (1, 4096, 8, 64), "autoencoder, 1 head of 512": (1, 4096, 1, 512)}


def main() -> None:
    """Print one table per shape."""
    parser = argparse.ArgumentParser(description="Time the chunked attention on this machine's CPU.")
    parser.add_argument("--repeats", type=int, default=10, help="rounds of measurement (default: 10)")
    repeats = parser.parse_args().repeats
    for title, shape in SHAPES.items():
        seconds = measure(candidates(shape), repeats)
        ours = seconds["chunked"]
        print(f"{title}, {shape[1]} tokens, float32")
        for name, value in seconds.items():
            print(f"  {name:28} {1e3 * value:8.1f} ms   chunked takes {ours / value:5.2f} of it")


def candidates(shape: tuple[int, int, int, int]) -> dict[str, Callable[[], object]]:
    """Functions that each compute attention of the same random (B, N, heads, D) inputs and wait for the result."""
    inputs = [np.random.default_rng(i).standard_normal(shape, dtype=np.float32) for i in range(3)]
    arrays = [jnp.asarray(x) for x in inputs]
    jitted = {
        "chunked": jax.jit(partial(attention, backend="chunked")),
        "jax.nn.dot_product_attention": jax.jit(jax.nn.dot_product_attention),
    }
    runs: dict[str, Callable[[], object]] = {
        name: lambda f=function: f(*arrays).block_until_ready() for name, function in jitted.items()
    }
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return runs
    query, key, value = (torch.from_numpy(x.transpose(0, 2, 1, 3).copy()) for x in inputs)
    return runs | {"PyTorch": lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value)}


def measure(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest of `repeats` interleaved calls, after one call to warm up."""
    for run in runs.values():
        run()
    seconds = {name: float("inf") for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
