"""Damage to files, drawn from a seed: what disks, networks and attackers do to them."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence

Mutation = Callable[[random.Random, bytearray], None]
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def _place(dice: random.Random, data: bytearray) -> int:
    """A place in a file; every other one lies in the header."""
    return dice.randrange(min(len(data), dice.choice([400, len(data)]) or 1) or 1)


def flip(dice: random.Random, data: bytearray) -> None:
    """Turn some bits."""
    for _ in range(dice.randint(1, 8)):
        data[_place(dice, data)] ^= 1 << dice.randrange(8)


def overwrite(dice: random.Random, data: bytearray) -> None:
    """Put random bytes, or equal ones, over a run."""
    at, length = _place(dice, data), dice.choice([1, 4, 64, 512])
    run = dice.randbytes(length) if dice.random() < 0.5 else bytes([dice.choice([0, 255])]) * length
    data[at : at + length] = run[: len(data) - at]


def cut(dice: random.Random, data: bytearray) -> None:
    """Leave out a run, or the end."""
    at = _place(dice, data)
    del data[at : at + dice.choice([1, 16, 300, len(data)])]


def repeat(dice: random.Random, data: bytearray) -> None:
    """Insert a copy of a run, perhaps many times."""
    at, length = _place(dice, data), dice.choice([1, 12, 200])
    data[at:at] = data[at : at + length] * dice.choice([1, 2, 50])


def number(dice: random.Random, data: bytearray) -> None:
    """Put an extreme number where a length, a size or an offset may stand."""
    at, layout = _place(dice, data), dice.choice(["<H", ">H", "<I", ">I"])
    size = struct.calcsize(layout)
    packed = struct.pack(layout, dice.choice(_EXTREMES) & (256**size - 1))
    data[at : at + size] = packed[: len(data) - at]


MUTATIONS: Sequence[Mutation] = (flip, overwrite, cut, repeat, number)


def mutated(data: bytes, seed: int) -> bytes:
    """Return a damaged copy; half of all PNGs get right checksums again, so that decoders see the damage."""
    dice, copy = random.Random(seed), bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        if copy:
            dice.choice(MUTATIONS)(dice, copy)
    return with_checksums(bytes(copy)) if seed % 2 and data.startswith(b"\x89PNG") else bytes(copy)


def with_checksums(data: bytes) -> bytes:
    """Return a PNG with the right checksum behind each of its chunks."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        parts.append(data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts)
