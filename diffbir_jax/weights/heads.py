"""Requests whose answer must begin in time: a server that sends its headers byte by byte never ends otherwise."""

import io
import math
from http.client import HTTPResponse
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Manager = TypeVar("Manager", bound=urllib3.PoolManager)
LONGEST = 60.0  # seconds from the request to the last of the answer's headers


class _Timed(io.RawIOBase):
    """The bytes of a connection; TimeoutError after the time for the head.

    The timeouts of requests are for one read each, and a header may take any number of reads.
    """

    def __init__(self, raw: io.RawIOBase):
        self._raw, self.until = raw, monotonic() + LONGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        if self.until < math.inf and monotonic() > self.until:
            raise TimeoutError("the head of the answer takes too long")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """An answer whose status and headers must come within `LONGEST`; the body may take longer."""

    def __init__(self, sock: socket, debuglevel: int = 0, method: str | None = None, url: str | None = None):
        super().__init__(sock, debuglevel, method, url)
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

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: object) -> None:
        super().init_poolmanager(connections, maxsize, block, **more)
        _time(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: object) -> urllib3.ProxyManager:
        return _time(super().proxy_manager_for(proxy, **more))


def _time(manager: Manager) -> Manager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}
    return manager


class Session(requests.Session):
    """A session in which `requests.ReadTimeout` also ends an answer whose head is not complete in time."""

    def __init__(self) -> None:
        """Make it for both schemes."""
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())
