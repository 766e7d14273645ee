"""What every request passes before the application sees it: address, origin, key, size and time of its body."""

import asyncio
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffbir_jax.serve.allowance import Allowance
from diffbir_jax.serve.keys import owner_of
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.refusals import Refusal

# Names of a service on the loopback address. Pages elsewhere could point a name of theirs to it.
LOCAL = ("localhost", "127.0.0.1", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")
# Needs no key: what watches the service has none.
OPEN = "/health"
# What costs time to compute.
COUNTED = ("/restore", "/estimate")
_PORT = re.compile(r":\d+$")


class Refused(NamedTuple):
    """Status and text for a request that goes no further, and in how many seconds to come again."""

    status: int
    text: str
    retry: int = 5


class Guard:
    """An application of ASGI around another one."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        keys: Mapping[str, str],
        hosts: Collection[str] | None,
        check_room: Callable[[str], None],
    ):
        """Take the application and what it accepts.

        Args:
            app: the application.
            limits: of the service.
            keys: names by key; none lets everybody in.
            hosts: names that requests may call the service, or None for any.
            check_room: raises Refusal if a client's job would be refused.
        """
        self._app, self._limits, self._keys, self._hosts = app, limits, keys, hosts
        self._check_room = check_room
        self._allowance = None if limits.rate is None else Allowance(limits.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        await self._app(scope, self._bounded(receive), _careful(send))

    def _refused(self, scope: Scope, headers: Headers) -> Refused | None:
        """The answer to a request that goes no further."""
        host = headers.get("host", "")
        if self._hosts is not None and _PORT.sub("", host) not in self._hosts:
            return Refused(
                403, "this service answers only under the names of this machine's loopback address"
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in SAFE and origin.partition("://")[2] != host:
            return Refused(403, "requests from pages of other sites are refused")
        owner = owner_of(headers, self._keys) if self._keys else ""
        if owner is None and scope["path"] != OPEN:
            return Refused(401, "the key is missing or wrong; send it as Authorization: Bearer KEY")
        scope.setdefault("state", {})["owner"] = owner
        return self._refused_often(scope, owner) or self._refused_body(scope, headers)

    def _refused_often(self, scope: Scope, owner: str | None) -> Refused | None:
        """The same, for a client that sends too many pictures or estimates."""
        if self._allowance is None or scope["method"] != "POST" or scope["path"] not in COUNTED:
            return None
        # Without keys all owners are equal, and addresses tell clients apart.
        wait = self._allowance.wait((scope["path"], owner or (scope.get("client") or ("",))[0]))
        text = f"more than {self._limits.rate} such requests per minute are sent; come again in {wait} s"
        return Refused(429, text, wait) if wait else None

    def _refused_body(self, scope: Scope, headers: Headers) -> Refused | None:
        """The same, by what the headers say of the body: before it is read."""
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.upload_bytes:
            return Refused(413, self._too_large(length))
        if scope["method"] == "POST" and scope["path"] == "/restore":
            try:
                self._check_room(scope["state"]["owner"])
            except Refusal as refusal:
                return Refused(refusal.status, str(refusal))
        return None

    def _too_large(self, length: object) -> str:
        return f"the request has {length} bytes, allowed are {self._limits.upload_bytes}"

    def _bounded(self, receive: Receive) -> Receive:
        """A body that ends with an error once it is too large or takes too long."""
        end, count, whole = asyncio.get_running_loop().time() + self._limits.upload_seconds, 0, False

        async def bounded() -> Message:
            """Receive the next message of the body, within the limits."""
            nonlocal count, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                text = f"the request did not arrive within {self._limits.upload_seconds:g} s"
                raise HTTPException(408, text) from None
            count += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if count > self._limits.upload_bytes:
                raise HTTPException(413, self._too_large(f"more than {self._limits.upload_bytes}"))
            return message

        return bounded


def _careful(send: Send) -> Send:
    """Answers tell browsers to take them for what they are."""

    async def careful(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
        await send(message)

    return careful


async def _answer(send: Send, status: int, text: str, retry: int) -> None:
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(b"retry-after", str(retry).encode())] * (status in (429, 503))
    headers += [(b"www-authenticate", b"Bearer")] * (status == 401)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
