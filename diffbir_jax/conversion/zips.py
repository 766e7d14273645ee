"""Where the entries of an uncompressed zip archive lie in its file. Archives that contradict themselves are refused."""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

# The header before each entry: signature, 22 bytes, lengths of its name and its extra field.
HEADER = struct.Struct("<4s22xHH")
SIGNATURE = b"PK\x03\x04"


class DamagedError(ValueError):
    """Bytes changed after the file was written; the message has no path."""


@dataclass(frozen=True)
class Entry:
    """An entry's place in the file.

    Attributes:
        name: the entry's.
        start: its first byte.
        size: number of bytes in the file.
        crc: CRC-32 of its content.
        packed: whether it is compressed; its bytes are then of no use here.
    """

    name: str
    start: int
    size: int
    crc: int
    packed: bool = False

    def of(self, file: memoryview | object) -> memoryview:
        """Its bytes in the mapped file.

        Raises:
            ValueError: it is compressed.
        """
        if self.packed:
            raise ValueError(
                f"{self.name[-40:]!r} is compressed in the zip archive, which PyTorch never does"
            )
        return memoryview(file)[self.start : self.start + self.size]  # pyright: ignore[reportArgumentType]

    def check(self, content: memoryview) -> None:
        """Compare the bytes with the archive's CRC-32.

        Raises:
            DamagedError: they differ.
        """
        # PyTorch writes 0 where it is told to compute none (`torch.serialization.set_crc32_options`).
        if self.crc and zlib.crc32(content) != self.crc:
            raise DamagedError(
                f"the bytes of {self.name[-40:]!r} do not have the checksum of the zip archive"
            )


def entries(path: Path) -> dict[str, Entry]:
    """The entries by name.

    Raises:
        ValueError: an entry is encrypted, of two sizes, there twice, lies over another one or outside the file.
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
    packed = info.compress_type != zipfile.ZIP_STORED
    if info.flag_bits & 1:
        raise ValueError(f"{name!r} is encrypted in the zip archive")
    if not packed and info.compress_size != info.file_size:
        raise ValueError(f"{name!r} has two sizes in the zip archive")
    # Where bytes before it are lost, an entry may seem to lie before the file.
    file.seek(max(info.header_offset, 0))  # pyright: ignore[reportAttributeAccessIssue]
    header = file.read(HEADER.size)  # pyright: ignore[reportAttributeAccessIssue]
    if info.header_offset < 0 or len(header) < HEADER.size or header[:4] != SIGNATURE:
        raise ValueError(f"{name!r} is not where the zip archive says")
    _, named, extra = HEADER.unpack(header)
    start = info.header_offset + HEADER.size + named + extra
    # Programs of TorchScript have compressed entries beside the others.
    return Entry(info.filename, start, info.compress_size, info.CRC, packed)


def _check_apart(placed: list[tuple[int, Entry]], end: int) -> None:
    """No entry may reach into the next one or into the directory at the end: such archives multiply their size."""
    starts = [*sorted(start for start, _ in placed), end]
    following = dict(zip(starts, starts[1:]))
    if len(following) != len(placed):
        raise ValueError("two entries at one place in the zip archive")
    for start, entry in placed:
        if entry.start + entry.size > following[start]:
            raise ValueError("entries of the zip archive lie over each other, or their sizes are wrong")
