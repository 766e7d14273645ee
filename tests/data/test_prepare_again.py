"""diffbir data prepare goes on where it was stopped, and writes what is missing or damaged again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from diffbir_jax.data import examining
from diffbir_jax.data.examining import Verdict
from tests.batch.test_interrupts import heed_interrupts
from tests.data.prepared import call, files, fill, kept
from tests.data.sources.samples import png, put

pytestmark = pytest.mark.usefixtures("here")
ROOT = Path(__file__).parents[2]
# Of so many images in shards, a run that is watched is held after HELD.
COUNT, SHARD, HELD = 100, 10, 35


def start() -> subprocess.Popen[str]:
    """A run over many lines that name few images, in processes of its own."""
    for i in range(20):
        put(f"photos/{i}.png", png(i, 192))
    put("l.txt", "\n".join(f"photos/{i * 7 % 20}.png" for i in range(COUNT)))
    run = [sys.executable, "-m", "tests.data.held_prepare", str(HELD), "--input", "l.txt", "--output", "out"]
    run += ["--workers", "1", "--shard-size", str(SHARD), "--min-side", "16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heed = {"preexec_fn": heed_interrupts, "start_new_session": True}
    return subprocess.Popen(run, env=environment, **heed, **streams)


def wait_for(process: subprocess.Popen[str], sign: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300
    while not sign():
        assert time.monotonic() < limit and process.poll() is None, "no sign of work"
        time.sleep(0.002)


def reports() -> dict[Path, int]:
    """Those of finished shards, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in Path("out").glob("train-*.json")}


def test_a_killed_run_goes_on() -> None:
    """The end is that of a run without a break, and finished shards are left alone."""
    process = start()
    wait_for(process, lambda: len(reports()) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, orphans = psutil.wait_procs(children, timeout=300)
    for orphan in orphans:
        orphan.kill()
    process.communicate()
    assert children and not orphans
    done = reports()
    assert 2 <= len(done) <= HELD // SHARD < COUNT // SHARD, "killed half-way"
    assert not json.loads(Path("out/manifest.json").read_text())["finished"]
    assert call("--shard-size", SHARD, inputs="l.txt") == 0
    assert done.items() <= reports().items()
    assert call("--shard-size", SHARD, inputs="l.txt", output="whole") == 0
    assert files("out") == files("whole")
    assert len(kept()) == 20


@pytest.mark.parametrize("early", [True, False])
def test_an_interrupt_says_how_to_go_on(early: bool) -> None:
    """Processes say nothing of their own, even if they are just coming up."""
    process = start()
    watched = psutil.Process(process.pid)
    # The first child is one of Python's own.
    wait_for(process, lambda: len(watched.children()) >= 2 if early else len(reports()) >= 2)
    # Python is up in the child by now, and imports.
    time.sleep(0.15 * early)
    # As terminals do, to all.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    said = "interrupted; the same command goes on with the shard that was not finished"
    assert err == f"diffbir data prepare: {said}\n" and out == ""
    for path in reports():
        assert path.with_suffix(".array_record").exists()


def test_a_missing_shard_is_written_again() -> None:
    """The first: what follows it must not count as seen before."""
    fill()
    assert call("--shard-size", 2) == 0
    whole = files()
    Path("out/train-00000-of-00004.array_record").unlink()
    assert call("--shard-size", 2) == 0
    assert files() == whole


def test_a_process_does_not_finish_a_huge_image_when_its_parent_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parent stops when the process is in the middle of it; before that it gets the verdict."""
    stop, free = threading.Event(), threading.Event()

    def examine(index: int) -> Verdict:
        if index:
            stop.set()
            free.wait(60)
        return Verdict(f"image {index}")

    monkeypatch.setattr(examining, "_of_source", examine, raising=False)
    monkeypatch.setattr(examining, "_stop", stop, raising=False)
    assert examining._examine(0) == Verdict("image 0")
    assert examining._examine(1) == Verdict("")
    free.set()


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("array_record", turn_a_bit, "has changed since it was written"),
        ("array_record", lambda path: os.truncate(path, 100), "has changed since it was written"),
        ("array_record", lambda path: path.write_bytes(b""), "has changed since it was written"),
        ("json", lambda path: os.truncate(path, 20), "is damaged, or of an older version"),
        ("json", lambda path: path.write_text("[]"), "is damaged, or of an older version"),
        ("json", lambda path: path.write_text('{"kept": {}}'), "is damaged, or of an older version"),
    ],
)
def test_a_damaged_shard_is_named_and_written_again(
    name: str, damage: Callable[[Path], object], fault: str, capsys: pytest.CaptureFixture
) -> None:
    fill()
    assert call("--shard-size", 2) == 0
    whole = files()
    damage(path := Path(f"out/train-00001-of-00004.{name}"))
    capsys.readouterr()
    assert call("--shard-size", 2) == 0
    assert f"{path}: {fault}; it is written again\n" in capsys.readouterr().err
    assert files() == whole


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 1}'])
def test_a_damaged_manifest_is_one_line(text: str, capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call() == 0
    Path("out/manifest.json").write_text(text)
    capsys.readouterr()
    assert call() == 1
    said = "out/manifest.json: is damaged; give another --output, or remove the folder"
    assert capsys.readouterr().err == f"diffbir data prepare: {said}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-side", 17), "out: begun with --min-side 16, now 17; give the same or another --output"),
        (("--shard-size", 3), "out: begun with --shard-size 1000, now 3;"),
        (("--name", "val"), "out: begun with --name train, now val;"),
    ],
)
def test_other_settings_are_refused(flags: tuple, message: str, capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call() == 0
    before = files()
    assert call(*flags) == 1
    assert message in capsys.readouterr().err
    assert files() == before


def test_other_inputs_are_refused(capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call() == 0
    put("in/z.png", png(9))
    assert call() == 1
    assert "out: begun with other inputs than those of now; give the same or" in capsys.readouterr().err
