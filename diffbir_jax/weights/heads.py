"""Requests whose answer must begin in time: a server that sends its headers byte by byte never ends otherwise."""

import io
import math
from http.client import HTTPResponse
from time import monotonic
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

LONGEST = 60.0  # seconds from the request to the last of the answer's headers


class _Timed(io.RawIOBase):
    """The bytes of a connection; TimeoutError after the time for the head.

    The timeouts of requests are for one read each, and a header may take any number of reads.
    """

    def __init__(self, raw: Any):
        self._raw, self.until = raw, monotonic() + LONGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.until < math.inf and monotonic() > self.until:
            raise TimeoutError("the head of the answer takes too long")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """An answer whose status and headers must come within `LONGEST`; the body may take longer."""

    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more)
        self._timed = _Timed(self.fp.detach())
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        super().begin()
        self._timed.until = math.inf


class _Connection(HTTPConnection):
    response_class = _Answer


class _SafeConnection(HTTPSConnection):
    response_class = _Answer


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]


class _SafePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SafeConnection  # pyright: ignore[reportAssignmentType]


class _Adapter(HTTPAdapter):
    """Connects directly or through a proxy."""

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more)
        _time(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **more: Any) -> Any:
        return _time(super().proxy_manager_for(*arguments, **more))


def _time(manager: Any) -> Any:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}
    return manager


class Session(requests.Session):
    """A session in which `requests.ReadTimeout` also ends an answer whose head is not complete in time."""

    def __init__(self) -> None:
        """Make it for both schemes."""
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())
