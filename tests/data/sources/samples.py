"""Small images, and what every source must do with them."""

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np
from PIL import Image

from diffbir_jax.data.example import Source


def png(seed: int, side: int = 16) -> bytes:
    """A PNG file; others for other seeds."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def place_on(system: str, tmp_path: Path) -> str:
    """A folder of this test's own on the disk, or on a file system that only URLs reach."""
    return str(tmp_path / "data") if system == "file" else f"memory://{tmp_path.name}/data"


def put(place: str | Path, content: bytes | str) -> str:
    """Write a file on any file system; its folders appear by themselves."""
    data = content.encode() if isinstance(content, str) else content
    with fsspec.open(str(place), "wb", auto_mkdir=True) as file:
        file.write(data)
    return str(place)


def check_reads(
    source: Source,
    images: Sequence[bytes],
    captions: Sequence[Mapping[str, str]],
    names: Callable[[int], str],
) -> None:
    """The source yields these images in this order, with captions, and says where they are from."""
    examples = [source[i] for i in range(len(source))]
    assert [example.image for example in examples] == list(images)
    assert [dict(example.captions) for example in examples] == list(captions)
    for i, example in enumerate(examples):
        assert names(i) in example.name


def check_copies(source: Source) -> None:
    """A copy for another process, made after the first read, is small and reads the same."""
    first = source[0]
    packed = pickle.dumps(source)
    assert len(packed) < 8192
    copy = pickle.loads(packed)
    assert len(copy) == len(source) and copy.fingerprint == source.fingerprint
    assert copy[len(copy) - 1] == source[len(source) - 1] and copy[0] == first
