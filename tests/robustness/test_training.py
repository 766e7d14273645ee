"""Training that is killed, or meets an error of the system, at its operations on files: docs/running.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = "DIFFBIR_FUZZ" in os.environ
ROOT = Path(__file__).parents[2]
# A run does some 400 operations.
KILLS = range(2, 352, 7) if FUZZ else (60, 245)
FEW = range(1, 350, 43) if FUZZ else (40, 130)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
]


def rows(folder: Path, event: str, points: object) -> list[dict]:
    """What `kills.py` tells of each point."""
    command = [sys.executable, "-m", "tests.robustness.kills", event, *map(str, points)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_and_run_again_ends_as_without_a_break(tmp_path: Path) -> None:
    """Weights, checkpoints, the best one and all that metrics.jsonl tells of each step."""
    for row in rows(tmp_path, "SIGKILL", KILLS):
        assert row["happened"] and row["code"] == -9 and row["differs"] == [], row


@pytest.mark.parametrize("event", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path, event: str) -> None:
    for row in rows(tmp_path, event, FEW):
        assert row["happened"] and row["differs"] == [] and "Traceback" not in row["said"], row
        # Before the first step there is nothing to save.
        assert row["code"] == 0 or "stopped before the first step" in row["said"], row


@pytest.mark.parametrize("event", ["full", "read-only", "broken", "vanished"])
def test_an_error_of_the_system_is_one_line(tmp_path: Path, event: str) -> None:
    for row in rows(tmp_path, event, FEW):
        assert row["happened"] and row["code"] in (0, 1, 2) and row["differs"] == [], row
        assert "Traceback" not in row["said"], row


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(("event", "code"), [("no reader", 0), ("full output", 1)])
def test_output_that_nobody_reads(tmp_path: Path, event: str, code: int) -> None:
    for row in rows(tmp_path, event, [1]):
        assert row["code"] == code and row["differs"] == [] and "Traceback" not in row["said"], row
