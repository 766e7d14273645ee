"""Weights as safetensors files."""

import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from diffbir_jax.console.errors import MissingFileError, UserError
from diffbir_jax.console.plain import counted
from diffbir_jax.files.trees import Params
from diffbir_jax.files.writing import replacing

# The stored types: their names in numpy (or ml_dtypes, a dependency of jax) and in safetensors.
STORED_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64"}


def flatten(params: Mapping[str, object], prefix: str = "") -> Params:
    """Join the keys of a nested dict with "/": {"a": {"b": x}} -> {"a/b": x}."""
    flat: Params = {}
    for key, value in params.items():
        path = f"{prefix}/{key}" if prefix else key
        flat.update(flatten(value, path) if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, object]) -> Params:
    """Undo `flatten`."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def save_weights(path: str | Path, params: Params, metadata: dict[str, str], dtype: str = "float32") -> Path:
    """Write nested `params` to a safetensors file, atomically.

    Args:
        path: the file.
        params: nested dict of arrays.
        metadata: strings stored in the file's header.
        dtype: stored precision, "float32", "bfloat16" or "float16".

    Returns:
        The path written.
    """
    arrays = dict(sorted(flatten(params).items()))
    shapes = {key: np.shape(x) for key, x in arrays.items()}
    parts = ((key, np.asarray(x)) for key, x in arrays.items())
    write_arrays(path, shapes, parts, metadata, dict.fromkeys(shapes, dtype))
    return Path(path)


def write_arrays(
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    parts: Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
    dtypes: Mapping[str, str],
) -> str:
    """Write a safetensors file, atomically and one array at a time. The arrays need not fit into memory together.

    Args:
        path: the file.
        shapes: key -> shape, in the order of the file.
        parts: (key, values) in that order. An array may come as several parts along its leading axis.
        metadata: strings stored in the file's header.
        dtypes: key -> stored dtype, one of `STORED_TYPES`; values are cast to it.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        ValueError: the parts do not add up to the shapes, or a dtype is not allowed.
    """
    path = Path(path)
    header, sizes = _header(shapes, dtypes, metadata)
    digest, written = hashlib.sha256(header), Counter[str]()
    with replacing(path, path.with_name(f"{path.name}.partial")) as file:
        file.write(header)
        for key, part in parts:
            values = np.ascontiguousarray(part, dtypes[key]).reshape(-1).view(np.uint8)
            file.write(values.data)
            digest.update(values.data)
            written[key] += values.size
        # The header is written first, so wrong parts would shift all values behind them.
        if written != Counter(sizes):
            raise ValueError(f"{path}: the arrays given do not add up to the shapes in its header")
    return digest.hexdigest()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the strings in the header of a weights file, {} if it has none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file.
    """
    with _opened(path) as file:
        return file.metadata() or {}


def load_weights(path: str | Path, like: Params) -> Params:
    """Read nested float32 params from a safetensors file and check them against `like`.

    Args:
        path: a file that `save_weights` wrote, of any stored precision.
        like: nested dict of arrays or `ShapeDtypeStruct`s with the wanted keys and shapes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file, or keys are missing, unexpected or misshapen (all are listed).
    """
    with _opened(path) as file:
        # Parameters are float32 in memory; callers cast kernels afterwards (`loading.stored`).
        flat = {key: file.get_tensor(key).astype(np.float32, copy=False) for key in file.keys()}  # noqa: SIM118
    problems = mismatches(flat, flatten(like))
    if problems:
        raise UserError(
            f"{path} does not fit the model ({counted(len(problems), 'problem')}):\n  "
            + "\n  ".join(problems)
        )
    return unflatten(flat)


def load_tree(path: str | Path) -> Params:
    """Read nested float32 params from a safetensors file as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file.
    """
    with _opened(path) as file:
        return unflatten({key: file.get_tensor(key).astype(np.float32, copy=False) for key in file.keys()})  # noqa: SIM118


def checksum(path: str | Path) -> str:
    """Return the CRC-32 of the values in a weights file as 8 hexadecimal digits.

    The header does not count, because writing the same weights again may order it differently.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    content = _existing(path).read_bytes()
    header = int.from_bytes(content[:8], "little")
    return f"{zlib.crc32(content[8 + header :]):08x}"


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(f"no weights at {path}: train them first or give another file.")
    return path


@contextmanager
def _opened(path: str | Path) -> Iterator[safe_open]:
    """An open safetensors file."""
    path = _existing(path)
    try:
        with safe_open(path, "np") as file:
            yield file
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}): give one written by diffbir train or diffbir convert."
        ) from error


def _header(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Return the bytes before the values, and the number of bytes of each array."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    sizes, start = {}, 0
    for key, shape in shapes.items():
        if dtypes[key] not in STORED_TYPES:
            raise ValueError(f"dtype {dtypes[key]!r} given, allowed are {', '.join(STORED_TYPES)}")
        sizes[key] = math.prod(shape) * np.dtype(dtypes[key]).itemsize
        span = [start, start := start + sizes[key]]
        entries[key] = {"dtype": STORED_TYPES[dtypes[key]], "shape": list(shape), "data_offsets": span}
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format asks for values aligned to 8 bytes; spaces are valid JSON.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, sizes


def mismatches(given: Params, wanted: Params) -> list[str]:
    """Compare arrays by key with the wanted ones; return a line per missing, unexpected or misshapen key."""
    missing = [f"missing {k} {tuple(wanted[k].shape)}" for k in wanted.keys() - given.keys()]
    unexpected = [f"unexpected {k} {tuple(given[k].shape)}" for k in given.keys() - wanted.keys()]
    misshapen = [
        f"{k} has shape {tuple(given[k].shape)}, wanted {tuple(wanted[k].shape)}"
        for k in given.keys() & wanted.keys()
        if tuple(given[k].shape) != tuple(wanted[k].shape)
    ]
    return sorted(missing) + sorted(unexpected) + sorted(misshapen)
