"""ArrayRecord shards, which `python -m diffbir_jax.data.prepare` writes: the format, reading, writing."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import cast

import fsspec
import msgpack

from diffbir_jax.data.example import BrokenExampleError, DataError, Example
from diffbir_jax.data.sources.files import find_shards, is_local, locate, whole
from diffbir_jax.data.sources.shared import PerProcess, digest, extra, part_of
from diffbir_jax.files.errors import reason

SUFFIXES = (".array_record", ".array_record-*")
KINDS = ("short", "long")
# Groups of one record allow random access; images are already compressed.
_WRITER = "group_size:1,uncompressed"


class ArrayRecordSource:
    """Examples in ArrayRecord shards, each a record of `pack`."""

    def __init__(self, path: str | Sequence[str], cache: str | None = None):
        """Open every shard once to count its records.

        Args:
            path: shards: paths, URLs, globs, folders, ranges such as `{000..012}`.
            cache: folder for copies of remote shards, because ArrayRecord reads only local files. It needs room for all
                shards, and all are copied before the first read. A later run copies only changed ones. Default:
                `diffbir_jax/shards` in XDG_CACHE_HOME, or in ~/.cache.

        Raises:
            DataError: there is no shard, one is damaged or has another format, or all are empty.
        """
        shards = find_shards(path, SUFFIXES)
        files = [_local(shard, cache) for shard in shards]
        self._ends = list(accumulate(_count(file, shard) for file, shard in zip(files, shards)))
        self._names = [os.path.basename(shard) for shard in shards]
        if not self._ends[-1]:
            raise DataError(f"{shards[0]}: no record in {len(shards)} shard(s); prepare them again")
        self._records = PerProcess(partial(_open, files))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        """Read record `index`; BrokenExampleError if it is damaged or was not written by `pack`."""
        try:
            record = self._records()[index]
        except (RuntimeError, OSError) as error:
            raise BrokenExampleError(f"{self._place(index)}: cannot be read ({reason(error)})") from None
        return unpack(record, self._place(index))

    def _place(self, index: int) -> str:
        which, within = part_of(self._ends, index)
        return f"{self._names[which]}, record {within}"

    @property
    def fingerprint(self) -> str:
        """Digest of the shards' names and record counts, without their folders: data may move."""
        return digest(part for pair in zip(self._names, self._ends) for part in pair)


def pack(name: str, image: bytes, captions: Mapping[str, str]) -> bytes:
    """Return a record: a msgpack map of `name` (str), `image` (bytes of an image file), `short` and `long` (str)."""
    fields = {"name": name, "image": image} | {kind: captions.get(kind, "") for kind in KINDS}
    # Names of files are bytes, and may be no UTF-8.
    return cast(bytes, msgpack.packb(fields, unicode_errors="surrogateescape"))


def unpack(record: bytes, place: str) -> Example:
    """Read what `pack` wrote.

    Args:
        record: the record.
        place: its shard and number, for messages.

    Raises:
        BrokenExampleError: it is no such map.
    """
    try:
        fields = msgpack.unpackb(record, unicode_errors="surrogateescape")
        name, image = fields["name"], fields["image"]
        captions = {kind: fields[kind] for kind in KINDS if fields.get(kind)}
    except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException):
        raise BrokenExampleError(f"{place}: is no msgpack map of name, image, short and long") from None
    if not isinstance(image, bytes):
        raise BrokenExampleError(f"{place}: its image is {type(image).__name__}, not bytes")
    return Example(f"{place}: {name}", image, captions)


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Write records to an ArrayRecord file. It appears only when complete. Equal records give equal bytes.

    Args:
        path: the file; `unfinished(path)` is written over.
        records: records made by `pack`.

    Raises:
        OSError: it cannot be written.
    """
    module = extra("array_record.python.array_record_module", "ArrayRecord shards")
    partly = unfinished(path)
    with _writing(path):
        writer = module.ArrayRecordWriter(str(partly), _WRITER)
    for record in records:
        with _writing(path):
            writer.write(record)
    with _writing(path):
        writer.close()
    os.replace(partly, path)


def unfinished(path: Path) -> Path:
    """Return the file that `write_shard` writes until it is complete."""
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path}: cannot be written ({reason(error)})") from None


def _local(shard: str, cache: str | None) -> str:
    if is_local(shard):
        return locate(shard)[1]
    folder = cache or f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/diffbir_jax/shards"
    # Without an expiry, but with a check, a shard is copied again only if the remote file changed.
    options = {"cache_storage": os.path.expanduser(folder), "check_files": True, "expiry_time": False}
    with whole(shard):
        return str(fsspec.open_local(f"filecache::{shard}", mode="rb", filecache=options))


def _count(file: str, shard: str) -> int:
    module = extra("array_record.python.array_record_module", "ArrayRecord shards")
    try:
        reader = module.ArrayRecordReader(file)
        count = reader.num_records()
        # Only `close` reports that the file has another format.
        reader.close()
    except RuntimeError as error:
        raise DataError(
            f"{shard}: is no ArrayRecord file, or is cut off ({reason(error)}); copy or prepare it again"
        ) from None
    return count


def _open(files: list[str]) -> Sequence[bytes]:
    module = extra("array_record.python.array_record_data_source", "ArrayRecord shards")
    return module.ArrayRecordDataSource(files)
