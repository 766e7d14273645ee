"""The engine: packs, order, bounds, cancellation, times and the end, with a restorer that waits for the test."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.batch.jobs import noise_index
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.restoration.results import Progress
from diffbir_jax.serve.engine import BUG, HANDED_BACK, Engine
from diffbir_jax.serve.jobs import Job
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.networks import Course
from diffbir_jax.serve.packs import Pack
from diffbir_jax.serve.rates import Rates
from diffbir_jax.serve.refusals import FullError, StoppingError, UnknownJobError
from diffbir_jax.serve.wishes import base_recipe, read_wish
from tests.micro import picture
from tests.serve.fake import FakeWorks

BASES = {"one-step": base_recipe("one-step")}


class Bench:
    """An engine with a clock that the test turns."""

    def __init__(self, **limits: float):
        self.now, self.works = 0.0, FakeWorks()
        self.engine = Engine({"one-step": self.works}, Limits(**limits), lambda: self.now)

    def job(self, index: int, side: int = 16, seed: int = 0, owner: str = "", waits: bool = False) -> Job:
        wish = read_wish(f'{{"upscale": 1, "options": {{"seed": {seed}}}}}', "a.png", BASES)
        photo = Photo(picture(side, side, index))
        return Job(wish._replace(index=index), photo, {}, owner, waits=waits)

    def submit(self, *arguments: int, **more: object) -> Job:
        return self.engine.submit(self.job(*arguments, **more))

    def busy(self) -> Job:
        """A job that the device is busy with until the gate opens."""
        job = self.submit(99, 200)
        assert self.works.begun.wait(30)
        return job

    def finish(self, *jobs: Job) -> None:
        self.works.gate.set()
        for job in jobs:
            wait(job)


def wait(job: Job) -> None:
    over = threading.Event()
    job.listeners.append(lambda: over.set() if job.over else None)
    assert job.over or over.wait(30)


@pytest.fixture
def bench() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.works.gate.set()
    found.engine.stop()


def test_jobs_of_a_shape_share_a_pack_and_the_oldest_comes_first(bench):
    first = bench.busy()
    jobs = [bench.submit(1), bench.submit(2, 100), bench.submit(3, seed=5), bench.submit(4), bench.submit(5)]
    bench.finish(first, *jobs)
    assert bench.works.packs == [[99], [1, 4], [2], [3], [5]]
    assert all(job.state == "done" and job.share == 1.0 for job in jobs)


def test_a_lonely_job_waits_for_no_company_once_its_patience_is_over(bench):
    """The clock stands still until the job is there, so the wait is that of the limits."""
    bench.works.gate.set()
    job = bench.submit(1)
    wait(job)
    assert bench.works.packs == [[1]] and job.result.pictures[0].name == "a.png"


def test_a_full_queue_refuses_at_once():
    bench = Bench(queue=2, per_client=1, held_pixels=1000)
    first = bench.busy()
    bench.submit(1, owner="anne")
    with pytest.raises(FullError, match="1 of your jobs wait"):
        bench.submit(2, owner="anne")
    with pytest.raises(FullError, match="the queue is full"):
        bench.submit(3, 40, owner="ben")
    bench.submit(4, owner="ben")
    with pytest.raises(FullError, match="2 jobs wait"):
        bench.engine.check_room("carl")
    bench.finish(first)
    assert b"diffbir_refused_total 2.0" in bench.engine.metrics.text()
    bench.engine.stop()


def test_a_cancelled_job_leaves_the_queue_and_its_companion_goes_on(bench):
    first = bench.busy()
    waiting, companion, other = bench.submit(1), bench.submit(2), bench.submit(3, 100)
    bench.engine.cancel(waiting)
    assert waiting.state == "cancelled" and waiting.photo is None and bench.engine.before(companion) == 0
    bench.finish(first, companion, other)
    assert bench.works.packs == [[99], [2], [3]]


def test_the_device_leaves_what_nobody_waits_for(bench):
    """It stops at the next tile. One of two that is cancelled does not stop the other."""
    first = bench.busy()
    one, two = bench.submit(1), bench.submit(2)
    bench.engine.cancel(first)
    bench.works.begun.clear()
    bench.works.gate.set()
    wait(one)
    wait(two)
    assert first.result is None and first.done == 0
    assert one.state == two.state == "done"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("a bug"), 500, BUG),
        (MemoryError(), 413, "memory does not suffice"),
        (RuntimeError(), 500, BUG),
    ],
)
def test_what_fails_fails_alone(bench, error, status, text, capsys):
    bench.works.raises[7] = error
    bad, good = bench.submit(1, seed=7), bench.submit(2)
    bench.finish(bad, good)
    assert (bad.state, bad.status) == ("failed", status) and text in bad.error and good.state == "done"
    assert ("a bug" in capsys.readouterr().err) == (str(error) == "a bug")


def test_times_out_in_the_queue_and_on_the_device(bench):
    first, second = bench.busy(), bench.submit(1)
    bench.now = 3601.0
    bench.engine.look()
    assert [job.status for job in (first, second)] == [504, 504] and "within 3600 s" in first.error
    bench.finish(third := bench.submit(2))
    assert third.state == "done" and bench.works.packs == [[99], [2]]


def test_results_expire(bench):
    bench.finish(job := bench.submit(1))
    bench.now = 3600.0
    bench.engine.look()
    assert bench.engine.find(job.id) is job
    bench.now = 3601.0
    bench.engine.look()
    with pytest.raises(UnknownJobError, match="kept for 3600 s"):
        bench.engine.find(job.id)


def test_the_oldest_results_go_where_there_are_too_many():
    bench = Bench(kept_jobs=3)
    jobs = []
    for number in range(5):
        bench.now = float(number)
        bench.finish(job := bench.submit(number))
        jobs.append(job)
    bench.engine.look()
    assert [*bench.engine._jobs] == [job.id for job in jobs[2:]]
    bench.engine.limits = Limits(kept_bytes=2 * jobs[4].result.bytes)
    bench.engine.look()
    assert [*bench.engine._jobs] == [job.id for job in jobs[3:]]
    bench.engine.stop()


def test_a_result_on_the_line_is_held_once(bench):
    bench.finish(job := bench.submit(1, waits=True))
    bench.engine.deliver(job, job.result.files)
    assert job.result is None and bench.engine.collected


def test_clients_see_their_own_jobs(bench):
    job = bench.submit(1, owner="anne")
    assert bench.engine.find(job.id, "anne") is job
    for owner in ("ben", ""):
        with pytest.raises(UnknownJobError):
            bench.engine.find(job.id, owner)


def test_the_end_finishes_or_hands_back(bench):
    first, waiting = bench.busy(), bench.submit(1)
    bench.engine.close()
    with pytest.raises(StoppingError):
        bench.submit(2)
    assert not bench.engine.idle
    handed = bench.engine.hand_back()
    assert {*handed} == {first, waiting} and all(
        (job.error, job.status) == (HANDED_BACK, 503) for job in handed
    )
    bench.works.gate.set()
    assert bench.engine.idle and bench.engine.stop() == []


def test_progress_rises_and_the_time_left_falls(bench):
    seen = []
    first = bench.busy()
    job = bench.submit(1)
    job.listeners.append(lambda: seen.append((job.share, job.left, job.done)))
    bench.finish(first, job)
    shares = [share for share, _, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0 and {0, 1, 2, 3, 4} <= {done for _, _, done in seen}
    lefts = [left for _, left, done in seen if left is not None and done]
    assert lefts[-1] == 0.0


def test_samples_share_the_progress_of_their_stages(bench):
    """Two samples go twice through sampling and decoding: after the first, half of that is done."""
    course = Course(None, 1, (), 0, {"rm": 1.0, "sample": 6.0, "decode": 1.0}, {"sample": 2, "decode": 2})
    job, rates = bench.job(1), Rates()
    for stage in course.work:
        rates.learn(stage, 1.0, 1.0)
    pack, shares = Pack([job], [], course, rates), []
    for stage in ("rm", "sample", "decode", "sample", "decode"):
        for done in (0, 1):
            pack.listen(Progress(stage, done, 1, 64))
        # What the pack learns from the times of this test.
        rates._rates = dict.fromkeys(course.work, 1.0)
        shares.append(pack._share(Progress(stage, 1, 1, 64))[0])
    assert shares == [1 / 8, 4 / 8, 4.5 / 8, 7.5 / 8, 1.0]


def test_noise_is_that_of_the_name():
    """As in the command: a result is the same alone, in a folder and from the service."""

    wish = read_wish("", "photo.jpg", BASES)
    assert wish.index == noise_index(Path("somewhere/photo.jpg"))
    assert np.isclose(wish.recipe.upscale, 4.0)
