"""The application: what clients can ask of the service by HTTP."""

import json
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import anyio
from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field, JsonValue
from starlette.exceptions import HTTPException

from diffbir_jax import __version__
from diffbir_jax.batch.settings import Recipe, as_record
from diffbir_jax.console.errors import UserError, one_line
from diffbir_jax.imaging.photo import MIN_SIDE
from diffbir_jax.restoration.names import AUTO_VERSION
from diffbir_jax.serve.engine import BUG, Engine
from diffbir_jax.serve.guard import Guard
from diffbir_jax.serve.jobs import Job, Result
from diffbir_jax.serve.networks import scaled
from diffbir_jax.serve.refusals import FullError, Refusal
from diffbir_jax.serve.results import Sent, check_size, job_of
from diffbir_jax.serve.watching import events, over_or_gone, state_of
from diffbir_jax.serve.wishes import Wish, faces_of, plain_name, read_wish

# Uploads decoded at once, and forecasts that may wait.
DECODED, FORECASTS = 2, 8
# Bytes of the largest sidecar in a header: servers and proxies allow 8 KiB for all headers together.
HEADER = 6000
SEVERAL = "several pictures come as parts (Accept: multipart/mixed), or ask for a job (?job=1)"
# What `options` holds, in OpenAPI's words.
OPTIONS: dict[str, JsonValue] = {
    "description": "JSON: entries of a sidecar's parameters, and `auto`; or a sidecar",
    "contentMediaType": "application/json",
    "contentSchema": {
        "type": "object",
        "properties": {
            "auto": {
                "type": "boolean",
                "default": False,
                "description": "estimate how the picture was degraded and choose its settings; for one-step",
            }
        },
        "additionalProperties": True,
    },
}
# What a client that left would get; no client sees it.
LEFT = 499


class Estimate(BaseModel):
    """A picture whose time and memory a client wants to know."""

    width: Annotated[int, Field(ge=MIN_SIDE, le=2**17)]
    height: Annotated[int, Field(ge=MIN_SIDE, le=2**17)]
    options: dict[str, object] = {}


class Service:
    """The engine with what coroutines share."""

    def __init__(self, engine: Engine, bases: Mapping[str, Recipe]):
        """Take the engine and, by version, the recipe without a client's changes."""
        self.engine, self.bases = engine, bases
        self.faces = any(faces_of(version) in engine.works for version in bases)
        self._decoding, self._forecasting = anyio.CapacityLimiter(DECODED), anyio.CapacityLimiter(1)
        self._forecasts = 0

    def wish(self, options: str, name: str = "", mask: bool = False) -> Wish:
        """Return what a client asks for, with or without a mask; Refusal for what no job can have."""
        wish = read_wish(options, plain_name(name), self.bases, self.faces, mask)
        try:
            self.engine.works[wish.networks].check(wish)
        except Refusal:
            raise
        except UserError as error:
            raise Refusal(f"options: {one_line(error)}") from None
        return wish

    async def accept(
        self, image: UploadFile, mask: UploadFile | None, options: str, owner: str, one: bool, **more: bool
    ) -> Job:
        """Read an upload and submit its job; Refusal if it is none, or has several results and only `one` is taken."""
        async with self._decoding:
            files = await _sent(image), None if mask is None else await _sent(mask)
            job = await anyio.to_thread.run_sync(self._job, *files, options, owner, more)
        if one and job.wish.recipe.n_samples > 1:
            raise Refusal(f"options: `n_samples` is {job.wish.recipe.n_samples}; {SEVERAL}")
        return self.engine.submit(job)

    def _job(self, image: Sent, mask: Sent | None, options: str, owner: str, more: dict[str, bool]) -> Job:
        wish = self.wish(options, image.name, mask is not None)
        return job_of(image, mask, wish, self.engine.limits, owner, **more)

    async def forecast(self, asked: Estimate) -> dict[str, object]:
        """Return the expected time and memory of a picture; Refusal if it is too large, or many are asked for."""
        wish, size = self.wish(json.dumps(asked.options)), (asked.height, asked.width)
        check_size(wish, size, self.engine.limits)
        if self._forecasts >= FORECASTS:
            raise FullError("many estimates are asked for; try again later")
        self._forecasts += 1
        try:
            course = await anyio.to_thread.run_sync(self.engine.course, wish, size, limiter=self._forecasting)
        finally:
            self._forecasts -= 1
        height, width = scaled(size, wish.recipe.upscale)
        # Only the faces of a picture tell how much work they are.
        seconds = self.engine.rates.seconds(course.work) if course.work else None
        return {"seconds": seconds, "bytes": course.peak, "width": width, "height": height}


