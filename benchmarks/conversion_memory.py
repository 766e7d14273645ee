"""Peak memory of converting Stable Diffusion, per byte of its file: python -m benchmarks.conversion_memory.

Each case fills a file that has the keys and shapes of the published one with computed values, and converts it in a
process of its own, whose memory is read from /proc (Linux). At full size it takes 10.5 GB of disk, in the folder for
temporary files or in --folder, and leaves nothing there.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from diffbir_jax.conversion.files import read_tensors
from diffbir_jax.conversion.torch_writing import write_torch
from diffbir_jax.weights.safetensors import write_arrays

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "tests" / "golden" / "checkpoints" / "stable_diffusion_v2-1.json.gz"
# Name -> kind of file, its precision, the precision of the result.
CASES = {
    "fp32": ("safetensors", "float32", "fp32"),
    "to-bf16": ("safetensors", "float32", "bf16"),
    "fp16": ("safetensors", "float16", "fp32"),
    "ckpt": ("ckpt", "float32", "fp32"),
}
Shapes = Mapping[str, tuple[int, ...]]


def read_manifest(path: Path) -> Shapes:
    """Read key -> shape from JSON, compressed or not."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return {key: tuple(shape) for key, shape in json.loads(text).items()}


def values(shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, array) one at a time, so that only the file takes room."""
    pattern = np.linspace(-0.1, 0.1, 9973, dtype=np.float32)
    for key, shape in shapes.items():
        yield key, np.resize(pattern, shape)


def write_source(folder: Path, kind: str, shapes: Shapes, dtype: str) -> Path:
    """Write a checkpoint of these shapes."""
    path = folder / "source.safetensors"
    write_arrays(path, shapes, values(shapes), {}, dict.fromkeys(shapes, dtype))
    if kind == "ckpt":
        state = {key: np.asarray(x) for key, x in read_tensors(path).items()}
        write_torch(path.with_suffix(".ckpt"), {"state_dict": state})
        path.unlink()
    return path.with_suffix(f".{kind}")


def measure(command: list[str]) -> tuple[int, int]:
    """Run a command; return the peak of its resident memory and of the part that is no mapped file, in bytes.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = private = 0
    while process.poll() is None:
        fields = [line.split() for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()]
        size = {field[0]: 1024 * int(field[1]) for field in fields if field[-1] == "kB"}
        peak = max(peak, size.get("VmHWM:", 0))
        private = max(private, size.get("RssAnon:", 0))
        time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, private


def row(case: str, shapes: Shapes, folder: Path | None) -> str:
    """Measure a case; return its line of the table."""
    kind, stored, dtype = CASES[case]
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        source = write_source(Path(work), kind, shapes, stored)
        size = source.stat().st_size
        script = [sys.executable, "convert_weights.py", "--dtype", dtype]
        peak, private = measure([*script, "--input", str(source), "--output", str(Path(work) / "out")])
    ratios = f"{peak / size:.2f} | {private / size:.2f}"
    return f"| .{kind} {stored}, {size / 1e9:.2f} GB | {dtype} | {ratios} |"


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES), help="default: all")
    parser.add_argument(
        "--manifest", type=Path, default=MANIFEST, help="JSON, key -> shape, for another size"
    )
    parser.add_argument("--folder", type=Path, help="folder for the files, made if missing")
    args = parser.parse_args(argv)
    print("| source | stored as | peak memory / file | without mapped files |\n|---|---|---|---|")
    for case in args.case:
        print(row(case, read_manifest(args.manifest), args.folder), flush=True)


if __name__ == "__main__":
    main()
