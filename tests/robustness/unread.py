"""Output that goes nowhere."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def unread(lost: str) -> Iterator[None]:
    """The output is a pipe whose "reader" has left, or a full "disk"."""
    reader, writer = os.pipe()
    os.close(reader)
    if lost == "disk":
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer)
    with os.fdopen(writer, "w") as stream, contextlib.redirect_stdout(stream):
        yield
