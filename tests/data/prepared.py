"""diffbir data prepare in the current folder: its inputs, and what it wrote."""

from pathlib import Path

from PIL import Image

from diffbir_jax.data import prepare as command
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import png, put


def call(*flags: object, inputs: object = "in", output: object = "out", workers: int = 0) -> int:
    given = ["--input", inputs, "--output", output, "--workers", workers, "--min-side", 16, *flags]
    return command.main([str(each) for each in given])


def files(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def kept(folder: str = "out") -> list[tuple[str, bytes]]:
    """Names, without where shards lie, and images."""
    source = make_source({"kind": "array_record", "path": folder})
    examples = [source[i] for i in range(len(source))]
    return [(example.name.rpartition(": ")[2], bytes(example.image)) for example in examples]


def fill() -> list[str]:
    """Eight files of which three are fit: names in order."""
    for name, side, seed in (("a", 32, 0), ("c", 31, 1), ("e", 32, 2), ("g", 40, 3)):
        put(f"in/{name}.png", png(seed, side))
    put("in/b.png", png(5, 32)[:-30])
    put("in/d.png", b"no image")
    Image.open("in/a.png").save("in/f.webp", lossless=True)
    put("in/h.png", b"")
    return [f"in/{name}" for name in "abcdefgh"]
