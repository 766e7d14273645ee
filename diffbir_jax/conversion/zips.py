"""Where the entries of an uncompressed zip archive lie in its file. Archives that contradict themselves are refused."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

# The header before each entry: signature, 22 bytes, lengths of its name and its extra field.
HEADER = struct.Struct("<4s22xHH")
SIGNATURE = b"PK\x03\x04"


@dataclass(frozen=True)
class Entry:
    """An entry's place in the file: first byte and number of bytes."""

    start: int
    size: int

    def of(self, file: memoryview | object) -> memoryview:
        """Its bytes in the mapped file."""
        return memoryview(file)[self.start : self.start + self.size]  # pyright: ignore[reportArgumentType]


def entries(path: Path) -> dict[str, Entry]:
    """The entries by name.

    Raises:
        ValueError: an entry is compressed, encrypted, there twice, lies over another one or outside the file.
        zipfile.BadZipFile: the archive has no end or is damaged.
        OSError: the file cannot be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (NotImplementedError, OverflowError, struct.error) as error:
        raise ValueError(f"damaged directory of the zip archive, {error}") from error
    with archive, path.open("rb") as file:
        infos = archive.infolist()
        if len({info.filename for info in infos}) != len(infos):
            raise ValueError("two entries of one name in the zip archive")
        found = {info.filename: _entry(info, file) for info in infos}
        _check_apart([(info.header_offset, found[info.filename]) for info in infos], archive.start_dir)
    return found


def _entry(info: zipfile.ZipInfo, file: object) -> Entry:
    name = info.filename[-40:]
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"{name!r} is compressed in the zip archive, which PyTorch never does")
    if info.flag_bits & 1:
        raise ValueError(f"{name!r} is encrypted in the zip archive")
    file.seek(info.header_offset)  # pyright: ignore[reportAttributeAccessIssue]
    header = file.read(HEADER.size)  # pyright: ignore[reportAttributeAccessIssue]
    if len(header) < HEADER.size or header[:4] != SIGNATURE:
        raise ValueError(f"{name!r} is not where the zip archive says")
    _, named, extra = HEADER.unpack(header)
    return Entry(info.header_offset + HEADER.size + named + extra, info.file_size)


def _check_apart(placed: list[tuple[int, Entry]], end: int) -> None:
    """No entry may reach into the next one or into the directory at the end: such archives multiply their size."""
    starts = [*sorted(start for start, _ in placed), end]
    following = dict(zip(starts, starts[1:]))
    if len(following) != len(placed):
        raise ValueError("two entries at one place in the zip archive")
    for start, entry in placed:
        if entry.start + entry.size > following[start]:
            raise ValueError("entries of the zip archive lie over each other, or their sizes are wrong")
