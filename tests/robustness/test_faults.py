"""Runs that are killed, or meet an error of the system, at each of their operations on files.

Python tells an audit hook of each operation before it does it: there a forked process kills itself, or the operation
fails. No test waits for a time. `make fuzz` tries every place.
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.batch.fake import Fake
from tests.command import call, save, written
from tests.robustness.operations import alone, happening
from tests.robustness.unread import unread

FLAGS = ("--upscale", "2", "--save-stages", "--report", "out/report.json")
RUN = ("--input", "in", "--output", "out", *FLAGS, "--skip-existing")
FUZZ = "DIFFBIR_FUZZ" in os.environ
STEP, NAMES = (1, ("a", "b", "c", "d", "s/a", "s/b", "s/c", "s/d")) if FUZZ else (7, ("a", "b", "s/c", "s/d"))
RESULTS = [f"{name}.png" for name in NAMES]
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.filterwarnings("ignore:os.fork"),  # no program of JAX runs in the forks
]


@pytest.fixture
def folder(fake: Fake) -> None:
    for seed, name in enumerate(NAMES):
        save(Path(f"in/{name}.png"), (16, 24), seed)


def interrupted(number: int, happen: Callable[[], None]) -> int:
    """Run the command in a fork, where something happens at the given operation on out/; what `waitpid` tells."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    alone()
    os.dup2(os.open("stdout.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(os.open("stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    code = 99
    try:
        with happening("out", number, happen):
            code = int(call(*RUN) or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def beside(result: str) -> list[Path]:
    """All files of a job."""
    path = Path("out", result)
    return [path, path.with_suffix(".json"), path.with_name(f"{path.stem}_stage1.png")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def results() -> dict[str, bytes]:
    """Everything that is written, but for times."""
    found = {
        name: Path("out", name).read_bytes() for name in written("out") if not name.endswith("report.json")
    }
    times = ("date", "seconds")
    plain = {
        name: {k: v for k, v in json.loads(data).items() if k not in times}
        for name, data in found.items()
        if name.endswith("json")
    }
    return found | {name: json.dumps(value).encode() for name, value in plain.items()}


def test_killed_at_any_operation_and_run_again(folder: None) -> None:
    """Each file is whole at any time, and the end is that of a run without a break."""
    assert call(*RUN) == 0
    whole = results()
    assert len(whole) == 3 * len(NAMES)
    number, killed = 1, 0
    while True:
        shutil.rmtree("out")
        if not os.WIFSIGNALED(interrupted(number, die)):
            break
        killed += 1
        for name in written("out") if Path("out").exists() else ():
            if not Path(name).name.startswith("."):
                assert name not in whole or results()[name] == whole[name], (number, name)
        assert call(*RUN) == 0
        assert results() == whole, number
        number += STEP
    assert killed > 100 if FUZZ else killed > 7


FAULTS = {
    "full": errno.ENOSPC,
    "read-only": errno.EROFS,
    "forbidden": errno.EACCES,
    "gone": errno.ENOENT,
    "broken": errno.EIO,
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_of_the_system_is_one_line_and_costs_one_image(folder: None, name: str) -> None:
    """The count is true: what is said to be restored is there, whole."""
    summaries = 0
    for number in range(1, 200, 5 * STEP):
        shutil.rmtree("out", ignore_errors=True)

        def fail() -> None:
            raise OSError(FAULTS[name], os.strerror(FAULTS[name]), "out")

        status = interrupted(number, fail)
        told, errors = Path("stdout.txt").read_text(), Path("stderr.txt").read_text()
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 1) and "Traceback" not in errors, (number, errors)
        counted = [line for line in told.splitlines() if " restored, " in line]
        good = sum(Path("out", result).is_file() for result in RESULTS)
        summaries += bool(counted)
        if counted:
            assert counted[0].startswith(f"{good} restored, "), (number, counted, errors)
        for result in Path("out").rglob("[a-d].png"):
            Image.open(result).load()
    assert summaries


def test_a_folder_that_vanishes(folder: None) -> None:
    """Its results are not counted, or the run makes it again."""
    for number in range(20, 80, 4 * STEP):
        shutil.rmtree("out", ignore_errors=True)
        status = interrupted(number, lambda: shutil.rmtree("out"))
        told, errors = Path("stdout.txt").read_text(), Path("stderr.txt").read_text()
        good = sum(all(path.is_file() for path in beside(result)) for result in RESULTS)
        assert "Traceback" not in errors, (number, errors)
        assert f"{good} restored, {len(NAMES) - good} failed" in told, (number, told, errors)
        assert os.waitstatus_to_exitcode(status) == int(good < len(NAMES))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("lost", ["reader", "disk"])
def test_output_that_nobody_reads(folder: None, lost: str, capfd: pytest.CaptureFixture) -> None:
    """The work is done. A reader that has left is no fault; a full disk is."""
    assert call(*RUN) == 0
    whole = results()
    shutil.rmtree("out")
    with unread(lost):
        code = call(*RUN)
    error = capfd.readouterr().err
    assert int(code or 0) == int(lost == "disk") and "Traceback" not in error, error
    assert results() == whole
