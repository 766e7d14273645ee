"""The comparison with PyTorch's peers cannot pass by comparing nothing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(importlib.util.find_spec("ncnn") is not None, reason="nothing is missing here")
@pytest.mark.parametrize(
    "wanted, code", [("1", pytest.ExitCode.USAGE_ERROR), ("", pytest.ExitCode.NO_TESTS_COLLECTED)]
)
def test_a_missing_peer_is_an_error_where_it_is_wanted(wanted: str, code: pytest.ExitCode) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/peers"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DIFFBIR_PEERS": wanted}, capture_output=True, text=True
    )
    assert done.returncode == code
    assert "ncnn" in done.stderr + done.stdout and "not installed" in done.stderr + done.stdout


def test_make_peers_wants_them() -> None:
    assert "DIFFBIR_PEERS=1 $(PEERS)/bin/python -m pytest tests/peers" in (ROOT / "Makefile").read_text()
