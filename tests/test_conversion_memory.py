"""The measurement of benchmarks/conversion_memory.py at small size: what it measures is not tested here."""

import json
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import conversion_memory
from benchmarks.conversion_memory import CASES, main, measure
from tests.conversion import small

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
    pytest.mark.tools,
]


@pytest.mark.parametrize("case", CASES)
def test_a_table_with_a_line_per_case(tmp_path, capsys, case):
    manifest, folder = tmp_path / "manifest.json", tmp_path / "work"
    manifest.write_text(json.dumps({key: x.shape for key, x in small.stable_diffusion().items()}))
    folder.mkdir()
    main(["--manifest", str(manifest), "--folder", str(folder), "--case", case])
    (line,) = capsys.readouterr().out.splitlines()[2:]
    kind, stored, dtype = CASES[case]
    _, source, result, peak, private, _ = (cell.strip() for cell in line.split("|"))
    assert source.startswith(f".{kind} {stored}, ") and result == dtype
    assert float(peak) > float(private) > 0
    assert list(folder.iterdir()) == []


# Has an array, says so, and ends when it is told to.
HOLDER = """
import sys, time
from pathlib import Path
folder, x = Path(sys.argv[1]), bytearray(b"1") * 200_000_000
(folder / "held").touch()
while not (folder / "seen").exists():
    time.sleep(0.01)
"""


def test_what_is_measured(tmp_path, monkeypatch):
    """An array counts as long as it lives; a mapped file, the program's own here, counts for the peak only."""
    looked = []

    def pause(seconds):
        """Between two looks: after one at a program that has its array, it may end."""
        looked.append((tmp_path / "held").exists())
        if sum(looked) == 2:
            (tmp_path / "seen").touch()
        sleep(seconds)

    sleep = time.sleep
    monkeypatch.setattr(conversion_memory, "time", SimpleNamespace(sleep=pause))
    peak, private = measure([sys.executable, "-c", HOLDER, str(tmp_path)])
    assert 200e6 < private < peak < 300e6
