"""The engine: one thread owns the device, takes waiting jobs in packs, and puts results into memory.

The order is that of acceptance. The oldest job decides what is computed next. Jobs of its shape and options go with it,
up to a pack; for these it waits a short time.
"""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from diffbir_jax.batch.drive import is_memory
from diffbir_jax.console.errors import UserError, one_line
from diffbir_jax.serve.jobs import File, Finished, Job, State
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.metrics import Metrics
from diffbir_jax.serve.networks import Course, Works
from diffbir_jax.serve.packs import AbandonedError, Pack
from diffbir_jax.serve.rates import Rates
from diffbir_jax.serve.refusals import FullError, Refusal, StoppingError, UnknownJobError
from diffbir_jax.serve.results import decided, finished, request_of
from diffbir_jax.serve.wishes import Wish

# Threads that encode results, and results that may wait for them.
WRITERS = 2
# Seconds between two looks for jobs whose time is over.
LOOK = 0.5
# Seconds that the end waits for the device, which stops at its next batch of tiles.
PATIENCE = 30.0
BUG = "internal error; the log of the service has more"
HANDED_BACK = "the service stopped before this job was done; send it again"


class Engine:
    """Accepts jobs, computes them, and keeps their results. Threads may share it."""

    def __init__(
        self,
        works: Mapping[str, Works],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Start the worker.

        Args:
            works: the networks by their names, see `Wish.networks`.
            limits: bounds of the service.
            clock: returns seconds.
        """
        self.works, self.limits, self.metrics, self.rates = works, limits, Metrics(), Rates()
        self._clock, self._changed = clock, threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._closed = False
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")
        self._room = threading.Semaphore(2 * WRITERS)
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self._worker.start()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    # What clients ask.

    def check_room(self, owner: str = "") -> None:
        """Raise FullError or StoppingError if a job would be refused, before its picture is read."""
        with self._changed:
            self._check_room(owner, 0)

    def _check_room(self, owner: str, pixels: int) -> None:
        if self._closed:
            raise StoppingError("the service stops and takes no more jobs; try again later")
        held = sum(job.held for job in self._queue)
        own = sum(job.owner == owner for job in self._queue)
        if len(self._queue) >= self.limits.queue or (self._queue and held + pixels > self.limits.held_pixels):
            raise FullError(f"the queue is full ({len(self._queue)} jobs wait); try again later")
        if own >= self.limits.per_client:
            raise FullError(f"{own} of your jobs wait, and no more are allowed; try again later")

    def submit(self, job: Job) -> Job:
        """Accept a job.

        Raises:
            FullError, StoppingError: there is no room, or the service stops.
        """
        with self._changed:
            try:
                self._check_room(job.owner, job.held)
            except Refusal:
                self.metrics.refused()
                raise
            job.accepted = self._clock()
            self._jobs[job.id] = job
            self._queue.append(job)
            self.metrics.accepted()
            self.metrics.waiting(len(self._queue))
            self._changed.notify_all()
        return job

    def find(self, identity: str, owner: str = "") -> Job:
        """Return a job of a client; UnknownJobError if this client has none of this name."""
        with self._changed:
            job = self._jobs.get(identity)
        if job is None or job.owner != owner:
            raise UnknownJobError(f"there is no such job; results are kept for {self.limits.expiry:.0f} s")
        return job

    def before(self, job: Job) -> int:
        """Return how many jobs wait in front of a job."""
        with self._changed:
            return self._queue.index(job) if job in self._queue else 0

    def cancel(self, job: Job) -> None:
        """End a job that nobody wants any more; its result, if there is one, is dropped."""
        with self._changed:
            self._end(job, "cancelled", "the job was cancelled", 410)
            job.result = None

    def deliver(self, job: Job, files: Iterable[File]) -> None:
        """Note that a client has these files; a client on the line gets them once."""
        with self._changed:
            job.fetched |= {file.name for file in files}
            if job.waits:
                job.result = None

    def course(self, wish: Wish, size: tuple[int, int]) -> Course:
        """Return how a picture of this height and width is computed; see `Networks.course`."""
        return self.works[wish.networks].course(wish, size, False)

    # The end of the service.

    def close(self) -> None:
        """Take no more jobs; those that are accepted go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it takes no more jobs."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether no accepted job is left to do."""
        with self._changed:
            return all(job.over for job in self._jobs.values())

    @property
    def collected(self) -> bool:
        """Whether every client has its files."""
        with self._changed:
            return all(job.collected for job in self._jobs.values())

    def hand_back(self) -> list[Job]:
        """End all jobs that are not done, and return them."""
        with self._changed:
            left = [job for job in self._jobs.values() if not job.over]
            for job in left:
                self._end(job, "failed", HANDED_BACK, 503)
        return left

    def stop(self) -> list[Job]:
        """Close, hand back what is not done, and end the threads; returns what `hand_back` does."""
        self.close()
        left = self.hand_back()
        self._over.set()
        self._worker.join(PATIENCE)
        self._writers.shutdown()
        return left

    # The worker.

    def _work(self) -> None:
        while (head := self._head()) is not None:
            try:
                self._decide(head)
                course = self._works(head).course(head.wish, head.size, head.views)
                self._decide_next(course.pack)
                self._compute(self._pack(head, course))
            except Exception as error:
                self._fail(head, error)

    def _decide(self, job: Job) -> None:
        """Settle the wish of a picture that is left to `auto`, unless the job is over."""
        with self._changed:
            wish, photo, data = job.wish, job.photo, job.data
        if wish.given is None or photo is None:
            return
        wish = decided(wish, photo, data)
        with self._changed:
            job.wish, job.data = wish, data if wish.recipe.copied and not job.over else None
            job.tell()

    def _decide_next(self, count: int) -> None:
        """Settle the wishes of the first jobs, which may then go in one pack."""
        with self._changed:
            jobs = self._queue[:count]
        for job in jobs:
            try:
                self._decide(job)
            except Exception as error:
                self._fail(job, error)

    def _works(self, job: Job) -> Works:
        return self.works[job.wish.networks]

    def _head(self) -> Job | None:
        """Wait for the oldest job; None at the end of the service."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return self._queue[0] if self._queue else None

    def _pack(self, head: Job, course: Course) -> Pack:
        """Wait until a pack is full or the patience of the oldest job is over; take its jobs out of the queue."""
        works, end = self._works(head), head.accepted + self.limits.patience

        def fits(job: Job) -> bool:
            alike = (job.wish.alike, job.views) == (head.wish.alike, head.views)
            return (
                alike and job.wish.given is None and works.shape(job.wish, job.size, course) == course.shape
            )

        def full() -> bool:
            return self._closed or head.over or sum(map(fits, self._queue)) >= course.pack

        with self._changed:
            if course.pack > 1:
                self._changed.wait_for(full, max(0.0, end - self._clock()))
            jobs = [job for job in self._queue if job is head or fits(job)][: course.pack]
            self._start(jobs)
            return Pack(jobs, [request_of(job) for job in jobs], course, self.rates)

    def _start(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._queue.remove(job)
            job.state, job.started = "running", self._clock()
            self.metrics.started(job.started - job.accepted)
            job.tell()
        self.metrics.waiting(len(self._queue))

    def _compute(self, pack: Pack) -> None:
        if not pack.jobs:
            return
        begin, jobs, recipe = time.perf_counter(), pack.jobs, pack.jobs[0].wish.recipe
        try:
            works, course = self._works(jobs[0]), self._course(pack)
            with contextlib.suppress(AbandonedError):
                for outcome in works.restore(pack.take(), recipe, course, jobs[0].views, pack.listen):
                    job = jobs[outcome.position]
                    if outcome.error is not None:
                        self._fail(job, outcome.error)
                        continue
                    seconds = time.perf_counter() - begin
                    self._write(Finished(job, outcome.results, course, seconds, outcome.about))
        except Exception as error:
            for job in jobs:
                self._fail(job, error)
        self.metrics.computed(len(jobs), time.perf_counter() - begin)

    def _course(self, pack: Pack) -> Course:
        """How the pictures of a pack are computed; several may need other programs than one."""
        head, course = pack.jobs[0], pack.course
        if len(pack.jobs) == 1:
            return course
        return course._replace(plan=self._works(head).packed(head.wish, head.size, head.views))

    def _write(self, made: Finished) -> None:
        """Have a result encoded in another thread, once there is room."""
        self._room.acquire()
        self._writers.submit(self._encode, made)

    def _encode(self, made: Finished) -> None:
        job = made.job
        try:
            with self._changed:
                photo, data = job.photo, job.data
            if photo is None:  # the job is over
                return
            result = finished(made, photo, self._works(job).files, data)
            with self._changed:
                if not job.over:
                    job.result, job.share, job.left = result, 1.0, 0.0
                    self._end(job, "done")
                    self._drop()
        except Exception as error:
            self._fail(job, error)
        finally:
            self._room.release()

    # The end of jobs.

    def _fail(self, job: Job, error: BaseException) -> None:
        """Note why a job failed. A bug is told to the log, not to the client."""
        if is_memory(error):
            text, status = "the memory does not suffice; give a lower `upscale`, or a smaller picture", 413
        elif isinstance(error, UserError):
            text, status = one_line(error), error.status if isinstance(error, Refusal) else 422
        else:
            traceback.print_exception(error, file=sys.stderr)
            text, status = BUG, 500
        with self._changed:
            self._end(job, "failed", text, status)

    def _end(self, job: Job, state: State, error: str = "", status: int = 500) -> None:
        """End a job, unless it is over."""
        if job.over:
            return
        if job in self._queue:
            self._queue.remove(job)
            self.metrics.waiting(len(self._queue))
        job.state, job.error, job.status, job.ended = state, error, status, self._clock()
        job.photo = job.mask = job.data = None
        self.metrics.ended(state, job.ended - job.accepted)
        job.tell()
        self._changed.notify_all()

    def look(self) -> None:
        """End jobs whose time is over, and drop old results; the engine does so by itself, twice a second."""
        now = self._clock()
        with self._changed:
            for job in [*self._jobs.values()]:
                if now - job.accepted > self.limits.timeout:
                    self._end(job, "failed", f"not done within {self.limits.timeout:.0f} s", 504)
                if job.ended is not None and now - job.ended > self.limits.expiry:
                    del self._jobs[job.id]
            self._drop()

    def _drop(self) -> None:
        """Drop the oldest results beyond what is kept."""
        ended = [job for job in self._jobs.values() if job.over]
        ended.sort(key=lambda job: job.ended or 0.0)
        kept = sum(job.result.bytes for job in ended if job.result)
        while ended and (kept > self.limits.kept_bytes or len(ended) > self.limits.kept_jobs):
            oldest = ended.pop(0)
            kept -= oldest.result.bytes if oldest.result else 0
            del self._jobs[oldest.id]
        self.metrics.kept(kept)

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            self.look()
