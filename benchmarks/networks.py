"""Each published network at full size, timed against its PyTorch peer on this machine's CPU in float32.

    python -m benchmarks.networks [--only NAME ...] [--repeats N] [--profile]

The peers are diffusers' UNet2DConditionModel, ControlNetModel and AutoencoderKL and spandrel's SwinIR, RRDBNet and
SCUNet. They are no dependencies of the project; `make peers` installs them into an environment of their own:

    make peers && .venv-peers/bin/python -m benchmarks.networks

Both sides use all cores, random weights and the same shapes. PyTorch runs with contiguous and with
channels-last tensors. Calls alternate between the two sides, so that other work on the machine touches both alike; a
ratio is the median over pairs of neighbouring calls, against the memory format in which PyTorch does better. The two
full-size UNets need 8 GB.

With `--profile`, the table is followed by where the time of one call goes, per kind of operation, on both sides.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike

from benchmarks.peers import PEERS, Peer, use_threads
from diffbir_jax.models.apply import Params, abstract, apply
from diffbir_jax.models.bsrnet import BSRNet
from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.models.swinir import SwinIR
from diffbir_jax.models.unet import UNet
from diffbir_jax.models.vae import AutoencoderKL
from diffbir_jax.restoration.compiled import laid
from diffbir_jax.weights.loading import stored

Run = Callable[[], Any]
LATENT, CONTEXT, IMAGE = (1, 64, 64, 4), (1, 77, 1024), (1, 512, 512, 3)


@dataclass(frozen=True)
class Network:
    """A module of ours and what it is called with: shapes of float32 inputs, by position."""

    module: Any
    shapes: tuple[tuple[int, ...], ...]
    method: str | None = None


NETWORKS = {
    "unet": Network(UNet(), (LATENT, (1,), CONTEXT)),
    "control": Network(IRControlNet(), (LATENT, LATENT, (1,), CONTEXT)),
    "vae encode": Network(AutoencoderKL(), (IMAGE,), "encode"),
    "vae decode": Network(AutoencoderKL(), (LATENT,), "decode"),
    "swinir": Network(SwinIR(), (IMAGE,)),
    "bsrnet": Network(BSRNet(), ((1, 128, 128, 3),)),
    "scunet": Network(SCUNet(), (IMAGE,)),
}
HEADER = ("network", "GFLOP", "ours s", "theirs s", "format", "ratio", "compile s", "buffers GB")


def main() -> None:
    """Print one line per network."""
    parser = argparse.ArgumentParser(description="Time the networks against PyTorch on this machine's CPU.")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs of calls (default: 5)")
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    use_threads(threads)
    print(f"{threads} threads, float32, jax {jax.__version__}\n{_line(HEADER)}", flush=True)
    for name in args.only:
        compare(name, args.repeats, args.profile)


def compare(name: str, repeats: int, profile: bool) -> None:
    """Time one network and print its line, and with `profile` what takes the time."""
    network = NETWORKS[name]
    inputs = [np.random.default_rng(i).random(shape, np.float32) for i, shape in enumerate(network.shapes)]
    ours = compiled(network, inputs)
    peer = PEERS[name](inputs)
    timed = {layout: _alternate(ours.run, peer.in_format(layout), repeats) for layout in Peer.FORMATS}
    layout = min(timed, key=lambda layout: statistics.median(theirs for _, theirs in timed[layout]))
    seconds = [statistics.median(column) for column in zip(*timed[layout], strict=True)]
    ratio = statistics.median(own / theirs for own, theirs in timed[layout])
    numbers = (f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", layout, f"{ratio:.2f}")
    gflop = f"{peer.flop() / 1e9:.0f}"
    print(_line((name, gflop, *numbers, f"{ours.seconds:.1f}", f"{ours.temporaries / 1e9:.2f}")), flush=True)
    if profile:
        _print_profile("ours", _xla_profile(ours.run))
        _print_profile("theirs", peer.profile())


def random_params(shapes: Params) -> Params:
    """Random float32 parameters of these shapes, small enough that nothing overflows."""
    return jax.tree.map(lambda x: jax.device_put(np.resize(_noise(), x.shape)), shapes)


@functools.cache
def _noise() -> np.ndarray:
    """One draw for all parameters: billions of numbers would take a minute."""
    return 0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)


class Compiled(NamedTuple):
    """A network of ours as a call without arguments.

    Attributes:
        run: calls it, and waits for the result.
        seconds: that it took to compile.
        arguments: bytes of parameters and inputs.
        temporaries: bytes of its buffers.
    """

    run: Run
    seconds: float
    arguments: int
    temporaries: int


def compiled(network: Network, inputs: list[np.ndarray], dtype: DTypeLike = np.float32) -> Compiled:
    """Compile a network that computes in a dtype, with random parameters."""
    module = network.module.clone(dtype=dtype)

    def call(params: Params, *args: Any) -> Any:
        return apply(module, params, *args, method=network.method)

    arrays = [jax.device_put(x) for x in inputs]
    sample = jax.ShapeDtypeStruct(IMAGE, np.float32)
    params = random_params(abstract(module, *([sample] if network.method else arrays)))
    params = laid(stored(params, dtype))
    lowered = jax.jit(call).lower(params, *arrays)
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes) if memory else (0, 0)
    return Compiled(lambda: jax.block_until_ready(program(params, *arrays)), seconds, *sizes)


def _alternate(ours: Run, theirs: Run, repeats: int) -> list[tuple[float, float]]:
    """Seconds of `repeats` pairs of calls, after one pair to warm up."""
    pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(repeats + 1)]
    return pairs[1:]


def seconds_of(run: Run) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _xla_profile(run: Run) -> dict[str, float]:
    """Seconds per kind of HLO operation in one call."""
    totals: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        for name, seconds in _events(next(Path(folder).rglob("*.xplane.pb"))):
            totals[name.split(".")[0]] += seconds
    return totals


def _events(path: Path) -> Iterator[tuple[str, float]]:
    """Names and seconds of the operations in a profile."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                if any(key == "hlo_op" for key, _ in event.stats):
                    yield event.name, event.duration_ns / 1e9


def _print_profile(title: str, seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    for name, value in sorted(seconds.items(), key=lambda item: -item[1])[:12]:
        print(f"    {title:7} {name[:60]:60} {value:8.3f} s {100 * value / total:5.1f}%")


def _line(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:12}" + "".join(f"{cell:>14}" for cell in cells[1:])


if __name__ == "__main__":
    main()
