"""A small Qt resource archive, put together as `rcc` does it."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath

ENTRY = {1: 14, 2: 22, 3: 22}


def rcc_file(files: Mapping[str, bytes], packed: frozenset[str] = frozenset(), version: int = 3) -> bytes:
    """Return an archive of `files` by path, those named in `packed` compressed by zlib."""
    folders = {parent for path in files for parent in PurePosixPath(path).parents}
    children: dict[PurePosixPath, list[PurePosixPath]] = {folder: [] for folder in folders}
    for path in sorted(folders | set(map(PurePosixPath, files))):
        if path.name:
            children[path.parent].append(path)
    order = [PurePosixPath(".")]
    for path in order:  # grows while it is walked: children of an entry follow each other
        order += children.get(path, [])
    names, data, tree = bytearray(), bytearray(), bytearray()
    for path in order:
        tree += struct.pack(">I", len(names))
        if path in children:
            first = order.index(children[path][0])
            tree += struct.pack(">HII", 2, len(children[path]), first)
        else:
            content = files[str(path)]
            is_packed = str(path) in packed
            tree += struct.pack(">HHHI", int(is_packed), 0, 1, len(data))
            if is_packed:
                content = struct.pack(">I", len(content)) + zlib.compress(content)
            data += struct.pack(">I", len(content)) + content
        tree += bytes(-len(tree) % ENTRY[version] if version == 1 else 8)
        names += struct.pack(">HI", len(path.name), 0) + path.name.encode("utf-16-be")
    head = 20 if version < 3 else 24
    places = (head, head + len(tree), head + len(tree) + len(data))
    header = struct.pack(">4s4I", b"qres", version, *places) + bytes(head - 20)
    return header + bytes(tree) + bytes(data) + bytes(names)
