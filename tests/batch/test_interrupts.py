"""Processes that are killed, stopped or many, with a restorer without networks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.batch.fake import Fake
from tests.command import call, save, written

ROOT = Path(__file__).parents[2]
# Seconds, of which a machine of any speed needs few: who waits so long waits for something that does not come.
PATIENCE = 300
NAMES = [f"{folder}{i}" for folder in ("", "s/") for i in range(6)]


@pytest.fixture
def folder(fake: Fake) -> None:
    for seed, name in enumerate(NAMES):
        save(Path(f"in/{name}.png"), (32, 32), seed)


def start(images: int, *flags: str) -> subprocess.Popen[str]:
    """sample.py in a process of its own, which waits for the file `go` after so many images."""
    command = [sys.executable, "-m", "tests.batch.fake", str(images), "--input", "in", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=heed_interrupts, **streams)


def heed_interrupts() -> None:
    """Shells start background jobs with SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for_results(output: str, number: int) -> None:
    limit = time.monotonic() + PATIENCE
    while len(list(Path(output).rglob("*.png"))) < number:
        assert time.monotonic() < limit, "no results"
        time.sleep(0.005)


def state(output: str) -> dict[str, object]:
    """All files with their content, save for the times in sidecars."""
    content: dict[str, object] = {}
    for name in written(output):
        path = Path(output, name)
        content[name] = path.read_bytes()
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            content[name] = {key: value for key, value in record.items() if key not in ("date", "seconds")}
    return content


FLAGS = ("--upscale", "2", "--save-stages")


def test_a_killed_run_goes_on(folder: None, capsys) -> None:
    """SIGKILL half-way, then the same command: the end is that of a run without a break."""
    process = start(6, "--output", "out", *FLAGS)
    wait_for_results("out", 7)  # of the 12 that six images give
    process.kill()
    process.communicate()
    for path in Path("out").rglob("*.png"):
        if not path.name.startswith("."):
            np.asarray(Image.open(path))
    for path in Path("in").rglob("*.png"):
        result = Path("out") / path.relative_to("in")
        stages = [result.with_suffix(".json"), result.with_name(f"{result.stem}_stage1.png")]
        assert not result.exists() or all(stage.exists() for stage in stages)
    assert 0 < len(list(Path("out").rglob("*_stage1.png"))) < len(NAMES), "killed half-way"
    assert call("--input", "in", "--output", "out", *FLAGS, "--skip-existing") == 0
    assert " skipped" in capsys.readouterr().out
    assert call("--input", "in", "--output", "whole", *FLAGS) == 0
    whole = state("whole")
    assert len(whole) == 3 * len(NAMES)
    assert state("out") == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_writers_finish(folder: None, number: signal.Signals) -> None:
    process = start(4, "--output", "out", "--report", "r.json", *FLAGS)
    wait_for_results("out", 3)
    process.send_signal(number)
    output, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    report = json.loads(Path("r.json").read_text())
    done, left = len(report["restored"]), len(report["left"])
    assert done > 0 and left > 0 and done + left == len(NAMES) and report["interrupted"]
    assert f"interrupted, {left} of {len(NAMES)} images left; the same command with --skip-existing" in error
    assert f"{done} restored, 0 failed" in output
    assert "Traceback" not in error
    assert len(written()) == 3 * done
    assert call("--input", "in", "--output", "out", *FLAGS, "--skip-existing") == 0
    assert len(written()) == 3 * len(NAMES)


def test_hosts_share_the_work(folder: None, fake: Fake, capsys) -> None:
    """Every third image each, whatever the others do; several reports."""
    for host in range(3):
        fake.seen.clear()
        share = ("--hosts", "3", "--host-index", str(host), "--report", "r.json")
        assert call("--input", "in", "--output", "out", *FLAGS, *share) == 0
        assert len(fake.seen) == len(NAMES) // 3
        assert "4 restored, 0 failed" in capsys.readouterr().out
    assert len(written()) == 3 * len(NAMES)
    reports = [json.loads(Path(f"r.{host}.json").read_text())["restored"] for host in range(3)]
    assert sorted(entry["input"] for entry in reports[1]) == [
        f"in/{name}.png" for name in ("1", "4", "s/1", "s/4")
    ]
    save(Path("in/0.jpg"))
    assert call("--input", "in", "--output", "out", "--hosts", "3", "--host-index", "2") == 1
    assert "in/0.jpg and in/0.png: both would be written" in capsys.readouterr().err


def test_more_hosts_than_images(folder: None, fake: Fake, capsys) -> None:
    assert call("--input", "in/0.png", "--output", "out", "--hosts", "2", "--host-index", "1") == 0
    assert "0 restored, 0 failed" in capsys.readouterr().out
    assert not fake.seen and not Path("out").exists()


@pytest.mark.slow
def test_distributed_processes(folder: None) -> None:
    """They meet at the coordinator's and take their shares; the first ends while the second is held."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    distributed = ("--distributed", "--coordinator", address, "--hosts", "2", "--host-index")
    images = (6, 0)  # that come without `go`: the first would not end if it waited for the second
    processes = [
        start(some, "--output", f"out{i}", *FLAGS, *distributed, str(i)) for i, some in enumerate(images)
    ]
    for i, process in enumerate(processes):
        output, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, error
        Path("go").touch()
        assert "6 restored, 0 failed" in output
        results = [name for name in written(f"out{i}") if name.endswith(".png") and "_" not in name]
        assert results == [f"{name}.png" for name in NAMES[i::2]]


def test_processes_that_do_not_find_together(folder: None) -> None:
    """Nobody says where the others are."""
    process = start(0, "--output", "out", "--distributed")
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert error.startswith("diffbir restore: --distributed: coordinator_address should be defined")
    assert "give --coordinator HOST:PORT, --hosts and --host-index" in error and error.count("\n") == 1
