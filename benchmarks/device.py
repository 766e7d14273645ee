"""How fast a device is: each network, restorations and the training step of a published version, in one process.

    python -m benchmarks.device                      # on a machine with a GPU; under 9 minutes
    python -m benchmarks.device --minutes 20 --page docs/gpu.md

Weights are random, which changes no time. Where PyTorch and diffusers or spandrel are installed, each network is also
timed there, as it is and through `torch.compile`. Nothing is fetched. A part is begun only while there is as much time
as the longest part so far took; the others are named as left out. What was measured is kept in `--results`, by device:
the same command goes on where the time ended. `--page` writes the table into the second half of docs/gpu.md.
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.flops import abstract_generator, empty_context
from benchmarks.networks import NETWORKS, compiled, random_params, seconds_of
from benchmarks.peers import PEERS, Format, Peer
from benchmarks.pod_programs import training_step
from benchmarks.results import Results
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.compiled import laid
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.planner import compile_all, forecast
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sharding import make_mesh
from diffbir_jax.weights.loading import PRECISIONS

STEPS, SIDES = (10, 50), (512, 1024)
REPEATS = 5
# Networks of stage 2, which are measured before those of stage 1.
FIRST = 4
TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
BEGIN, END = "<!-- measured by benchmarks/device.py -->", "<!-- end of what was measured -->"
HEADER = (
    "part", "seconds", "compile s", "arguments, GiB", "temporaries, GiB", "peak so far, GiB", "PyTorch s",
    "torch.compile s", "ours / the faster",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What is measured at a time.

    Attributes:
        kind: "network", "restoration" or "training".
        title: name of the network, or what is done.
        preset: name of the version.
        precision: a key of `PRECISIONS`.
        steps: of sampling.
        side: of the result, in pixels.
    """

    kind: str
    title: str
    preset: str
    precision: str
    steps: int = 0
    side: int = 0

    @property
    def name(self) -> str:
        """Key of the results: times are those of a device and of a version of JAX."""
        where = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
        return f"{where}: {self.preset} {self.precision} {self.title}"


def parts(preset: str, precision: str) -> Iterator[Part]:
    """Yield all parts, the most telling ones of each kind first, so that a short time has some of each."""
    networks = [Part("network", name, preset, precision) for name in NETWORKS]
    restorations = [
        Part("restoration", f"{steps} steps, {side}x{side}", preset, precision, steps, side)
        for side in SIDES
        for steps in STEPS
    ]
    step = Part("training", "training step, 1 of 512x512", preset, precision)
    yield from (*networks[:FIRST], restorations[0], step, *restorations[1:], *networks[FIRST:])


def measure(part: Part) -> dict[str, Any]:
    """Measure a part; the peak is that of the process so far, since JAX cannot forget it.

    What a device refuses, such as too much memory, is told in the row, and the others go on.
    """
    try:
        found = {"network": network, "restoration": restoration, "training": training}[part.kind](part)
    except RuntimeError as error:
        return {"error": str(error).partition("\n")[0]}
    stats = jax.local_devices()[0].memory_stats() or {}
    return found | {"peak": stats.get("peak_bytes_in_use")}


def network(part: Part) -> dict[str, Any]:
    """Time one network, and its peer where there is one."""
    entry = NETWORKS[part.title]
    inputs = [np.random.default_rng(i).random(shape, np.float32) for i, shape in enumerate(entry.shapes)]
    ours = compiled(entry, inputs, PRECISIONS[part.precision])
    found = {"seconds": median(ours.run), "compile": ours.seconds}
    found |= {"arguments": ours.arguments, "temporaries": ours.temporaries}
    return found | theirs(part, inputs)


def theirs(part: Part, inputs: list[np.ndarray]) -> dict[str, float]:
    """Seconds of the peer on the same kind of device, in its faster memory format; nothing where it is missing."""
    libraries = ("torch", "spandrel" if part.title in ("swinir", "bsrnet", "scunet") else "diffusers")
    if not all(map(importlib.util.find_spec, libraries)):
        return {}
    peer = PEERS[part.title](inputs)
    peer.on("cpu" if jax.default_backend() == "cpu" else "cuda", TORCH_DTYPES[part.precision])
    eager: list[tuple[float, Format]] = [(median(peer.timed(layout)), layout) for layout in Peer.FORMATS]
    seconds, layout = min(eager)
    return {"torch": seconds, "torch.compile": median(peer.timed(layout, fuse=True))}


