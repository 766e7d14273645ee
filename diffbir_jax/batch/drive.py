"""The loop: reading, computing and writing overlap, and a fault in one file stays with that file."""

import contextlib
import functools
import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from diffbir_jax.batch.ahead import ReadAhead, Writers
from diffbir_jax.batch.ends import Ends
from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.names import some
from diffbir_jax.batch.photos import Loaded, load, write_results
from diffbir_jax.batch.report import Journal
from diffbir_jax.batch.settings import Recipe
from diffbir_jax.batch.shares import Shares
from diffbir_jax.batch.sidecar import Recorder
from diffbir_jax.console.errors import EXPECTED, as_flags, one_line
from diffbir_jax.console.interrupts import told
from diffbir_jax.faces.reports import write_crops
from diffbir_jax.files.digest import FileRecord
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.records import write_record
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.restorer import Outcome, Request, Restored
from diffbir_jax.restoration.results import Progress
from diffbir_jax.sampling.options import Options

# Dtypes of files of crops, by --bit-depth.
CROP_DEPTHS = {"same": None, "8": np.uint8, "16": np.uint16}


class Restores(Protocol):
    """An object that restores images, such as `Restorer`."""

    def restore_many(
        self,
        requests: Iterable[Request],
        upscale: float,
        options: Options,
        *,
        plan: Plan | None,
        count: int,
        keep: bool,
        with_fidelity: bool,
        stage1_only: bool,
        listen: Callable[[Progress], None] | None,
    ) -> Iterator[Outcome]:
        """See `Restorer.restore_many`. `Outcome.about` has reports on faces, or nothing."""
        ...


