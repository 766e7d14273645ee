"""A run's position in its data: the record in a checkpoint, and the check when the run is resumed."""

import json
from collections.abc import Mapping
from typing import TypedDict

import jax

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.training.distributed import gathered


class Position(TypedDict):
    """A position in the data, see `position_of`."""

    next_batch: int
    data: Mapping[str, object]
    broken: list[list]


def position_of(batches: Batches, step: int) -> Position:
    """Return the data position of a checkpoint after `step` steps, serialisable as JSON; all processes must call it.

    Returns:
        `next_batch`; `data`, the identity of the batches; `broken`, a list of (index, message, process that found it).
    """
    lists = gathered(json.dumps(sorted(dict(batches.broken).items())))
    broken = [[*pair, process] for process, text in enumerate(lists) for pair in json.loads(text)]
    return {"next_batch": step, "data": batches.identity, "broken": broken}


def resume(batches: Batches, saved: Position | None) -> None:
    """Check that `batches` continue the data of a checkpoint, and pass on the known broken examples.

    Each process gets its own list. If the resumed run has fewer processes, they share the lists of the missing ones.

    Args:
        batches: batches of the resumed run.
        saved: as `position_of` returns it; None for a checkpoint without a position, which is not checked.

    Raises:
        ValueError: the data changed; the message lists the changes.
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
            "with a new `workdir`"
        )
    own, count = jax.process_index(), jax.process_count()
    # Older checkpoints do not name the process. Only the first process wrote their list.
    mine = (entry for entry in saved["broken"] if (entry[2] if len(entry) == 3 else 0) % count == own)
    batches.remember({entry[0]: entry[1] for entry in mine})
