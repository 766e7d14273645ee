"""Run cases: small ones in this process, each full-size one in a new process, so that its peak memory is its own."""

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from diffbir_jax.parity.case import Case
from diffbir_jax.parity.suite import ParityError, collect, golden_files, load


@dataclass(frozen=True)
class Result:
    """The result of a case.

    Attributes:
        errors: error of each output; empty if the case could not be computed.
        seconds: wall-clock time for weights, compilation and run.
        peak_bytes: largest resident memory of its own process; None if it shared a process with other cases.
        problem: the reason if there are no errors.
    """

    errors: dict[str, float]
    seconds: float
    peak_bytes: int | None = None
    problem: str | None = None

    def passes(self, case: Case) -> bool:
        """Whether every output was computed and is within the limit."""
        return bool(self.errors) and all(map(case.limit.holds, self.errors.values()))

    def explain(self, case: Case) -> str:
        """Return the problem, or the output with the largest error."""
        return self.problem or case.worst(self.errors)[0]


def run_case(case: Case, folder: Path) -> Result:
    """Run a case of the golden files in `folder`; any failure becomes part of the result."""
    if not case.full_size:
        return run_here(case, folder)
    start = time.perf_counter()
    # Spawned, not forked: the child must not inherit this process's memory, threads or compiled programs.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_run_alone, case.label, folder).result()
        except BrokenProcessPool:
            return Result({}, time.perf_counter() - start, None, "its process was killed (out of memory?)")


def misses(folder: Path, pattern: str) -> list[str]:
    """Run cases in this process; return those that miss, with the reason or the output with the largest error.

    Args:
        folder: golden files.
        pattern: pattern of "file:case" (`fnmatch`).

    Raises:
        ParityError: the folder cannot be used, or the pattern selects no case that can be computed.
    """
    cases = [case for case in collect(folder).only(pattern).cases if case.compute]
    if not cases:
        raise ParityError(f"nothing in {folder} matches {pattern!r}")
    results = [(case, run_here(case, folder)) for case in cases]
    return [f"{case.label}: {result.explain(case)}" for case, result in results if not result.passes(case)]


def run_here(case: Case, folder: Path) -> Result:
    """Run a case in this process."""
    start = time.perf_counter()
    errors, problem = {}, None
    try:
        with load(golden_files(folder)[case.file]) as golden:
            errors = case.errors(golden)
    except Exception as error:  # a case that fails is a miss; the others still run
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return Result(errors, time.perf_counter() - start, None, problem)


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    try:
        # Unlike ru_maxrss, this does not count the memory of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _run_alone(label: str, folder: Path) -> Result:
    """Run one case in a child process. Computations cannot be pickled, so it finds its case by name."""
    case = next(case for case in collect(folder).cases if case.label == label)
    result = run_here(case, folder)
    return Result(result.errors, result.seconds, peak_bytes(), result.problem)
