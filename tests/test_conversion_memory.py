"""The measurement of benchmarks/conversion_memory.py at small size: what it measures is not tested here."""

import json
import sys

import pytest

from benchmarks.conversion_memory import CASES, main, measure
from tests.conversion import small

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.mark.parametrize("case", CASES)
def test_a_table_with_a_line_per_case(tmp_path, capsys, case):
    if case == "ckpt":
        pytest.importorskip("torch")
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


def test_what_is_measured():
    """An array counts as long as it lives; a mapped file, the program's own here, counts for the peak only."""
    peak, private = measure(
        [sys.executable, "-c", "import time; x = bytearray(b'1') * 200_000_000; time.sleep(0.3)"]
    )
    assert 200e6 < private < peak < 300e6
