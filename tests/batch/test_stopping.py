"""Runs that Ctrl-C or a signal stops, within this process; see test_interrupts.py for processes."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from diffbir_jax.batch import ahead, drive
from diffbir_jax.batch.photos import Loaded
from tests.batch.fake import Fake
from tests.batch.runs import index, restore
from tests.command import save, written


def touched(loaded: Loaded) -> tuple[str, ...]:
    """In place of writing results: empty files."""
    for path in loaded.job.outputs.all():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return ()


def test_a_signal_whose_exception_a_library_loses_ends_the_run(fake: Fake, capsys) -> None:
    """What was computed is written, and a later run in the process is its own."""
    for name in "abcdef":
        save(Path(f"in/{name}.png"))

    def lose(seen: int) -> None:
        if seen == 3:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)

    fake.before = lose
    assert restore() == 130
    assert len(fake.seen) == 3 and "interrupted, 3 of 6 images left;" in capsys.readouterr().err
    fake.before = lambda seen: None
    assert restore("--skip-existing") == 0


@pytest.mark.parametrize("when, left, code", [("b", 3, 130), ("c", 1, 130), ("none", 0, 0)])
def test_interruption_keeps_what_is_done(fake: Fake, capsys, when: str, left: int, code: int) -> None:
    for name in "abc":
        save(Path(f"in/{name}.png"))
    fake.raises[index(when)] = KeyboardInterrupt()
    assert restore("--no-sidecar") == code
    streams = capsys.readouterr()
    said = f"interrupted, {left} of 3 images left; the same command with --skip-existing goes on"
    assert (said in streams.err) == (code == 130)
    assert written() == ["a.png", "b.png", "c.png"][: 3 - left]


def test_a_second_ctrl_c_ends_at_once(fake: Fake, monkeypatch) -> None:
    """Python's own handler would raise where writers are waited for; afterwards all is as before."""
    handlers, before = [], signal.getsignal(signal.SIGINT)

    def write(loaded: Loaded, *_: object) -> tuple[str, ...]:
        limit = time.monotonic() + 60
        while (now := signal.getsignal(signal.SIGINT)) is not signal.SIG_DFL and time.monotonic() < limit:
            time.sleep(0.01)
        handlers.append(now)
        return touched(loaded)

    monkeypatch.setattr(drive, "write_results", write)
    for name in "abc":
        save(Path(f"in/{name}.png"))
    fake.raises = {index("c"): KeyboardInterrupt()}
    assert restore("--no-sidecar") == 130
    assert handlers == [signal.SIG_DFL] * 2
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_the_last_are_written(fake: Fake, capsys, monkeypatch) -> None:
    """They are waited for before the summary."""
    calls, interrupted = [], threading.Event()

    def finish(writers: ahead.Writers) -> None:
        calls.append(1)
        if len(calls) == 1:
            interrupted.set()
            raise KeyboardInterrupt
        writers._pool.shutdown(wait=True)

    monkeypatch.setattr(ahead.Writers, "finish", finish)
    monkeypatch.setattr(drive, "write_results", lambda loaded, *_: interrupted.wait(60) and touched(loaded))
    for name in "abc":
        save(Path(f"in/{name}.png"))
    assert restore("--no-sidecar") == 130
    assert "3 restored, 0 failed" in capsys.readouterr().out


def test_a_killed_run_leaves_nothing_behind(fake: Fake) -> None:
    save(Path("in/s/a.png"))
    Path("out/s").mkdir(parents=True)
    for name in (".1-1.tmp", "mine.tmp"):
        Path("out/s", name).touch()
        os.utime(Path("out/s", name), (0, 0))
    assert restore() == 0
    assert written() == ["s/a.json", "s/a.png", "s/mine.tmp"]
