"""Checkpoints without checksums: whether Orbax wrote them and every array is there to be read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

# Files of Orbax: of a checkpoint (older versions have none), of its arrays, of the position in the data.
CHECKPOINT, ARRAYS, PLACE = "_CHECKPOINT_METADATA", "default/_METADATA", "position/metadata"


def unreadable(place: Path) -> str:
    """Return why a checkpoint cannot be restored from; "" if it can.

    It reads all arrays once, as a restart does. Without checksums, this is the only way to know that none is missing.
    """
    if not any((place / mark).is_file() for mark in (CHECKPOINT, ARRAYS)):
        return f"it holds no {CHECKPOINT} or {ARRAYS}, so something else made it"
    try:
        if (place / CHECKPOINT).exists():
            _mapping(place / CHECKPOINT)
        if (place / PLACE).parent.exists():
            _mapping(place / PLACE)
        missing = _missing(place / ARRAYS)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"it is not complete: {' '.join(str(error).split())[:200]}"
    return f"it is not complete: {missing} is missing" if missing else ""


def _mapping(path: Path) -> Mapping[str, Any]:
    """Read a map of JSON; ValueError for anything else."""
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} is no map of JSON")
    return content


def _missing(metadata: Path) -> str:
    """Return the first array that the metadata names and the files do not hold; "" if all are there."""
    known = _mapping(metadata)
    leaves = known["tree_metadata"].values()
    stored = [each for each in leaves if not each["value_metadata"].get("skip_deserialize")]
    names = [".".join(str(part["key"]) for part in each["key_metadata"]) for each in stored]
    if not names:
        return "every array"
    there = _read_all(metadata.parent, "ocdbt" if known.get("use_ocdbt", True) else "file")
    return next((name for name in sorted(names) if name not in there), "")


def _read_all(folder: Path, driver: str) -> set[str]:
    """Read all values of a database of arrays; return the arrays' names. ValueError if one cannot be read."""
    base = {"driver": "file", "path": f"{folder}/"}
    store = ts.KvStore.open(base if driver == "file" else {"driver": driver, "base": base}).result()
    names: set[str] = set()
    for key in store.list().result():
        # One at a time: a value may have gigabytes. Those of a lost file are read as empty.
        if not store.read(key).result().value:
            raise ValueError(f"{key.decode()} cannot be read")
        names.add(key.decode().rpartition("/")[0])
    return names
