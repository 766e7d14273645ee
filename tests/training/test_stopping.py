"""Ctrl-C and SIGTERM during training, and what is shown while the step compiles."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from diffbir_jax.cli import train as command
from diffbir_jax.console.errors import UserError
from diffbir_jax.training import loop, report, stopping
from diffbir_jax.training.report import Report
from diffbir_jax.training.speed import Stopwatch, beside
from diffbir_jax.training.stopping import FIRST, SECOND, EndedError, stop_requested


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers are those of before, even after a run that ended at once."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_ctrl_c_is_answered_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_requested() as stop:
        assert not stop(1)
        send(signal.SIGINT)
        assert capfd.readouterr().err == f"\n{FIRST}\n"
        assert stop(1)


def test_a_second_one_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EndedError), stop_requested() as stop:
        send(signal.SIGINT)
        with suppress(EndedError):  # as libraries do
            send(signal.SIGINT)
        assert capfd.readouterr().err == f"\n{FIRST}\n\n{SECOND}\n"
        stop(1)


def test_clusters_may_send_sigterm_twice(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_requested() as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop(1)
    assert SECOND not in capfd.readouterr().err


def test_of_several_processes_the_second_one_kills(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first one is passed on as SIGTERM."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(stopping.os, "kill", lambda *call: sent.append(call))
    with stop_requested():
        signal.raise_signal(signal.SIGINT)
        assert sent == [(os.getpid(), signal.SIGTERM)] and FIRST in capfd.readouterr().err
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_signals_are_handled_while_a_thread_compiles() -> None:
    """The work ends only after the signal was handled here; without a thread that would never be."""
    begun, handled = threading.Event(), threading.Event()

    def compile_() -> int:
        begun.set()
        return 7 if handled.wait(20) else 0

    def interrupt() -> None:
        begun.wait(20)
        send(signal.SIGINT)

    before = signal.signal(signal.SIGINT, lambda *_: handled.set())
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        assert beside(compile_) == 7
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0)


@pytest.mark.parametrize("terminal", [True, False])
def test_compiling_is_shown(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With seconds: beside the bar on a terminal, else in lines; silent in processes without writers."""
    monkeypatch.setattr(report, "LOOK", 0.001)
    monkeypatch.setattr(report, "LINE", 0.001)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    shown, writer = threading.Event(), SimpleNamespace(close=lambda: None)
    texts: list[str] = []

    def show(text: str, **_: object) -> None:
        texts.append(text)
        if text.endswith(" s"):
            shown.set()

    with Report(tmp_path, 0, 5, Stopwatch(1), [writer]) as told:  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(report.tqdm, "write", show)
        monkeypatch.setattr(told._bar, "set_postfix_str", show)
        with told.doing("compiling the step"):
            assert shown.wait(20)
    assert texts[0] == "compiling the step, 0 s"
    assert texts[-1] == ""  # the bar is as before
    texts.clear()
    with Report(tmp_path, 0, 5, Stopwatch(1), []) as silent, silent.doing("compiling the step"):
        pass
    assert texts == []


def test_without_a_terminal_steps_are_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every few seconds one, and no bar, whose lines would run into each other in a file."""
    monkeypatch.setattr(report, "LINE", 0.0)
    writer = SimpleNamespace(close=lambda: None, scalars=lambda *_: None)
    with Report(tmp_path, 3, 5, Stopwatch(1), [writer]) as told:  # pyright: ignore[reportArgumentType]
        told.advance()
        told.scalars(4, {"loss": 0.5})
        told.advance()
        monkeypatch.setattr(report, "LINE", 1e6)
        told.advance()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 4 of 5, ") and first.endswith(" s left")
    assert second.startswith("step 5 of 5, loss 0.5, ") and second.endswith(", 0 s left")


@pytest.mark.parametrize(("steps", "finished"), [(5, True), (3, False)])
def test_the_command_knows_whether_a_run_is_finished(
    monkeypatch: pytest.MonkeyPatch, steps: int, finished: bool
) -> None:
    config = SimpleNamespace(train=SimpleNamespace(steps=5))
    monkeypatch.setattr(command, "meet", lambda args: None)
    monkeypatch.setattr(loop, "train", lambda *_: SimpleNamespace(step=steps))
    assert command.run(config, SimpleNamespace(workdir="run")) is finished  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.EEXIST, "it is in the way: move it elsewhere, then the same command goes on"),
        (errno.ENOTDIR, "it is in the way: move it elsewhere, then the same command goes on"),
        (errno.ENOSPC, "the same command goes on"),
    ],
)
def test_the_same_command_goes_on_once_the_way_is_free(
    monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "Reason", "run/export")

    monkeypatch.setattr(command, "meet", lambda args: None)
    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(SystemExit, match=f"^diffbir train: run/export: Reason; {advice}$"):
        command.run(None, SimpleNamespace(workdir="run"))  # pyright: ignore[reportArgumentType]


def test_an_error_of_training_names_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("run: process 7 trains there; give another `workdir`:\n  a\n  b")

    monkeypatch.setattr(command, "meet", lambda args: None)
    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(SystemExit) as end:
        command.run(None, SimpleNamespace(workdir="run"))  # pyright: ignore[reportArgumentType]
    assert end.value.code == "diffbir train: run: process 7 trains there; give another --workdir:\n  a\n  b"


def test_a_run_that_ended_at_once_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    def fail(*_: object) -> None:
        raise EndedError

    def leave(code: int) -> None:
        codes.append(code)

    monkeypatch.setattr(command, "meet", lambda args: None)
    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.setattr(command.os, "_exit", leave)
    command.run(None, SimpleNamespace(workdir="run"))  # pyright: ignore[reportArgumentType]
    assert codes == [130]
    line = (
        "diffbir train: ended without saving; the same command goes on from the newest checkpoint, if any\n"
    )
    assert capsys.readouterr().err == line
