"""A service from its flags to its exit code."""

import argparse
import dataclasses
import functools
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from diffbir_jax.batch.auto import left_alone
from diffbir_jax.batch.settings import Recipe
from diffbir_jax.console.errors import UserError
from diffbir_jax.console.streams import exit_now
from diffbir_jax.restoration.first_use import ask, permit
from diffbir_jax.restoration.names import AUTO_VERSION
from diffbir_jax.serve.app import create_app
from diffbir_jax.serve.engine import Engine
from diffbir_jax.serve.faces import with_faces
from diffbir_jax.serve.flags import LOOPBACK, limits_of
from diffbir_jax.serve.guard import LOCAL
from diffbir_jax.serve.jobs import Job
from diffbir_jax.serve.keys import read_keys
from diffbir_jax.serve.networks import Networks, load
from diffbir_jax.serve.wishes import alone_of, base_recipe, faces_of

# Seconds that clients have, once all jobs are done, to fetch their results.
LINGER = 30.0
# Seconds for answers that are on their way.
FLUSH = 5
# Connections at once; more get status 503.
CONNECTIONS = 512


class Server(uvicorn.Server):
    """Uvicorn's server, which at a signal first finishes the accepted jobs. A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace: float):
        """Take the settings, the engine, and the seconds for its last jobs."""
        super().__init__(config)
        self._engine, self._grace = engine, grace
        self._left_at: float | None = None
        self._idle_at: float | None = None
        self.handed: list[Job] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more jobs."""
        if self._left_at is not None:
            self.handed += self._engine.hand_back()
            self.should_exit = self.force_exit = True
            return
        self._left_at = time.monotonic()
        self._engine.close()
        say("stopping: accepted jobs are finished first; a second signal ends them")

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; called ten times a second."""
        return await super().on_tick(counter) or (self._left_at is not None and self._done(time.monotonic()))

    def _done(self, now: float) -> bool:
        assert self._left_at is not None
        if now - self._left_at > self._grace:
            # Now, while clients on the line can still be told.
            self.handed += self._engine.hand_back()
            return True
        if not self._engine.idle:
            return False
        self._idle_at = self._idle_at or now
        return self._engine.collected or now - self._idle_at > LINGER


def run(args: argparse.Namespace, name: str = "serve", build: Callable[..., FastAPI] = create_app) -> int:
    """Serve until a signal ends it; returns the exit code.

    Args:
        args: the flags.
        name: of the program.
        build: makes the application, see `create_app`.

    Raises:
        UserError, OSError: weights, keys or the address cannot be used.
    """
    # Once each: every picture would say the same again.
    once = functools.cache(say)
    warnings.showwarning = lambda message, *_, **__: once(f"warning: {message}")
    keys = read_keys(args.keys) if args.keys else {}
    bases = bases_of(args)
    with listening(args.host, args.port) as listener:
        advise(args, name, keys)
        engine = Engine(networks_of(args, bases), limits_of(args))
        try:
            app = build(engine, bases, keys, LOCAL if args.host in LOOPBACK else None)
            return serve(app, engine, listener, args, name)
        finally:
            engine.stop()


def serve(app: ASGIApp, engine: Engine, listener: socket.socket, args: argparse.Namespace, name: str) -> int:
    """Serve an application until a signal ends it; returns the exit code."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=FLUSH,
    )
    host, port = listener.getsockname()[:2]
    say(
        f"http://{f'[{host}]' if ':' in host else host}:{port} serves {', '.join(args.version or ['one-step'])}"
    )
    server = Server(config, engine, args.grace)
    server.run(sockets=[listener])
    for job in server.handed:
        say(f"handed back: job {job.id} was not done")
    say(f"stopped, {len(server.handed)} jobs handed back")
    code = 1 if server.handed else 0
    if server.force_exit:
        # Nothing breaks off a program that is being compiled, and Python would wait for its thread.
        exit_now(code)
    return code


def say(text: str) -> None:
    """Print a line for who runs the service."""
    print(f"diffbir: {text}", file=sys.stderr, flush=True)


def bases_of(args: argparse.Namespace) -> dict[str, Recipe]:
    """Return, by version, the recipe without a client's changes. It names no folder of this machine.

    Raises:
        UserError: --faces does not go with another --task.
    """
    if args.faces and args.task != "sr":
        raise UserError(f"--faces restores whole photos by --task sr, not {args.task}; leave one of them out")
    more = {"task": args.task, "precision": args.precision, "max_pixels": args.max_pixels}
    more["lora"] = tuple(dataclasses.replace(lora, path=Path(lora.path.name)) for lora in args.lora or ())
    return {version: base_recipe(version, **more) for version in args.version or ["one-step"]}


def networks_of(args: argparse.Namespace, bases: Mapping[str, Recipe]) -> dict[str, Networks]:
    """Load the networks of all versions, by the names that `Wish.networks` has."""
    memory = None if args.memory_gb is None else int(args.memory_gb * 2**30)
    allow = permit if args.yes else ask
    found: dict[str, Networks] = {}
    for version, base in bases.items():
        recipe = dataclasses.replace(base, weights=args.weights, lora=tuple(args.lora or ()))
        found[version] = load(recipe, allow, memory)
        if version == AUTO_VERSION:
            found[alone_of(version)] = load(left_alone(recipe), allow, memory)
        if args.faces:
            found[faces_of(version)] = with_faces(found[version], recipe, allow)
    return found


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        UserError: the address is not one of this machine, or in use.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host} port {port}: {getattr(error, 'strerror', None) or error}; give another --host or --port"
        ) from None
    return listener


def advise(args: argparse.Namespace, name: str, keys: Mapping[str, str]) -> None:
    """Warn of an address that others reach."""
    if args.host in LOOPBACK:
        return
    told = "with these keys" if keys else "without any key"
    say(
        f"warning: --host {args.host} lets other machines in, {told}, and nothing is encrypted; see docs/serve.md"
    )
