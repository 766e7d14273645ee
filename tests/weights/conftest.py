"""The server that the tests download from."""

from collections.abc import Iterator

import pytest

from diffbir_jax.weights import download
from tests.weights.server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("DIFFBIR_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "CHUNK", 1000)  # drops in these tests are at multiples of it
    server = Server(monkeypatch)
    yield server
    server.http.shutdown()
    server.http.server_close()