class Driver:
    """Takes jobs through a restorer."""

    def __init__(
        self,
        restorer: Restores,
        recipe: Recipe,
        journal: Journal,
        recorder: Recorder | None,
        plan: Plan | None = None,
        ends: Ends | None = None,
    ):
        """Take the restorer, the recipe, the journal of the jobs, the maker of sidecars, the plan, and the ends."""
        self._restorer, self._recipe, self._plan = restorer, recipe, plan
        self._ends = ends or Ends()
        self._journal, self._recorder = journal, recorder
        # Jobs that the restorer has, by the position of their requests.
        self._pending: dict[int, Loaded] = {}
        self._shares = Shares()

    def restore(self, jobs: Sequence[Job]) -> None:
        """Restore every job, until the first Ctrl-C or SIGTERM; `Journal.interrupted` tells whether there was one.

        Raises:
            Exception: a bug, after the results so far are written.
        """
        reading = ReadAhead(jobs, self._load, lambda loaded: loaded.pixels)
        try:
            with interruptible() as leave, Writers() as writers:
                try:
                    told.heed()
                    self._compute(jobs, reading, writers)
                    writers.finish()
                except KeyboardInterrupt:
                    leave()
                    self._journal.interrupted = True
        finally:
            reading.stop()
        left = {*self._journal.left} & {*jobs}
        if left and not self._journal.interrupted:
            raise RuntimeError(f"no outcome of {some(job.path for job in left)}: this is a bug")

    def _compute(self, jobs: Sequence[Job], reading: Iterator[Loaded], writers: Writers) -> None:
        fidelity = any(job.outputs.weight for job in jobs)
        for outcome in self._outcomes(reading, fidelity):
            loaded, seconds = self._taken(outcome.position)
            if outcome.error is None:
                work = functools.partial(self._write, loaded, outcome, seconds)
                writers.submit(work, sum(held(restored) for restored in outcome.results))
            else:
                self._fail(loaded.job, outcome.error)

    def _outcomes(self, reading: Iterator[Loaded], fidelity: bool) -> Iterator[Outcome]:
        """Yield the outcome of every job; restart the restorer if it fails for lack of memory."""
        recipe = self._recipe
        while True:
            try:
                yield from self._restorer.restore_many(
                    self._requests(reading),
                    recipe.upscale,
                    recipe.options,
                    plan=self._plan,
                    count=recipe.n_samples,
                    keep=recipe.keeps_stages,
                    with_fidelity=fidelity,
                    stage1_only=recipe.stage1_only,
                    listen=self._listen,
                )
                return
            except Exception as error:
                if not is_memory(error) or not self._pending:
                    raise
                for position in [*self._pending]:
                    self._fail(self._taken(position)[0].job, error)

    def _listen(self, progress: Progress) -> None:
        """Show how far a stage is, and end if a signal came whose exception a library lost."""
        told.heed()
        self._journal.listen(progress)

    def _taken(self, position: int) -> tuple[Loaded, float]:
        """The job of an outcome, no longer pending, and the seconds that it took."""
        return self._pending.pop(position), self._shares.end(position)

    def _requests(self, reading: Iterator[Loaded]) -> Iterator[Request]:
        positions = itertools.count()
        for loaded in reading:
            if loaded.request is None:
                self._fail(loaded.job, loaded.error or RuntimeError("read without a request"))
                continue
            # Hold no reference to the pixels while the restorer works on them.
            box, position = [loaded.request], next(positions)
            self._shares.begin(position, loaded.pixels)
            self._pending[position] = loaded.handed_over()
            del loaded
            yield box.pop()

    def _load(self, job: Job) -> Loaded:
        try:
            loaded = load(job, self._recipe)
        except (*EXPECTED, MemoryError) as error:
            return Loaded(job, error=error)
        self._journal.note(job.path, loaded.photo.notes if loaded.photo else ())
        # Sidecars name files as the user does.
        files = {name: file and self._named(file) for name, file in loaded.files.items()}
        return replace(loaded, files=files)

    def _named(self, file: FileRecord) -> FileRecord:
        return {**file, "path": self._ends.named(file["path"])}

    def _write(self, loaded: Loaded, outcome: Outcome, seconds: float) -> None:
        """Write the files of a job and note it; runs in a thread."""
        job, results, faces = loaded.job, outcome.results, outcome.about
        crops: Sequence[Path] = ()

        def note(writing: float) -> None:
            if self._recorder and job.outputs.sidecar:
                spent = {"read": loaded.read_seconds, "compute": seconds, "write": writing}
                write_record(job.outputs.sidecar, self._recorder.record(loaded, spent, crops, faces))

        try:
            if job.outputs.crops:
                crops = write_crops(faces, job.outputs.crops, CROP_DEPTHS[self._recipe.bit_depth])
            left_out = write_results(loaded, results, self._recipe, note)
            self._ends.send(job, [*crops, *job.outputs.all()])
        except (*EXPECTED, MemoryError) as error:
            self._fail(job, error)
        else:
            self._journal.note(job.outputs.main, left_out)
            size = results[0].image.shape if results else None
            self._journal.restored(job, size, seconds, faces)

    def _fail(self, job: Job, error: Exception) -> None:
        """Note why a job failed; raise `error` instead if it is a bug."""
        if is_memory(error):
            advice = "memory does not suffice; give a lower --memory-gb, --upscale or --precision, or crop the image"
            self._journal.failed(job, f"{job.path}: {advice}")
        elif isinstance(error, EXPECTED):
            named = isinstance(error, ImageFileError)
            self._journal.failed(job, as_flags(str(error)) if named else f"{job.path}: {one_line(error)}")
        else:
            raise error


def is_memory(error: BaseException) -> bool:
    """Whether the host or an accelerator ran out of memory."""
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return exhausted or isinstance(error, MemoryError)


def held(restored: Restored) -> int:
    """Return the number of pixels that a result keeps in memory."""
    return sum(image.shape[0] * image.shape[1] for image in restored if image is not None)


class _Leave:
    """Called when the run ends early: from then on Ctrl-C ends the process at once and SIGTERM is ignored."""

    def __call__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def interruptible() -> Iterator[_Leave]:
    """Within this context SIGTERM raises KeyboardInterrupt, too."""
    if threading.current_thread() is not threading.main_thread():
        yield _Leave()
        return

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, told.interrupt)
    try:
        yield _Leave()
    finally:
        told.asked = False
        for number, handler in before.items():
            signal.signal(number, handler)
