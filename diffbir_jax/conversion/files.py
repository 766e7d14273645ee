"""Checkpoint files of any format as key -> array. Values are read on demand."""

import importlib
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from diffbir_jax.console.errors import UserError

TORCH_SUFFIXES = (".ckpt", ".pth", ".pt", ".bin")
# Dicts that hold the weights beside other things; an averaged copy comes before the last one.
WRAPPERS = ("params_ema", "state_dict", "params", "model")
# Prefixes of training tools on every key: data parallelism, compilation, DiffBIR v1's name of its ControlNet.
PREFIXES = ("module.", "_orig_mod.", "control_model.")

# Types that numpy can hold, by the names in safetensors and PyTorch. fp8 and packed types would need a scale.
READABLE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
READABLE |= {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


class CheckpointError(UserError):
    """A file is not a checkpoint, is damaged or must not be read; the message says which and what to do."""


@dataclass(frozen=True)
class Stored:
    """An array in a file. numpy reads it when it needs the values; nothing keeps them."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


State = dict[str, Stored]


def read_tensors(path: Path) -> State:
    """The bare state dict of a PyTorch or safetensors file, without wrappers and without prefixes common to all keys.

    Values are read from the file on demand. Only a PyTorch file in the format before version 1.6 is read at once.

    Raises:
        CheckpointError: the file has another format, is damaged, has a precision that numpy lacks (fp8), or needs
            arbitrary unpickling.
        ImportError: a PyTorch file is given and PyTorch is not installed.
        OSError: the file cannot be read.
    """
    with path.open("rb"):  # raises the system's error, if any
        pass
    if path.suffix.lower() == ".safetensors":
        return _strip(_read_safetensors(path))
    if path.suffix.lower() in TORCH_SUFFIXES:
        return _strip(_read_torch(path))
    known = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise CheckpointError(
        f"{path}: unknown kind of file; give a {known} file, a diffusers folder or ncnn's .param"
    )


def import_torch() -> ModuleType:
    """PyTorch.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            "PyTorch is needed to read and write .ckpt, .pth, .pt and .bin files and is not installed: "
            "pip install 'diffbir-jax[convert]' (.safetensors files do without)"
        ) from error


def unwrap(loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost dict of weights in a training tool's file."""
    while True:
        inner = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            return loaded
        loaded = inner


def _strip(state: State) -> State:
    # Tools may be nested, so prefixes are removed until none is left.
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): x for key, x in state.items()}
    return state


def _read_safetensors(path: Path) -> State:
    try:
        file = safe_open(path, "np")
        names = file.keys()
        slices = {key: file.get_slice(key) for key in names}
        _check_dtypes(path, {key: x.get_dtype() for key, x in slices.items()}, READABLE.keys())
        return {
            key: Stored(
                tuple(x.get_shape()), np.dtype(READABLE[x.get_dtype()]), lambda key=key: file.get_tensor(key)
            )
            for key, x in slices.items()
        }
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or it is truncated ({error})") from error


def _read_torch(path: Path) -> State:
    torch = import_torch()
    try:
        # The format before PyTorch 1.6 is no zip archive and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        # weights_only: an ordinary pickle can run any code. mmap: values are read only when needed.
        loaded = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_refusal(str(error))}") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or it is truncated ({reason})") from error
    loaded = unwrap(loaded) if isinstance(loaded, Mapping) else {}
    tensors = {key: x for key, x in loaded.items() if isinstance(key, str) and isinstance(x, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no state dict: no tensors by name, bare or in {', '.join(WRAPPERS)}"
        )
    odd = next((key for key, x in tensors.items() if x.is_meta or x.layout != torch.strided), None)
    if odd is not None:
        raise CheckpointError(f"{path}: {odd} is sparse or without values: save plain tensors")
    dtypes = {key: str(x.dtype).removeprefix("torch.") for key, x in tensors.items()}
    _check_dtypes(path, dtypes, READABLE.values())
    return {
        key: Stored(tuple(x.shape), np.dtype(dtypes[key]), lambda x=x: _to_numpy(torch, x))
        for key, x in tensors.items()
    }


def _check_dtypes(path: Path, dtypes: Mapping[str, str], readable: Collection[str]) -> None:
    odd = next(((key, dtype) for key, dtype in dtypes.items() if dtype not in readable), None)
    if odd:
        raise CheckpointError(
            f"{path}: {odd[0]} is stored as {odd[1]}, which is not read: give a copy in fp32, bf16 or fp16"
        )


def _refusal(message: str) -> str:
    """Why `weights_only` stopped: the file has objects other than tensors, or is no pickle."""
    found = re.search(r"(?:GLOBAL|class|global:?) ([\w.]+\.\w+)", message)
    if found is None:
        return f"is not a PyTorch checkpoint, or it is truncated ({message.splitlines()[0]})"
    return (
        f"is refused: reading its {found[1]} takes arbitrary unpickling, which can run any code. "
        "Save the state dict alone, as .safetensors, where you trust the file"
    )


def _to_numpy(torch: ModuleType, tensor: Any) -> np.ndarray:
    """The tensor's memory as an array, without PyTorch's lazy minus signs; numpy itself has no bfloat16."""
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        # Through int16 of the same width, so no bit changes.
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()
