"""A service for all tests of a file."""

from collections.abc import Iterator

import pytest

from tests.serve.fake import Client, Served, service


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A service whose device never waits."""
    with service(pixels=2**16, upload_bytes=2**20, output_pixels=2**20, upload_seconds=2.0) as found:
        found.works.gate.set()
        yield found


@pytest.fixture
def client(served: Served) -> Client:
    return served.client()
