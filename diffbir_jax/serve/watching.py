"""Jobs as coroutines see them: the engine's threads tell of changes, the event loop waits for them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from starlette.types import Receive

from diffbir_jax.restoration.results import STAGE_NAMES
from diffbir_jax.serve.engine import Engine
from diffbir_jax.serve.jobs import Job

# Seconds between two events at least, and at most: proxies close what is silent.
LEAST, MOST = 0.1, 15.0


class Watch:
    """A context in which changes of a job wake a coroutine."""

    def __init__(self, job: Job):
        """Take the job."""
        self._job, self._event = job, asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> "Watch":
        self._job.listeners.append(self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        self._job.listeners.remove(self._tell)

    def _tell(self) -> None:
        """Called in any thread; at the end of the service the loop may be closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def changed(self, seconds: float | None = None) -> bool:
        """Wait for a change since the last one; False if there is none for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


async def over(job: Job) -> None:
    """Wait until a job is over."""
    with Watch(job) as watch:
        while not job.over:
            await watch.changed()


async def gone(receive: Receive) -> None:
    """Wait until the client of a request leaves; `receive` is ASGI's."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def over_or_gone(job: Job, receive: Receive) -> bool:
    """Wait for the end of a job or the departure of its client; whether the job is over."""
    tasks = [asyncio.create_task(over(job)), asyncio.create_task(gone(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return job.over


def state_of(job: Job, engine: Engine) -> dict[str, object]:
    """Return what a client is told of a job, as JSON can hold it."""
    told: dict[str, object] = {"id": job.id, "state": job.state, "name": job.wish.name}
    if job.state == "waiting":
        told["before"] = engine.before(job)
    if job.state == "running":
        told |= {"stage": STAGE_NAMES.get(job.stage, ""), "done": job.done, "total": job.total}
        told |= {"share": round(job.share, 3), "left": None if job.left is None else round(job.left, 1)}
    if job.state == "done":
        told |= {"share": 1.0, "result": f"/jobs/{job.id}/result", "sidecar": f"/jobs/{job.id}/sidecar"}
        told |= _several(job)
    if job.wish.decision is not None:
        told["auto"] = {**job.wish.decision.as_record(), "text": str(job.wish.decision)}
    if job.error:
        told["error"] = job.error
    return told


def _several(job: Job) -> dict[str, object]:
    """Where the files of a job with several samples are; nothing for a single result."""
    recipe = job.wish.recipe
    if recipe.n_samples == 1:
        return {}
    numbers = range(1, recipe.n_samples + 1)
    told: dict[str, object] = {"results": [f"/jobs/{job.id}/results/{number}" for number in numbers]}
    return told | ({"std": f"/jobs/{job.id}/results/std"} if recipe.std_map else {})


async def events(job: Job, engine: Engine) -> AsyncIterator[str]:
    """Yield server-sent events, one per change, until the job is over."""
    with Watch(job) as watch:
        while True:
            yield f"data: {json.dumps(state_of(job, engine))}\n\n"
            if job.over:
                return
            await asyncio.sleep(LEAST)
            while not await watch.changed(MOST):
                yield ": still there\n\n"
