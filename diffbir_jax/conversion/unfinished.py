"""Safetensors files whose end has not come: download tools may reserve the whole file, and what is missing is zeros."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion.stored import CheckpointError

CHUNK = 1 << 20
# Bytes of zeros at the end of a tensor with other values: 64 numbers in a row, or more in half precision.
SUDDEN = 256
# Tensors of zeros after it. One may be right at the end of any file, such as the bias of a new layer.
SEVERAL = 2


def check_end(path: Path) -> None:
    """Refuse a safetensors file that ends in the zeros of an unfinished download.

    Zeros alone say little: biases and the last layers of a new ControlNet are zero. Such zeros fill whole tensors, and
    a download stops anywhere. So the zeros must begin inside a tensor and fill `SEVERAL` more up to the end, or be more
    than half of all values.

    Args:
        path: a whole safetensors file by its header.

    Raises:
        CheckpointError: it does.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        first, size = 8 + length, path.stat().st_size
        begin = _last_value(file, first, size) - first
    spans = {name: x["data_offsets"] for name, x in header.items() if name != "__metadata__"}
    empty = sorted((start, name) for name, (start, end) in spans.items() if begin <= start < end)
    inside = max((end - begin for start, end in spans.values() if start < begin < end), default=0)
    values = size - first
    if len(empty) >= SEVERAL and (inside >= SUDDEN or values - begin > values // 2):
        raise CheckpointError(
            f"{path} has only zeros in its last {len(empty)} tensors, from {shown(empty[0][1])} on: "
            "the download did not finish; fetch it again"
        )


def _last_value(file: BinaryIO, first: int, size: int) -> int:
    """The place after the last byte that is not zero; `first` if there is none behind it."""
    for start in _backwards(first, size):
        file.seek(start)
        kept = file.read(min(CHUNK, size - start)).rstrip(b"\0")
        if kept:
            return start + len(kept)
    return first


def _backwards(first: int, size: int) -> Iterator[int]:
    while size > first:
        size = max(first, size - CHUNK)
        yield size
