"""Output whose reader has left, or whose disk is full: the run goes on."""

import errno
import io
import sys

import pytest

from diffbir_jax.cli import main as command
from diffbir_jax.console.streams import Steady, steady_output


class Failing(io.StringIO):
    """Takes some writes, then none."""

    def __init__(self, number: int, writes: int = 0):
        super().__init__()
        self._number, self._left = number, writes

    def write(self, text: str) -> int:
        if not self._left:
            raise OSError(self._number, "no")
        self._left -= 1
        return super().write(text)


def test_what_cannot_be_written_is_silent_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Failing(errno.EPIPE, writes=1)
    monkeypatch.setattr(sys, "stdout", stream)
    with steady_output() as output:
        assert isinstance(sys.stdout, Steady) and not sys.stdout.isatty()
        print("one", end="")
        print("two")
        print("three")
    assert sys.stdout is stream and stream.getvalue() == "one"
    assert output is not None and isinstance(output.error, BrokenPipeError)


def test_no_output_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with steady_output() as output:
        print("nothing")
    assert output is None


@pytest.mark.parametrize(
    "number, code, told", [(errno.EPIPE, 0, ""), (errno.ENOSPC, 1, "cannot be written (no)")]
)
def test_a_program_ends_as_if_it_was_read_unless_the_output_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: int, code: int, told: str
) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(number))
    with pytest.raises(SystemExit) as end:
        command.main(["weights", "list"])
    assert (end.value.code or 0) == code and told in capsys.readouterr().err
