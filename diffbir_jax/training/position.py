"""The place of a run in its data: what a checkpoint says of it, and whether a resumed run can go on from there."""

import json
from typing import Any

import jax

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.training.distributed import gathered


def position_of(batches: Batches, step: int) -> dict[str, Any]:
    """Return what a checkpoint after `step` steps says of the data, as JSON; all processes must call it.

    Returns:
        `next_batch`, `data`, the identity of the batches, and `broken`: index, message and process that found it.
    """
    lists = gathered(json.dumps(sorted(dict(batches.broken).items())))
    broken = [[*pair, process] for process, text in enumerate(lists) for pair in json.loads(text)]
    return {"next_batch": step, "data": batches.identity, "broken": broken}


def resume(batches: Batches, saved: dict[str, Any] | None) -> None:
    """Check that `batches` go on where a checkpoint stopped, and tell them what was found broken before.

    Each process learns what it found itself, and what those found that the resumed run has no more.

    Args:
        batches: those of the resumed run.
        saved: as `position_of` returns it; None, of a checkpoint without, says nothing to check.

    Raises:
        ValueError: the data are others; the message lists what changed.
    """
    if saved is None:
        return
    before, now = saved["data"], batches.identity
    changes = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise UserError(
            f"the data of this run changed since its checkpoint: {'; '.join(changes)}. Set them back, or begin anew "
            "with a new --workdir"
        )
    own, count = jax.process_index(), jax.process_count()
    # Older checkpoints do not say who found it: it was the first one.
    mine = (entry for entry in saved["broken"] if (entry[2] if len(entry) == 3 else 0) % count == own)
    batches.remember({entry[0]: entry[1] for entry in mine})
