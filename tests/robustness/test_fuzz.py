"""What `make fuzz` runs."""

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_trainings_are_killed_too() -> None:
    """They are marked slow, and slow tests run only where -m names them (conftest.py)."""
    recipe = (ROOT / "Makefile").read_text().split("\nfuzz:")[1].split("\n\n")[0]
    given = shlex.split(recipe.partition("-m pytest ")[2])
    command = [sys.executable, "-m", "pytest", "--collect-only", *given]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    for name in ("test_training.py::test_killed_and_run_again", "test_images.py::test_mutated_files"):
        assert f"tests/robustness/{name}" in found
