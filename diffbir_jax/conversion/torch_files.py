"""Files of PyTorch without PyTorch: the zip format of version 1.6 and later, and the formats before it.

The file is mapped, so values take memory only when they are used. Nothing in the file runs (`pickles`).
"""

import io
import mmap
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from diffbir_jax.conversion import pickles
from diffbir_jax.conversion.pickled_arrays import Storage
from diffbir_jax.conversion.pickles import Stream
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.conversion.zips import DamagedError, Entry, entries

# What files before 1.6 start with, as pickles, and the version of that format.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
BEFORE_PICKLE = 8  # bytes of a storage's length in these files


def read_torch(path: Path) -> object:
    """The object in a PyTorch file, as `pickles.load` gives it. Its tensors are read on demand.

    Raises:
        CheckpointError: the file is damaged or of another kind; the message is one line.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        if mapped[:2] == b"PK":
            return _read_zip(path, mapped)
        return _read_old(mapped, memoryview(mapped), _read_within)
    except CheckpointError:
        raise
    except DamagedError as error:
        raise CheckpointError(f"{path} is damaged: {error}; fetch it again") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is truncated, or damaged at its end: a zip archive without its directory; fetch it again"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or it is truncated ({error}): fetch it again"
        ) from error


def _read_zip(path: Path, mapped: mmap.mmap) -> object:
    """One folder with `data.pkl`, the storages as `data/KEY`, and perhaps `byteorder`."""
    found = entries(path)
    folder = _folder(path, found)
    storages: dict[str, Storage] = {}
    root = pickles.load(io.BytesIO(_checked(found[f"{folder}data.pkl"], mapped)), storages)
    order = found.get(f"{folder}byteorder")
    big = order is not None and bytes(_checked(order, mapped)) == b"big"
    for key, storage in storages.items():
        _place(storage, key, found.get(f"{folder}data/{key}"), mapped)
        storage.big_endian = big
    return root


def _folder(path: Path, found: dict[str, Entry]) -> str:
    names = [name for name in found if name.rsplit("/", 1)[-1] == "data.pkl" and name.count("/") == 1]
    if any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in found):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a state dict: load it in PyTorch and save its state_dict()"
        )
    if len(names) != 1:
        some = ", ".join(sorted(found)[:3]) or "nothing"
        raise CheckpointError(f"{path} is a zip archive, but not one of PyTorch: it holds {some}")
    return names[0].removesuffix("data.pkl")


def _place(storage: Storage, key: str, entry: Entry | None, mapped: mmap.mmap) -> None:
    if entry is None:
        raise ValueError(f"storage {key[:20]} is missing")
    if (storage.nbytes or 0) > entry.size:
        raise ValueError(f"storage {key[:20]} has {entry.size:,} bytes, {storage.nbytes:,} are needed")
    storage.values = entry.of(mapped)
    storage.check = partial(entry.check, storage.values)


def _checked(entry: Entry, mapped: mmap.mmap) -> memoryview:
    content = entry.of(mapped)
    entry.check(content)
    return content


def _read_within(data: bytes) -> object:
    """A storage inside a pickle; further ones inside it stay unread."""
    return _read_old(io.BytesIO(data), memoryview(data))


def _read_old(stream: Stream, whole: memoryview, within: Callable[[bytes], object] | None = None) -> object:
    """Pickles one after another: magic number, version, system, the object, its storages' keys; then their values."""
    if whole[257:262] == b"ustar":
        raise ValueError("the tar format of PyTorch before 0.1.10")
    storages: dict[str, Storage] = {}
    first = pickles.load(stream, storages, within)
    if first != MAGIC:
        return first  # a plain pickle, of NumPy arrays perhaps
    if pickles.load(stream, {}) != PROTOCOL:
        raise ValueError("unknown version of the format before 1.6")
    system = pickles.load(stream, {})
    root = pickles.load(stream, storages)
    big = isinstance(system, dict) and system.get("little_endian") is False
    keys = pickles.load(stream, {})
    _place_old(storages, keys, whole, stream.tell(), "big" if big else "little")
    return root


def _place_old(
    storages: dict[str, Storage],
    keys: object,
    whole: memoryview,
    position: int,
    order: Literal["little", "big"],
) -> None:
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(str(key))
        if storage is None or storage.nbytes is None:
            raise ValueError(f"storage {str(key)[:20]} of an unknown type")
        start = position + BEFORE_PICKLE
        stated = int.from_bytes(whole[position:start], order)
        if stated != storage.count or start + storage.nbytes > len(whole):
            raise ValueError(f"storage {str(key)[:20]} is cut off, or has another length than is stated")
        storage.values, storage.big_endian = whole[start : start + storage.nbytes], order == "big"
        position = start + storage.nbytes
    if any(storage.values is None for storage in storages.values()):
        raise ValueError("a storage has no values")
