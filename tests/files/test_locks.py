"""Locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffbir_jax.files.locks import HeldError, held

HOLDER = """
import sys
from pathlib import Path
from diffbir_jax.files.locks import held
with held(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        with pytest.raises(HeldError) as caught, held(tmp_path / "lock"):
            pass
        assert caught.value.owner == str(process.pid)
        process.kill()
    with held(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
