"""What the planner of `diffbir restore` chooses for GPUs of some memory, beside the GPU compiler's figures.

Run by `python -m benchmarks.gpu_aot --program plan`. The compiler's figures of every program are kept by its text, so
plans of several memories share them.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from jax.stages import Wrapped

from benchmarks.flops import abstract_generator, empty_context
from benchmarks.gpu_targets import OPTIONS, capability_of, held, mesh_of
from diffbir_jax.models.platform import batches_over, tracing_for
from diffbir_jax.restoration.compiled import Memory, Programs, _bound
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.planner import USABLE, PlanError, abstract_calls, make_plan
from diffbir_jax.restoration.results import Wanted

# The share of a GPU's memory that JAX takes by default.
TAKEN = 0.75
HEADER = (
    "version", "result", "GPU memory", "budget, GiB", "tiles", "predicted, MiB", "largest program", "arguments",
    "temporaries", "output", "sum, MiB", "programs",
)  # fmt: skip


@dataclass(frozen=True)
class PlanCase:
    """A plan for one image, enlarged four times.

    Attributes:
        preset: name.
        target: name of a file in benchmarks/targets.
        side: of the result, in pixels.
        precision: a key of `PRECISIONS`.
        memory: of the GPU, in GiB.
    """

    preset: str
    target: str
    side: int
    precision: str
    memory: int

    @property
    def name(self) -> str:
        """Key of the results."""
        return " ".join(("plan", *map(str, astuple(self))))


class Recorded(Programs):
    """Programs that are compiled for a GPU target, and whose memory is kept in a file."""

    def __init__(self, mesh: Mesh, path: Path):
        """Take the mesh of the target, and the file."""
        super().__init__(mesh)
        self.path, self.new = path, 0
        self.found: dict[str, list[int]] = json.loads(path.read_text()) if path.is_file() else {}

    def memory(self, function: Wrapped, *args: Any, **static: object) -> Memory:
        """Return what a call takes on the target, see `Programs.memory`."""
        with batches_over(self.mesh):
            lowered = function.lower(*_bound(function, args, static))
        key = hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if key not in self.found:
            begin = time.perf_counter()
            found: Any = lowered.compile(compiler_options=OPTIONS).memory_analysis()
            sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
            print(f"{self.doing}: {sizes} bytes, {time.perf_counter() - begin:.0f} s", flush=True)
            self.found[key] = list(sizes)
            self.new += 1
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found, indent=1))
        self.known.add(hash(key))
        return Memory(*self.found[key])


def planning(results: Path) -> Callable[[PlanCase], dict[str, Any]]:
    """Return what plans a case; programs are kept beside `results`."""
    path = results.with_name(f"{results.stem}_programs.json")

    def plan(case: PlanCase) -> dict[str, Any]:
        with tracing_for("gpu"):
            return _planned(case, Recorded(mesh_of(case.target), path))

    return plan


def _planned(case: PlanCase, programs: Recorded) -> dict[str, Any]:
    """The plan of a case with its predicted bytes, and the compiler's for the program that decides them."""
    generator = abstract_generator(case.preset, case.precision)
    assert programs.mesh is not None
    generator.params = held(generator.params, programs.mesh, capability_of(case.target))
    wanted = Wanted(default_options(case.preset), keep=False, context=empty_context(generator.preset))
    small = case.side // 4
    images = [((small, small), (case.side, case.side))]
    budget = int(USABLE * TAKEN * case.memory * 2**30)
    try:
        found = make_plan(generator, programs, images, wanted, budget)
    except PlanError as error:
        return {"budget": budget, "error": str(error), "programs": len(programs.known)}
    sizes = {
        stage: max(programs.memory(call, *args, **static) for call, args, static in calls)
        for stage in found.stages
        if (calls := abstract_calls(found.executor, stage, found.shape))
    }
    # That which decides: parameters are held all the time.
    largest = max(found.stages, key=lambda stage: found.stages[stage])
    return {
        "budget": budget,
        "tiles": {stage: getattr(found.shape, stage) for stage in found.stages},
        "predicted": found.peak,
        "weights": found.base,
        "stages": found.stages,
        "largest": largest,
        "compiled": sizes[largest]._asdict(),
        "programs": len(programs.known),
    }


def plan_row(case: PlanCase, found: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [f"{case.preset}, {case.precision}", f"{case.side}x{case.side}", f"{case.memory} GB"]
    cells.append(f"{found['budget'] / 2**30:.2f}")
    if "error" in found:
        cells += [found["error"], *[""] * (len(HEADER) - len(cells) - 2), str(found["programs"])]
        return f"| {' | '.join(cells)} |"
    sizes = [found["compiled"][name] for name in ("arguments", "temporary", "results")]
    height, width = found["tiles"].get("sample", next(iter(found["tiles"].values())))
    cells += [
        f"{width}x{height}",
        _mib(found["predicted"]),
        found["largest"],
        *map(_mib, sizes),
        _mib(sum(sizes)),
    ]
    return f"| {' | '.join([*cells, str(found['programs'])])} |"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"
