"""Long runs of zeros in weights: new or unused layers, or holes that a disk or a download left in the file.

PyTorch's zip files have checksums. All other files have none, so a hole in them shows only by its zeros.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from diffbir_jax.conversion.engine import Rule

# Numbers in a row. Disks and downloads lose 4096 bytes at least; a part of them may lie in the next weight.
RUN = 256
# A warning lists this many names and counts the rest.
NAMED = 5


def zeros_in(rule: Rule, array: np.ndarray) -> list[str]:
    """Return the key of a weight that has many zeros in a row, and how many; nothing for others.

    A vector of zeros alone is an ordinary bias.

    Args:
        rule: the weight's.
        array: its float32 values in Flax's layout. They are searched in the order of the file.
    """
    flat = np.ascontiguousarray(rule.layout.to_torch(array)).reshape(-1)
    whole = flat.size // RUN * RUN
    blocks = flat[:whole].view(np.uint64).reshape(-1, RUN // 2)
    # Weights with a single zero are rare, so this looks at few blocks in full.
    begun = blocks[blocks[:, 0] == 0]
    empty = len(begun) - np.count_nonzero(begun.any(axis=1))
    if not empty:
        return []
    if flat.any():
        return [f"{rule.key} (a part)"]
    return [f"{rule.key} (all)"] if array.ndim > 1 else []


def warn_of(found: Sequence[str]) -> None:
    """Warn about what `zeros_in` has found, in a line."""
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        warnings.warn(
            f"long runs of zeros in {', '.join(found[:NAMED])}{more}: right for new or unused layers, otherwise the "
            "file has lost a part; fetch it again",
            stacklevel=3,
        )
