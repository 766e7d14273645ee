"""A service without networks: its restorer repeats pixels, and waits where a test wants it to."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import uvicorn

from diffbir_jax.batch.settings import Recipe
from diffbir_jax.cli.main import start
from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.reports import FaceReport
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.results import Outcome, Progress
from diffbir_jax.serve import engine, run
from diffbir_jax.serve.app import create_app
from diffbir_jax.serve.engine import Engine
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.networks import Course
from diffbir_jax.serve.wishes import Wish, alone_of, base_recipe, faces_of
from tests.batch.fake import results
from tests.faces.known import face

TILES = 4
# What pictures show for `"task": "faces"`: a face that is restored, and one that is left.
FACES = (FaceReport(face(4, 2, 10), scale=0.5), FaceReport(face(30, 20, 8), "smaller than 12 pixels"))


@dataclass
class FakeWorks:
    """Repeats pixels, tile by tile.

    Attributes:
        pack: how many pictures go together.
        gate: the restorer waits for it before each tile but the first.
        begun: is set once it waits.
        raises: what it raises, by the name of the option `seed`.
        packs: names of the noise of each pack.
        masks: that requests had.
    """

    pack: int = 2
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    raises: dict[int, BaseException] = field(default_factory=dict)
    packs: list[list[int]] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    def check(self, wish: Wish) -> None:
        if wish.recipe.options.pos_prompt:
            raise UserError("preset one-step knows no text: leave out prompts")

    def course(self, wish: Wish, size: tuple[int, int], keep: bool) -> Course:
        return Course(None, self.pack, self._shape(size), 2**30, {"rm": 1.0, "sample": 3.0})

    def packed(self, wish: Wish, size: tuple[int, int], keep: bool) -> None:
        return None

    def shape(self, wish: Wish, size: tuple[int, int], course: object) -> tuple[int, int]:
        return self._shape(size)

    def _shape(self, size: tuple[int, int]) -> tuple[int, int]:
        return -(-size[0] // 64), -(-size[1] // 64)

    def restore(
        self,
        requests: Iterable[Request],
        recipe: Recipe,
        course: object,
        keep: bool,
        listen: Callable[[Progress], None],
    ) -> Iterator[Outcome]:
        taken = list(requests)
        self.packs.append([request.index for request in taken])
        self.masks += [request.mask for request in taken]
        listen(Progress("sample", 0, TILES, 64))
        for tile in range(TILES):
            self.begun.set()
            assert self.gate.wait(30)
            listen(Progress("sample", tile + 1, TILES, 64))
        if error := self.raises.get(recipe.options.seed):
            raise error
        for position, request in reversed([*enumerate(taken)]):
            made = tuple(results(request, recipe.upscale, recipe.options, recipe.n_samples))
            yield Outcome(position, made, about=None if recipe.faces is None else FACES)


class Client:
    """A client of a service on this machine."""

    def __init__(self, port: int, **headers: str):
        self.base, self._headers = f"http://127.0.0.1:{port}", headers

    def __call__(self, method: str, path: str, **more: Any) -> requests.Response:
        more["headers"] = self._headers | more.get("headers", {})
        return requests.request(method, self.base + path, timeout=30, **more)

    def restore(
        self,
        data: bytes,
        options: str = "",
        name: str = "a.png",
        query: str = "",
        mask: bytes | None = None,
        **more: Any,
    ) -> Any:
        files = {"image": (name, data), "options": (None, options)}
        files |= {} if mask is None else {"fidelity_mask": ("m.png", mask)}
        return self("POST", f"/restore{query}", files=files, **more)

    def job(self, data: bytes, options: str = "", query: str = "", **more: Any) -> str:
        answer = self.restore(data, options, query=f"?job=1{query}", **more)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def state(self, identity: str) -> dict[str, Any]:
        return self("GET", f"/jobs/{identity}").json()

    def wait(self, identity: str) -> dict[str, Any]:
        """The last state of a job, by its events."""
        with self("GET", f"/jobs/{identity}/events", stream=True) as answer:
            lines = [line for line in answer.iter_lines(decode_unicode=True) if line.startswith("data: ")]
        return json.loads(lines[-1].removeprefix("data: "))


@dataclass
class Served:
    """A service in a thread."""

    engine: Engine
    works: FakeWorks
    server: run.Server
    port: int
    thread: threading.Thread

    def client(self, **headers: str) -> Client:
        return Client(self.port, **headers)


@contextlib.contextmanager
def service(
    works: Any = None,
    keys: dict[str, str] | None = None,
    build: Callable[..., Any] = create_app,
    version: str = "one-step",
    hosts: Any = ("127.0.0.1", "localhost"),
    faces: Any = None,
    alone: Any = None,
    **limits: Any,
) -> Iterator[Served]:
    """A service on a free port, which is stopped at the end."""
    works = FakeWorks() if works is None else works
    known = {version: works, alone_of(version): alone or works} | (
        {faces_of(version): faces} if faces else {}
    )
    core = Engine(known, Limits(**limits))
    app = build(core, {version: base_recipe(version)}, keys, hosts)
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = run.Server(config, core, grace=60)
    with run.listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(core, works, server, listener.getsockname()[1], thread)
        finally:
            if isinstance(works, FakeWorks):
                works.gate.set()
            server.should_exit = True
            thread.join()
            core.stop()


if __name__ == "__main__":
    # diffbir serve with this restorer, whose device waits until the file `go` is there.
    fake = FakeWorks()

    def watch() -> None:
        while not Path("go").exists():
            time.sleep(0.01)
        fake.gate.set()

    threading.Thread(target=watch, daemon=True).start()
    # Who waits for the device at the end is seen to.
    engine.PATIENCE = 600.0
    run.networks_of = lambda args, bases: dict.fromkeys(bases, fake)
    start("serve", sys.argv[1:])
