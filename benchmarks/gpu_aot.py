"""What the CUDA compiler says of our programs, on a machine without a GPU and without its driver.

    make gpu-aot
    python -m benchmarks.gpu_aot --preset v2.1 --targets h100 rtx4090 --guidance 0 0.5

compiles the sampler (or with `--program train` the training step of stage 2, with `lora` that of `diffbir finetune`)
and prints a row of Markdown per program. With `--program plan` the planner of `diffbir restore` chooses sizes for GPUs
of so much `--memory`. docs/gpu.md explains the columns. What was compiled is kept in `--results`.
The GPUs are described by the files in benchmarks/targets/, by their published numbers. Kernels are chosen without
timing them.
"""

import argparse
import dataclasses
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format, Layout

from benchmarks.gpu_plans import HEADER as PLAN_HEADER
from benchmarks.gpu_plans import PlanCase, plan_row, planning
from benchmarks.gpu_targets import OPTIONS, TARGETS, capability_of, held, mesh_of
from benchmarks.pod_programs import SAMPLING, Program, lora_step, sampling, training_step
from benchmarks.results import Results
from diffbir_jax.models import attention
from diffbir_jax.models.platform import tracing_for
from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration import names
from diffbir_jax.sharding import replicated
from diffbir_jax.training.flops import count

