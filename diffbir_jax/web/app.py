"""The service with a page in front."""

from collections.abc import Collection, Mapping
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from diffbir_jax.batch.settings import Recipe
from diffbir_jax.console.pages import shipped
from diffbir_jax.serve.app import create_app
from diffbir_jax.serve.engine import Engine

PAGE = Path(__file__).with_name("page")
FILES = {"page.css": "text/css", "page.js": "text/javascript", "mask.js": "text/javascript"}
# Degraded photos that come with the package.
EXAMPLES = "evaluation/suites/tiny/pictures/lq"
# Browsers then refuse whatever comes from another machine, and show the page in no other one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_page(
    engine: Engine,
    bases: Mapping[str, Recipe],
    keys: Mapping[str, str] | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Return the application of `create_app` with the page at /; arguments as there."""
    app = create_app(engine, bases, keys, hosts)
    examples = {path.name: path for path in sorted(shipped(EXAMPLES).glob("*.png"))}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        return FileResponse(PAGE / "page.html", headers=headers)

    @app.get("/examples", include_in_schema=False)
    async def listed() -> list[str]:
        return [*examples]

    @app.get("/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        if name not in examples:
            raise HTTPException(404, "there is no such example")
        return FileResponse(examples[name])

    @app.get("/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404, "there is no such page")
        return FileResponse(PAGE / name, media_type=FILES[name])

    return app