def create_app(
    engine: Engine,
    bases: Mapping[str, Recipe],
    keys: Mapping[str, str] | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        engine: restores.
        bases: by version, the recipe without a client's changes; the first is the default.
        keys: names by API key; none lets everybody in.
        hosts: names that requests may call the service, or None for any.
    """
    # The pages of documentation that FastAPI has load scripts from elsewhere.
    app = FastAPI(title="diffbir", version=__version__, docs_url=None, redoc_url=None)
    service = Service(engine, bases)
    _add_errors(app)
    _add_restoring(app, service)
    _add_jobs(app, engine)
    _add_health(app, service)
    app.add_middleware(
        Guard, limits=engine.limits, keys=keys or {}, hosts=hosts, check_room=engine.check_room
    )
    return app


def _add_errors(app: FastAPI) -> None:
    """Every error is one line of JSON."""

    def told(status: int, text: str) -> JSONResponse:
        headers = {"Retry-After": "5"} if status in (429, 503) else None
        return JSONResponse({"detail": " ".join(text.split())}, status, headers)

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return told(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        return told(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return told(422, f"{place}: {first['msg']}".removeprefix(": "))

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return told(500, BUG)


def _add_restoring(app: FastAPI, service: Service) -> None:
    engine = service.engine

    @app.post("/restore", responses={200: {"content": {"image/*": {}, "multipart/mixed": {}}}, 202: {}})
    async def restore(
        request: Request,
        image: Annotated[UploadFile, File(description="a picture of any common format")],
        options: Annotated[str, Form(json_schema_extra=OPTIONS)] = "",
        fidelity_mask: Annotated[
            UploadFile | None,
            File(description="a picture of the same proportions: white keeps guidance, black frees stage 2"),
        ] = None,
        job: bool = False,
        views: bool = False,
    ) -> Response:
        """Restore a picture.

        The answer is the picture, with its sidecar in the header Diffbir-Sidecar; with `Accept: multipart/mixed`
        sidecar, all samples and their map as parts. With ?job=1 it is the state of a job, at once.
        """
        owner, parts = request.state.owner, "multipart/mixed" in request.headers.get("accept", "")
        one = not (job or parts)
        found = await service.accept(image, fidelity_mask, options, owner, one, views=views, waits=not job)
        if job:
            place = {"Location": f"/jobs/{found.id}"}
            return JSONResponse(state_of(found, engine), 202, place)
        if not await over_or_gone(found, request.receive):
            engine.cancel(found)
            return Response(status_code=LEFT)
        result = _result(found)
        engine.deliver(found, result.files)
        return _parts(result) if parts else _picture(result)

    @app.post("/estimate")
    async def estimate(asked: Estimate) -> dict[str, object]:
        """Return the seconds and the bytes of memory that a picture takes.

        The seconds are null before anything was computed, and for pictures with faces, which are not counted yet.
        """
        return await service.forecast(asked)


def _add_jobs(app: FastAPI, engine: Engine) -> None:
    @app.get("/jobs/{identity}")
    async def state(request: Request, identity: str) -> dict[str, object]:
        """Return how far a job is."""
        return state_of(engine.find(identity, request.state.owner), engine)

    @app.delete("/jobs/{identity}")
    async def cancel(request: Request, identity: str) -> dict[str, object]:
        """Cancel a job, or drop its result."""
        job = engine.find(identity, request.state.owner)
        engine.cancel(job)
        return state_of(job, engine)

    @app.get("/jobs/{identity}/events")
    async def follow(request: Request, identity: str) -> StreamingResponse:
        """Follow a job by server-sent events: its state after each change."""
        job = engine.find(identity, request.state.owner)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(job, engine), 200, headers, "text/event-stream")

    @app.get("/jobs/{identity}/result")
    async def result(request: Request, identity: str) -> Response:
        """Return the picture of a job that is done."""
        job = engine.find(identity, request.state.owner)
        found = _result(job)
        engine.deliver(job, found.pictures[:1])
        return _picture(found)

    @app.get("/jobs/{identity}/results/{which}")
    async def sample(request: Request, identity: str, which: str) -> Response:
        """Return a sample of a job that is done, 1 or more, or the map of their differences, std."""
        job = engine.find(identity, request.state.owner)
        found = _result(job)
        known = {str(number): file for number, file in enumerate(found.pictures, 1)}
        known |= {} if found.deviation is None else {"std": found.deviation}
        if which not in known:
            raise HTTPException(404, f"there is no such result; there are {', '.join(known)}")
        engine.deliver(job, [known[which]])
        return Response(known[which].data, media_type=known[which].media, headers=_named(known[which].name))

    @app.get("/jobs/{identity}/sidecar")
    async def sidecar(request: Request, identity: str) -> Response:
        """Return how the picture was made, for diffbir restore --from-sidecar."""
        found = _result(engine.find(identity, request.state.owner))
        name = f"{Path(str(found.sidecar['name'])).stem}.json"
        return JSONResponse(found.sidecar, headers=_named(name))

    @app.get("/jobs/{identity}/views/{view}")
    async def view(request: Request, identity: str, view: str) -> Response:
        """Return a JPEG file of input, stage1, result (result2 ... of samples) or std.

        The job must have been sent with ?views=1.
        """
        found = _result(engine.find(identity, request.state.owner))
        if view not in found.views:
            raise HTTPException(404, f"there is no such view; there are {', '.join(found.views) or 'none'}")
        return Response(found.views[view], media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, object]:
        """Return whether the service takes jobs."""
        return {"status": "stopping" if service.engine.closed else "ok", "versions": [*service.bases]}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return numbers for Prometheus."""
        return Response(service.engine.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/about")
    async def about() -> dict[str, object]:
        """Return versions with their parameters, what has faces and `auto`, and limits."""
        limits = service.engine.limits
        bounds = {
            name: getattr(limits, name)
            for name in ("pixels", "output_pixels", "samples", "upload_bytes", "expiry")
        }
        versions = {name: as_record(base) for name, base in service.bases.items()}
        auto = [version for version in versions if version == AUTO_VERSION]
        return {"versions": versions, "faces": service.faces, "auto": auto, "limits": bounds}


async def _sent(file: UploadFile) -> Sent:
    return Sent(await file.read(), plain_name(file.filename))


def _result(job: Job) -> Result:
    """The result of a job; HTTPException if there is none."""
    if job.state == "done" and job.result is not None:
        return job.result
    if job.over:
        raise HTTPException(job.status if job.error else 410, job.error or "the result is no longer kept")
    raise HTTPException(409, f"the job is {job.state}; follow it by /jobs/ID/events")


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}", "Cache-Control": "no-store"}


def _picture(result: Result) -> Response:
    text = json.dumps(result.sidecar, separators=(",", ":"))
    sidecar, first = {"Diffbir-Sidecar": text} if len(text) <= HEADER else {}, result.pictures[0]
    return Response(first.data, media_type=first.media, headers=_named(first.name) | sidecar)


def _parts(result: Result) -> Response:
    """Sidecar, pictures and map as the parts of one answer."""
    mark = secrets.token_hex(16)
    text = json.dumps(result.sidecar).encode()
    parts = (("application/json", text), *((file.media, file.data) for file in result.files))
    body = b"".join(
        f"--{mark}\r\nContent-Type: {media}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
        for media, data in parts
    )
    return Response(body + f"--{mark}--\r\n".encode(), media_type=f"multipart/mixed; boundary={mark}")
