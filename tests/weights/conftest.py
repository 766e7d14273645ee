"""The server that the tests download from."""

from collections.abc import Iterator

import pytest

from tests.weights.server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("DIFFBIR_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = Server(monkeypatch)
    yield server
    server.http.shutdown()
    server.http.server_close()
