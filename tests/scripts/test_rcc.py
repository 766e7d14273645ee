import struct
import zlib
from pathlib import Path

import pytest

from scripts.rcc import Archive, RccError, read_archive
from tests.scripts.rcc_file import ENTRY, rcc_file

FILES = {"app/photos/é.webp": b"photo" * 200, "app/README": b"by A", "app/photos/b.webp": b"b"}
PACKED = frozenset({"app/photos/é.webp"})


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_are_read_plain_and_compressed(version: int) -> None:
    archive = Archive(rcc_file(FILES, PACKED, version))
    assert {path: archive.read(path) for path in archive.places} == FILES


def test_compression_is_that_of_the_file() -> None:
    """The first test would pass if the helper never compressed."""
    assert len(rcc_file(FILES, PACKED)) < len(rcc_file(FILES)) - 500


def _at(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


WHOLE = rcc_file(FILES, PACKED)
TREE, BLOBS = struct.unpack_from(">2I", WHOLE, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK" + WHOLE[2:], r"begins with b'PKes', not b'qres': give a Qt resource file"),
        (_at(WHOLE, 4, struct.pack(">I", 9)), "has format 9; 1 to 3 can be read"),
        (WHOLE[:10], "ends before byte 0; fetch the file again"),
        (WHOLE[:-4], "ends within a name"),
        (WHOLE[: TREE + 30], "ends before byte"),
        # The root says that it has many children, or itself as its child.
        (_at(WHOLE, TREE + 6, struct.pack(">I", 10**9)), "ends before byte|repeats an entry"),
        (_at(WHOLE, TREE + 10, struct.pack(">I", 0)), "its root: repeats an entry"),
    ],
)
def test_damaged_archives_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(RccError, match=message):
        Archive(data)


def _entry(path: str) -> int:
    """Where the data of a file start."""
    return BLOBS + Archive(WHOLE).places[path][0]


@pytest.mark.parametrize(
    ("path", "offset", "new", "message"),
    [
        (
            "app/README",
            0,
            struct.pack(">I", 10**6),
            r"README: ends after \d+ of 1000000 bytes; fetch the file",
        ),
        ("app/photos/é.webp", 10, b"\0\0\0", "é.webp: cannot be decompressed"),
        ("app/photos/é.webp", 4, struct.pack(">I", 7), "é.webp: decompresses to a wrong length"),
    ],
)
def test_a_damaged_entry_leaves_the_others_readable(path: str, offset: int, new: bytes, message: str) -> None:
    archive = Archive(_at(WHOLE, _entry(path) + offset, new))
    with pytest.raises(RccError, match=message):
        archive.read(path)
    assert archive.read("app/photos/b.webp") == b"b"


def test_zstandard_is_told_of() -> None:
    flags = TREE + 2 * ENTRY[3] + 4  # the entry after the root and app: README
    archive = Archive(_at(WHOLE, flags, struct.pack(">H", 4)))
    with pytest.raises(RccError, match="app/README: is compressed by Zstandard; only zlib"):
        archive.read("app/README")


def test_messages_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.rcc").write_bytes(zlib.compress(b"x"))
    with pytest.raises(RccError, match=r"a\.rcc: "):
        read_archive(tmp_path / "a.rcc")
