"""Checkpoint files of any format as key -> array. Values are read on demand."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from diffbir_jax.conversion.contents import Contents, contents, everything
from diffbir_jax.conversion.kinds import kind_of
from diffbir_jax.conversion.stored import CheckpointError, State, Stored, check_key
from diffbir_jax.conversion.torch_files import read_torch
from diffbir_jax.conversion.unfinished import check_end

__all__ = ["CheckpointError", "Contents", "State", "Stored", "read_all", "read_contents", "read_tensors"]

# Prefixes of training tools on every key: data parallelism, compilation, DiffBIR v1's name of its ControlNet.
PREFIXES = ("module.", "_orig_mod.", "control_model.")

# Types that numpy can hold, by the names in safetensors. fp8 and packed types would need a scale.
READABLE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
READABLE |= {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


def read_tensors(path: Path) -> State:
    """The bare state dict of a PyTorch or safetensors file, without wrappers and without prefixes common to all keys.

    Raises:
        CheckpointError: the file has another format, is damaged, or has a precision that numpy lacks (fp8).
        OSError: the file cannot be read.
    """
    return _strip(read_contents(path).state)


def read_contents(path: Path, key: str | None = None) -> Contents:
    """The weights in a PyTorch or safetensors file, whatever its name, and notes on what was chosen.

    Values are read from the file on demand. Nothing in the file is run.

    Args:
        path: the file.
        key: name of the dict of weights in a PyTorch file; by default see `contents.contents`.

    Raises:
        CheckpointError: the file has another format, is damaged, or has a precision that numpy lacks (fp8).
        OSError: the file cannot be read.
    """
    if kind_of(path) == "torch":
        return contents(path, read_torch(path), key)
    if key:
        raise CheckpointError(f"{path} is a safetensors file, which has no dicts inside: leave --key out")
    return Contents(_read_safetensors(path))


def read_all(path: Path) -> State:
    """All tensors in a PyTorch or safetensors file; those in inner dicts have the dicts' names before theirs.

    Raises:
        CheckpointError: the file has another format, is damaged or holds no tensors.
        OSError: the file cannot be read.
    """
    return everything(path, read_torch(path)) if kind_of(path) == "torch" else _read_safetensors(path)


def _strip(state: State) -> State:
    # Tools may be nested, so prefixes are removed until none is left.
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): x for key, x in state.items()}
    return state


def _read_safetensors(path: Path) -> State:
    try:
        file = safe_open(path, "np")
        names = file.keys()
        for key in names:
            check_key(path, key)
        check_end(path)
        slices = {key: file.get_slice(key) for key in names}
        _check_dtypes(path, {key: x.get_dtype() for key, x in slices.items()}, READABLE.keys())
        return {
            key: Stored(
                tuple(x.get_shape()), np.dtype(READABLE[x.get_dtype()]), lambda key=key: file.get_tensor(key)
            )
            for key, x in slices.items()
        }
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file, or it is truncated ({error}): fetch it again"
        ) from error


def _check_dtypes(path: Path, dtypes: Mapping[str, str], readable: Collection[str]) -> None:
    odd = next(((key, dtype) for key, dtype in dtypes.items() if dtype not in readable), None)
    if odd:
        raise CheckpointError(
            f"{path}: {odd[0]} is stored as {odd[1]}, which is not read: give a copy in fp32, bf16 or fp16"
        )