def restoration(part: Part) -> dict[str, Any]:
    """Time the restoration of one image, enlarged four times, with everything compiled."""
    preset, small = PRESETS[part.preset], part.side // 4
    shapes = abstract_generator(part.preset, part.precision).params
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), random_params(shapes), shapes)
    restorer = Restorer(preset, params, PRECISIONS[part.precision])
    options = replace(default_options(part.preset), steps=part.steps)
    context = empty_context(preset)
    plan = default_plan(preset, options)
    executor = Executor(restorer, restorer.programs, plan, Wanted(options, keep=False, context=context))
    images = [((small, small), (part.side, part.side))]
    begin = time.perf_counter()
    list(compile_all(executor, images))
    found: dict[str, Any] = {"compile": time.perf_counter() - begin}
    taken = forecast(executor, images, 2**60)
    found |= {"arguments": taken.base, "temporaries": max(taken.stages.values())}
    image = np.random.default_rng(0).integers(0, 256, (small, small, 3), np.uint8)
    return found | {"seconds": median(lambda: restorer.restore(image, 4.0, options, context), 2)}


def training(part: Part) -> dict[str, Any]:
    """Time a step of stage 2 on one image of 512x512 (or `pod_programs.SIDE`)."""
    mesh = make_mesh(devices=jax.devices()[:1])
    program = training_step(PRESETS[part.preset], mesh, 1, remat=True)
    state, frozen, batch = filled(program.arguments)
    frozen = laid(frozen)
    begin = time.perf_counter()
    step = program.function.lower(state, frozen, batch).compile()
    found: dict[str, Any] = {"compile": time.perf_counter() - begin}
    memory = step.memory_analysis()
    found |= {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}
    held = [state]

    def run() -> None:
        # A step takes its state apart, so the next one starts from its result.
        held[0], metrics = step(held[0], frozen, batch)
        jax.block_until_ready((held[0], metrics))

    return found | {"seconds": median(run)}


def filled(tree: Any) -> Any:
    """Arrays for abstract ones: small random floats, and zeros."""

    def fill(x: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return random_params({"x": x})["x"].astype(x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(fill, tree)


def median(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of a call, after one that warms up."""
    return statistics.median([seconds_of(run) for _ in range(repeats + 1)][1:])


def row(part: Part, found: dict[str, Any]) -> str:
    """A row of the table; what was not measured is empty."""
    if "error" in found:
        return f"| {part.title} | {found['error']} {'| ' * (len(HEADER) - 2)}|"
    peers = [found[name] for name in ("torch", "torch.compile") if name in found]
    sizes = [_gib(found.get(name)) for name in ("arguments", "temporaries", "peak")]
    ratio = f"{found['seconds'] / min(peers):.2f}" if peers else ""
    times = [f"{found[name]:.3f}" if name in found else "" for name in ("torch", "torch.compile")]
    cells = [part.title, f"{found['seconds']:.3f}", f"{found['compile']:.0f}", *sizes, *times, ratio]
    return f"| {' | '.join(cells)} |"


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f}"


def within(
    wanted: Sequence[Part], results: Results, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[Part], list[Part]]:
    """Measure parts while there is time.

    Args:
        wanted: the parts, in order.
        results: measure and keep.
        seconds: a part is begun while the longest one so far would end before that.
        clock: seconds that have passed since some moment.

    Returns:
        the parts that are in `results`, and those that are left out.
    """
    begin, longest = clock(), 0.0
    done, left = [], []
    for part in wanted:
        now = clock()
        if part.name not in results.found and now - begin + longest > seconds:
            left.append(part)
            continue
        results(part)
        longest = max(longest, clock() - now)
        done.append(part)
    return done, left


def section(done: Sequence[Part], left: Sequence[Part], results: Results) -> str:
    """The second half of docs/gpu.md."""
    where = f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {done[0].preset} in {done[0].precision}"
    rows = [row(part, results.found[part.name]) for part in done]
    titles = ", ".join(part.title for part in left)
    lines = ["## Measured", "", f"{time.strftime('%Y-%m-%d')}, {where}.", "", *header(), *rows]
    return "\n".join(
        [*lines, "", f"Left out for lack of time: {titles}." if left else "Nothing was left out."]
    )


def header() -> tuple[str, str]:
    """The first two lines of the table."""
    return f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"


def with_section(page: str, text: str) -> str:
    """Return a page with a section between its marks in place of the one that was there, by default at its end."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}\n{after.lstrip()}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--version", choices=("v1", "v2", "v2.1"), default="v2.1")
    add("--precision", choices=PRECISIONS, default="bf16")
    add("--minutes", type=float, default=8.5, metavar="N", help="default: %(default)s")
    add("--results", type=Path, default=Path("work/device.json"), metavar="FILE", help="default: %(default)s")
    add("--page", type=Path, metavar="FILE", help="page whose part between marks is replaced")
    args = parser.parse_args()
    # By default JAX takes most of the memory at once, and PyTorch runs in the same process.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    print("\n".join(header()), flush=True)
    results = Results(args.results, measure, row)
    done, left = within(list(parts(args.version, args.precision)), results, 60 * args.minutes)
    for part in left:
        print(f"left out for lack of time: {part.title}")
    if args.page and done:
        args.page.write_text(with_section(args.page.read_text(), section(done, left, results)))


if __name__ == "__main__":
    main()
