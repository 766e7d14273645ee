"""The messages of a run: a bar, a line per file, a summary at the end, a report for programs."""

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from diffbir_jax.batch.ends import Ends
from diffbir_jax.batch.jobs import Job
from diffbir_jax.console.meter import Meter
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.console.plain import counted, plain
from diffbir_jax.faces.reports import FaceReport, FacesRecord, faces_record
from diffbir_jax.restoration.effort import Costs
from diffbir_jax.restoration.results import STAGE_NAMES, Progress


class Journal:
    """Records and shows the outcome of every job; threads may share it. A context manager, for its progress bar."""

    def __init__(
        self,
        jobs: Sequence[Job],
        skipped: Sequence[Job] = (),
        others: Sequence[Path] = (),
        ends: Ends | None = None,
    ):
        """Take the jobs to do, the jobs that are already done, files that are no images, and where files go."""
        self._ends = ends or Ends()
        self._jobs, self._skipped, self._others = jobs, skipped, others
        self._notes: list[tuple[str, str]] = []
        self._restored: dict[Job, float] = {}
        self._faces: dict[Job, FacesRecord] = {}
        self._failed: dict[Job, str] = {}
        self._lock = threading.Lock()
        self._costs: Costs = {}
        self._work: dict[str, float] = {}
        self._before = 0  # tiles of the present stage that are counted
        self.interrupted = False
        self.meter = Meter("restoring")

    def __enter__(self) -> "Journal":
        self.meter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.meter.__exit__(kind, error, trace)

    def expect(self, costs: Costs, work: Mapping[str, float]) -> None:
        """Take how many operations a pixel takes in each stage, and all images of a recipe together."""
        self._costs = {**self._costs, **costs}
        self.expect_more(work)

    def expect_more(self, work: Mapping[str, float]) -> None:
        """Take work that shows up on the way, such as faces."""
        for stage, more in work.items():
            self._work[stage] = self._work.get(stage, 0.0) + more
        self.meter.expect(self._work)

    def listen(self, progress: Progress) -> None:
        """Show how far a stage is."""
        stage, done, total, pixels = progress
        if done == 0:
            self._before = 0
            self.meter.begin(self._doing(stage, total), stage)
            return
        self.meter.step(stage, (done - self._before) * pixels * self._costs.get(stage, 0.0))
        self._before = done

    def _doing(self, stage: str, tiles: int) -> str:
        finished = len(self._restored) + len(self._failed)
        cut = f" of {tiles} tiles" if tiles > 1 else ""
        return f"{finished} of {counted(len(self._jobs), 'image')} done, {STAGE_NAMES[stage]}{cut}"

    def restored(
        self,
        job: Job,
        size: Sequence[int] | None,
        seconds: float,
        faces: Sequence[FaceReport] | None = None,
    ) -> None:
        """Note that all files of a job are written.

        Args:
            job: the job.
            size: (height, width) of the result; None without one.
            seconds: the job's share of the time of computing.
            faces: of the photo; None without --task faces.
        """
        with self._lock:
            self._restored[job] = seconds
            told = [] if size is None else [f"{size[1]}x{size[0]}"]
            told += [f"{seconds:.1f} s"]
            if faces is not None:
                # Without the crops, which take megabytes.
                self._faces[job] = faces_record(faces, bool(job.outputs.results))
                told += [self._faces[job]["found"]]
            tqdm.write(plain("  ".join([self._shown(job), *told])))

    def _shown(self, job: Job) -> str:
        """What stands for a job on the screen: the last result, whose number tells how many there are, or crops."""
        if job.outputs.results:
            return self._name(job.outputs.results[-1])
        return f"{self._name(job.outputs.crops)}_*" if self._wrote(job) else self._name(job.path)

    def _name(self, path: Path | None) -> str:
        return self._ends.named(str(path))

    def _wrote(self, job: Job) -> bool:
        """Whether there are pictures of a job: without background and without a face there is none."""
        faces = self._faces.get(job, {"faces": []})["faces"]
        return bool(job.outputs.results) or any(not face["left"] for face in faces)

    def failed(self, job: Job, reason: str) -> None:
        """Note why a job failed, and print the reason to the error stream."""
        reason = self._ends.named(reason)
        with self._lock:
            self._failed[job] = reason
            complain(reason)

    def say(self, job: Job, text: str) -> None:
        """Print a line about an input."""
        with self._lock:
            tqdm.write(plain(f"{self._name(job.path)}  {text}"))

    def note(self, path: Path, notes: Iterable[str]) -> None:
        """Print what a user should know of a file that was read or written nevertheless."""
        with self._lock:
            for text in notes:
                self._notes.append((self._name(path), text))
                complain(f"warning: {self._name(path)}: {text}")

    def check(self) -> None:
        """Note as failed what was written and is there no more: somebody removed it, or its folder, meanwhile."""
        for job in [job for job in self._restored if not self._ends.is_done(job)]:
            del self._restored[job]
            self.failed(job, f"{job.path}: its result was written and is gone; restore it again")

    @property
    def left(self) -> list[Job]:
        """Jobs without an outcome so far."""
        return [job for job in self._jobs if job not in self._restored and job not in self._failed]

    @property
    def exit_code(self) -> int:
        """0 if all jobs succeeded, 1 if one failed, INTERRUPTED after an interruption."""
        return INTERRUPTED if self.interrupted else int(bool(self._failed))

    def show(self) -> None:
        """Print the summary."""
        if self.left:
            why = "interrupted" if self.interrupted else "stopped by an error"
            left = f"{len(self.left)} of {len(self._jobs)} images left"
            complain(f"{why}, {left}; the same command with --skip-existing goes on")
        skipped = f", {len(self._skipped)} skipped" if self._skipped else ""
        print(f"{len(self._restored)} restored, {len(self._failed)} failed{skipped}")
        # A single reason has just been shown.
        for reason in self._failed.values() if len(self._jobs) > 1 else ():
            print(f"  {plain(reason)}")

    def as_record(self) -> dict[str, object]:
        """Return the summary in a form that JSON can hold."""
        return {
            "restored": [
                {
                    "input": self._name(job.path),
                    "result": self._name(job.outputs.main) if self._wrote(job) else None,
                    "seconds": round(seconds, 3),
                }
                | self._faces.get(job, {})
                for job, seconds in self._restored.items()
            ],
            "skipped": [self._name(job.path) for job in self._skipped],
            "failed": [
                {"input": self._name(job.path), "reason": reason} for job, reason in self._failed.items()
            ],
            "left": [self._name(job.path) for job in self.left],
            "no_images": [self._name(path) for path in self._others],
            "warnings": [{"file": path, "text": text} for path, text in self._notes],
            "interrupted": self.interrupted,
        }


def report_path(path: Path, hosts: int, host_index: int) -> Path:
    """Return where a host writes its report: each of several hosts has its own file."""
    return path if hosts == 1 else path.with_name(f"{path.stem}.{host_index}{path.suffix}")


def complain(message: object) -> None:
    """Print a line to the error stream without breaking the progress bar."""
    tqdm.write(f"diffbir restore: {plain(message)}", file=sys.stderr)
