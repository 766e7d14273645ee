"""A pack on the device: jobs that are computed side by side, and how far they are."""

import time
from collections.abc import Iterator, Sequence

from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.results import Progress
from diffbir_jax.serve.jobs import Job
from diffbir_jax.serve.networks import Course
from diffbir_jax.serve.rates import Rates


class AbandonedError(Exception):
    """Nobody waits for any job of the pack any more."""


class Pack:
    """Jobs that are computed together."""

    def __init__(self, jobs: Sequence[Job], requests: list[Request], course: Course, rates: Rates):
        """Take the jobs with their pictures, how they are computed, and what learns from their times."""
        self.jobs, self.course, self._requests, self._rates = jobs, course, requests, rates
        self._stages: dict[str, float] = {}
        self._past: dict[str, int] = {}
        self._last, self._before = time.perf_counter(), 0

    def take(self) -> Iterator[Request]:
        """Hand over the pictures; nothing else holds them then."""
        while self._requests:
            yield self._requests.pop(0)

    def listen(self, progress: Progress) -> None:
        """Note how far the pack is; AbandonedError if all its jobs are over."""
        if all(job.over for job in self.jobs):
            raise AbandonedError
        self._measure(progress)
        share, left = self._share(progress)
        for job in self.jobs:
            if not job.over:
                job.stage, job.done, job.total = progress.stage, progress.done, progress.total
                job.share, job.left = max(job.share, share), left
                job.tell()

    def _measure(self, progress: Progress) -> None:
        """Learn the rate of a stage from the time since the last report."""
        now, stage = time.perf_counter(), progress.stage
        if progress.done == 0 and stage in self._stages:
            self._past[stage] = self._past.get(stage, 0) + 1
        if progress.done > self._before:
            part = (progress.done - self._before) / max(1, progress.total) / self._passes(stage)
            self._rates.learn(stage, part * self._work(stage), now - self._last)
        self._last, self._before = now, progress.done

    def _passes(self, stage: str) -> int:
        return self.course.passes.get(stage, 1)

    def _work(self, stage: str) -> float:
        return len(self.jobs) * self.course.work.get(stage, 0.0)

    def _share(self, progress: Progress) -> tuple[float, float | None]:
        """The share of the work that is done, by the time that it takes, and the seconds left."""
        self._stages[progress.stage] = progress.done / max(1, progress.total)
        work = {stage: self._work(stage) for stage in self.course.work}
        done = {stage: amount * self._finished(stage) for stage, amount in work.items()}
        whole, past = self._rates.seconds(work), self._rates.seconds(done)
        if not whole or past is None:
            return 0.0, None
        return min(1.0, past / whole), max(0.0, whole - past)

    def _finished(self, stage: str) -> float:
        """The share of a stage that is done; of stages before the present one, those without reports are whole."""
        order = list(self.course.work)
        present = max((order.index(name) for name in self._stages if name in order), default=0)
        if stage not in self._stages:
            return 1.0 if stage in order[:present] else 0.0
        return min(1.0, (self._past.get(stage, 0) + self._stages[stage]) / self._passes(stage))
