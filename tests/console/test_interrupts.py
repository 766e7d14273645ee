"""Signals whose exceptions get lost."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from diffbir_jax.cli import main as command
from diffbir_jax.console.interrupts import terminable, told


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    told.asked = False
    signal.signal(signal.SIGINT, before)


def test_a_lost_exception_is_made_up_for() -> None:
    with terminable():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            told.heed()
    with terminable():
        told.heed()


def test_a_lost_exception_leaves_no_traceback(capsys) -> None:
    """Python prints exceptions that nobody can catch, such as those of callbacks of its garbage collector."""

    class Callback:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with terminable():
        callback = Callback()
        del callback
        assert told.asked
    assert capsys.readouterr().err == ""


def test_what_a_signal_broke_off_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """An import of an extension turns the interruption into an ImportError."""

    def broken(name: str) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("an error while initializing the extension") from None

    monkeypatch.setattr(command.importlib, "import_module", broken)
    with pytest.raises(SystemExit) as end:
        command.start("restore", [])
    assert end.value.code == 130
    assert capsys.readouterr().err == "diffbir restore: interrupted\n"


AGAIN = """
import atexit, os, signal, sys, time, types
from diffbir_jax.cli import main as command

def again():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

def interrupted(argv):
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(again)
command.importlib.import_module = lambda name: types.SimpleNamespace(main=interrupted)
sys.argv = ["diffbir", "restore"]
command.main()
"""


def test_a_second_interrupt_ends_at_once_without_a_traceback() -> None:
    """Also while libraries clean up, when Python ends."""
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "diffbir restore: interrupted\n")


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command.start("restore", [])