# Steps of training by the name of their program.
STEPS = {"train": training_step, "lora": lora_step}
HEADER = (
    "program", "GPU", "attention", "weights", "arguments", "temporaries", "output", "sum, GiB", "largest buffer",
    "TFLOP", "kernels", "compile s",
)  # fmt: skip
# How weights lie in memory, and the table's words.
WEIGHTS = {"held": "as held", "auto": "as chosen", "rows": "as given"}
# Kinds of kernels by what their instructions hold.
KINDS = {
    "fused attention": r"__cudnn\$fmha",
    "cuDNN convolution": r"__cudnn\$conv",
    "cuBLAS product": r"__cublas",
    "Triton": r'"kind":"__triton',
    "transposition": r" transpose\(",
}
_RESULT = re.compile(r"= \(?([a-z]+?)(\d+)\w*\[([\d,]+)\].*?op_name=\"([^\"]*)\"")
# The computation inside a fusion, and the first line of any computation.
_FUSED = re.compile(r" fusion\(.*?calls=%?([\w.-]+)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes:
        preset: name.
        program: "train", "lora" or "sample".
        target: name of a file in benchmarks/targets.
        batch: images.
        side: of the images, in pixels.
        guidance: guidance scale of the sampler; 0 is off.
        precision: of the sampler.
        attention: a backend in place of the choice of `models.attention`, or "auto".
        layouts: "auto": the compiler chooses how arguments lie in memory; "rows": as NumPy's arrays; "held": as
            `restore` and `train` lay the weights that do not change.
    """

    preset: str
    program: str
    target: str
    batch: int = 1
    side: int = 512
    guidance: float = 0.0
    precision: str = "bf16"
    attention: str = "auto"
    layouts: str = "held"

    @property
    def name(self) -> str:
        """Key of the results."""
        return " ".join(map(str, dataclasses.astuple(self)))


def compile_case(case: Case) -> dict[str, Any]:
    """Compile for the target; returns the compiler's numbers."""
    mesh = mesh_of(case.target)
    with tracing_for("gpu"):
        program = _program(case, mesh)
        traced = program.function.trace(*program.arguments)
    flops = count(traced.jaxpr)
    begin = time.perf_counter()
    compiled = traced.lower().compile(compiler_options=OPTIONS)
    return {"seconds": time.perf_counter() - begin, "flops": flops.total} | measures(compiled)


def _program(case: Case, mesh: Any) -> Program:
    preset = get_preset(case.preset)
    if case.program in STEPS:
        made = STEPS[case.program](preset, mesh, case.batch, remat=True)
    else:
        options = dataclasses.replace(SAMPLING, guidance_scale=case.guidance)
        made = sampling(preset, mesh, case.batch, options, case.side, case.precision)
    if case.layouts == "held":
        return as_held(made, mesh, capability_of(case.target))
    return with_layouts(made, mesh) if case.layouts == "auto" else made


def with_layouts(program: Program, mesh: Any) -> Program:
    """The same program, for which the compiler chooses how the arguments lie in memory."""
    anyhow = Format(Layout.AUTO, replicated(mesh))
    function = jax.jit(program.function.__wrapped__, in_shardings=anyhow)
    return program._replace(function=function)


def as_held(program: Program, mesh: Any, capability: float) -> Program:
    """The same program for weights that lie in memory as `compiled.laid` lays them."""
    arguments = list(program.arguments)
    arguments[program.weights] = held(arguments[program.weights], mesh, capability)
    return program._replace(arguments=tuple(arguments))


def measures(compiled: Any) -> dict[str, Any]:
    """Bytes of memory, the largest array that an instruction makes, and kernels by kind."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "largest": largest(text),
        "kernels": dict(Counter(kind for line in text.splitlines() for kind in kinds(line))),
    }


def kinds(line: str) -> list[str]:
    """Return the kinds of kernels that an instruction of a compiled program is of."""
    return [kind for kind, pattern in KINDS.items() if re.search(pattern, line)]


def largest(text: str) -> tuple[int, str]:
    """Return bytes and origin of the largest array that a compiled program writes to memory, arguments left out."""
    found = [(_bytes(*match[:3]), match[3]) for match in _RESULT.findall("\n".join(written(text)))]
    return max(found, default=(0, ""))


def written(text: str) -> Iterator[str]:
    """Yield the lines of a compiled program but for the insides of fusions, whose arrays are never whole in memory."""
    fused, inside = set(_FUSED.findall(text)), False
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            inside = header[1] in fused
        if not inside:
            yield line


def _bytes(kind: str, bits: str, shape: str) -> int:
    return int(np.prod([int(side) for side in shape.split(",")])) * max(1, int(bits) // 8)


def row(case: Case, found: dict[str, Any]) -> str:
    """A row of the table."""
    sort = f"{case.preset} {case.program}, {case.batch} of {case.side}"
    sort += f", {case.precision}, guidance {case.guidance:g}" if case.program == "sample" else ", bf16"
    parts = [found[k] for k in ("arguments", "temporaries", "output")]
    size, origin = found["largest"]
    kernels = ", ".join(f"{number} {kind}" for kind, number in found["kernels"].items())
    cells = [sort, case.target, case.attention, WEIGHTS[case.layouts]]
    cells += [f"{x / 2**30:.2f}" for x in (*parts, sum(parts))]
    place = "/".join(origin.split("/")[-3:])
    cells += [
        f"{size / 2**20:.0f} MiB ({place})",
        f"{found['flops'] / 1e12:.1f}",
        kernels,
        f"{found['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the command line."""
    made = parser()
    args = made.parse_args()
    if args.program in STEPS and args.layouts == "auto":
        made.error("--layouts auto is for sampling: a step returns its state as it takes it")
    attention.force(args.attention)
    if args.program == "plan":
        plans(args)
        return
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    results = Results(args.results, compile_case, row)
    for target in args.targets:
        for guidance in args.guidance if args.program == "sample" else (0.0,):
            results(case_of(args, target, guidance))


def plans(args: argparse.Namespace) -> None:
    """Print a row for each amount of memory."""
    print(f"| {' | '.join(PLAN_HEADER)} |\n|{'---|' * len(PLAN_HEADER)}")
    results = Results(args.results, planning(args.results), plan_row)
    for target in args.targets:
        for memory in args.memory:
            results(PlanCase(args.preset, target, args.side, args.precision, memory))


def case_of(args: argparse.Namespace, target: str, guidance: float) -> Case:
    """Return a case of a command line; training has one size and precision."""
    if args.program in STEPS:
        more = {"attention": args.attention, "layouts": args.layouts}
        return Case(args.preset, args.program, target, args.batch, **more)
    settings = (args.side, guidance, args.precision, args.attention, args.layouts)
    return Case(args.preset, args.program, target, args.batch, *settings)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--preset", choices=("v1", "v2", "v2.1", "tiny", "one-step"), default="v2.1")
    add("--program", choices=(*STEPS, "sample", "plan"), default="sample")
    add("--targets", nargs="+", choices=sorted(file.stem for file in TARGETS.glob("*.txt")), default=["h100"])
    add("--batch", type=int, default=1, metavar="N", help="images (default: %(default)s)")
    add("--side", type=int, default=512, metavar="N", help="of the images (default: %(default)s)")
    add("--guidance", nargs="+", type=float, default=[0.0, 0.5], metavar="S")
    add("--memory", nargs="+", type=int, default=[8, 16, 24, 80], metavar="GB", help="for --program plan")
    add("--precision", choices=("bf16", "fp32"), default="bf16")
    add("--attention", choices=names.ATTENTION, default="auto")
    add("--layouts", choices=WEIGHTS, default="held", help="of arguments (default: %(default)s)")
    add(
        "--results", type=Path, default=Path("work/gpu_aot.json"), metavar="FILE", help="default: %(default)s"
    )
    return made


if __name__ == "__main__":
    main()
