"""What a compiled program sends between devices: the collectives of its text."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# An instruction: its type, then its name. An asynchronous one is counted where it is done, which has the result's type.
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({'|'.join(KINDS)})(?:-done)?\(", re.MULTILINE)
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Collectives of one kind.

    Attributes:
        count: instructions; one in a loop counts once.
        bytes: of their results, on one device.
    """

    count: int
    bytes: int


def collectives(hlo: str) -> dict[str, Traffic]:
    """Count the collectives of a compiled program, by kind.

    Args:
        hlo: `compiled.as_text()`. Those inside fusions are instructions of computations of their own, and counted.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for kind, kinds_type in ((match[2], match[1]) for match in _INSTRUCTION.finditer(hlo)):
        found[kind].append(_bytes(kinds_type))
    return {kind: Traffic(len(found[kind]), sum(found[kind])) for kind in KINDS if kind in found}


def _bytes(type_text: str) -> int:
    """Bytes of an HLO type such as `(f32[8,4]{1,0:T(8,128)}, bf16[])`."""
    arrays = _ARRAY.findall(type_text)
    return (
        sum(int(bits or 8) * math.prod(map(int, filter(None, shape.split(",")))) for _, bits, shape in arrays)
        // 8
    )
