"""What the TPU compiler says of the programs of a pod, on a machine without TPUs.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python -m benchmarks.tpu_aot --topologies v5e:4x4 v5e:16x16 --batch 1 2

compiles the stage-2 training step (or with `--program sample` the sampler) for these chips and prints a row of Markdown
per program; docs/scaling.md explains the columns. Needs `pip install libtpu`. A compilation takes minutes; what was
compiled is kept in `--results` and not compiled again. `--search` looks for the largest batch that fits a chip.
"""

import argparse
import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from benchmarks.collectives import collectives
from benchmarks.pod_programs import Program, lora_step, sampling, training_step
from benchmarks.results import Results
from diffbir_jax.models import attention
from diffbir_jax.models.platform import tracing_for
from diffbir_jax.models.presets import get_preset
from diffbir_jax.sharding import make_mesh
from diffbir_jax.training.flops import count


class Chip(NamedTuple):
    """Published peaks of a chip, bfloat16 FLOP/s and bytes/s of its memory; and the bytes that a program may use."""

    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    "v5e": Chip(197e12, 819e9, 15.75 * 2**30),
    "v6e": Chip(918e12, 1640e9, 31.24 * 2**30),
    "v5p": Chip(459e12, 2765e9, 95.73 * 2**30),
}
HEADER = (
    "program", "chips", "data x fsdp", "images per chip", "remat", "arguments", "temporaries", "output", "sum, GiB",
    "TFLOP", "analytic", "ratio", "GB", "collectives (MiB)", "compile s", "projected s",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes:
        preset: name.
        program: "train", "lora" or "sample".
        topology: kind and shape, as "v5e:4x4".
        batch: images per chip.
        fsdp: chips that parameters and optimizer state are split over.
        remat: recompute blocks in the backward pass.
    """

    preset: str
    program: str
    topology: str
    batch: int
    fsdp: int = 1
    remat: bool = False

    @property
    def name(self) -> str:
        """Key of the results."""
        return " ".join(map(str, dataclasses.astuple(self)))

    @property
    def chip(self) -> Chip:
        """What it runs on."""
        return CHIPS[self.topology.partition(":")[0]]


def compile_case(case: Case) -> dict[str, Any]:
    """Compile for the topology; returns the compiler's numbers per chip, or `error` where memory does not suffice."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=case.topology).devices
    mesh = make_mesh(fsdp=case.fsdp, devices=devices)
    # This host has one device: attention would take a kernel that XLA cannot split over several chips.
    attention.force("xla" if mesh.size > 1 and case.program != "sample" else "auto")
    with tracing_for("tpu"):
        program = _program(case, mesh)
        traced = program.function.trace(*program.arguments)
    analytic = [flops / mesh.size for flops in count(traced.jaxpr)]
    found: dict[str, Any] = {"chips": mesh.size, "analytic": analytic}
    begin = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"error": str(error).partition("\n")[0]}
    return found | {"seconds": time.perf_counter() - begin} | measures(compiled)


def _program(case: Case, mesh: Any) -> Program:
    preset, images = get_preset(case.preset), case.batch * mesh.size
    if case.program == "sample":
        return sampling(preset, mesh, images)
    make = lora_step if case.program == "lora" else training_step
    return make(preset, mesh, images, case.remat)


def measures(compiled: Any) -> dict[str, Any]:
    """Bytes of memory, FLOPs, bytes moved and collectives of a compiled program, on one device."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "collectives": collectives(compiled.as_text()),
    }


def needed(found: dict[str, Any]) -> float:
    """Bytes of memory on one chip; infinite where the compiler gave up."""
    return float("inf") if "error" in found else sum(found[k] for k in ("arguments", "temporaries", "output"))


def projected(case: Case, found: dict[str, Any]) -> float:
    """Seconds of a call if chips reached their peaks, and what moves between chips hid behind the rest.

    XLA counts one turn of each loop: its numbers are scaled by the share of turns in the analytic count.
    """
    total, once = found["analytic"]
    return max(found["flops"] / case.chip.flops, found["bytes"] / case.chip.bandwidth) * total / once


def row(case: Case, found: dict[str, Any]) -> str:
    """A row of the table."""
    mesh = f"{found['chips'] // case.fsdp} x {case.fsdp}"
    cells = [f"{case.preset} {case.program}", case.topology, mesh, case.batch, "yes" if case.remat else "no"]
    if "error" in found:
        return _line([*cells, found["error"], *[""] * (len(HEADER) - len(cells) - 1)])
    parts = [found[k] for k in ("arguments", "temporaries", "output")]
    cells += [f"{x / 2**30:.2f}" for x in (*parts, sum(parts))]
    once = found["analytic"][1]
    cells += [f"{found['flops'] / 1e12:.2f}", f"{once / 1e12:.2f}", f"{found['flops'] / once:.3f}"]
    traffic = [f"{n} {kind} ({size / 2**20:.0f})" for kind, (n, size) in found["collectives"].items()]
    cells += [f"{found['bytes'] / 1e9:.1f}", ", ".join(traffic) or "none", f"{found['seconds']:.0f}"]
    return _line([*cells, f"{projected(case, found):.3f}"])


def _line(cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def largest(memory: Callable[[int], float], limit: float) -> int:
    """The largest batch whose program fits, 0 if none does.

    Memory is nearly linear in it, so few are tried: on a line through those known, then by bisection.

    Args:
        memory: bytes of a batch; infinite where it is not known.
        limit: bytes that there are.
    """
    known = {batch: memory(batch) for batch in (1, 2)}
    while True:
        fits = max((batch for batch in known if known[batch] <= limit), default=0)
        fails = min((batch for batch in known if known[batch] > limit), default=None)
        if fails is not None and fails <= fits + 1:
            return fits
        if fails is None:
            slope = (known[fits] - known[1]) / (fits - 1)
            guess = fits + max(1, int((limit - known[fits]) / slope))
        else:
            guess = (fits + fails) // 2
        known[guess] = memory(guess)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=("v1", "v2.1"), default="v2.1", help="v2 is trained as v1")
    parser.add_argument("--program", choices=("train", "lora", "sample"), default="train")
    parser.add_argument("--topologies", nargs="+", type=_topology, default=["v5e:4x4"], metavar="KIND:SHAPE")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="images per chip")
    parser.add_argument("--fsdp", type=int, default=1, help="chips that parameters are split over")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--search", action="store_true", help="find the largest batch that fits a chip")
    parser.add_argument("--results", type=Path, default=Path("work/tpu_aot.json"))
    args = parser.parse_args()
    results = Results(args.results, compile_case, row)
    print(f"{_line(HEADER)}\n{_line(['---'] * len(HEADER))}", flush=True)
    for topology in args.topologies:
        case = Case(args.preset, args.program, topology, 1, args.fsdp, args.remat)
        for batch in () if args.search else args.batch:
            results(dataclasses.replace(case, batch=batch))
        if args.search:
            search(case, results)


def search(case: Case, results: Results) -> None:
    """Print the largest batch of a case that fits."""
    best = largest(lambda batch: needed(results(dataclasses.replace(case, batch=batch))), case.chip.memory)
    print(f"{case.topology}: at most {best} images per chip", flush=True)


def _topology(text: str) -> str:
    if not re.fullmatch(rf"({'|'.join(CHIPS)}):\d+(x\d+)+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} given; allowed are {', '.join(CHIPS)}, as v5e:4x4 or v5p:4x4x4"
        )
    return text


if __name__ == "__main__":
    main()
