"""The place of a run in its data: what a checkpoint says of it, and whether a resumed run can go on from there."""

from typing import Any

from diffbir_jax.data.batches import Batches


def position_of(batches: Batches, step: int) -> dict[str, Any]:
    """Return what a checkpoint after `step` steps says of the data, as JSON: next batch, identity, broken ones."""
    broken = sorted(dict(batches.broken).items())
    return {"next_batch": step, "data": batches.identity, "broken": [list(pair) for pair in broken]}


def resume(batches: Batches, saved: dict[str, Any] | None) -> None:
    """Check that `batches` go on where a checkpoint stopped, and tell them what was found broken before.

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
        raise ValueError(
            f"the data of this run changed since its checkpoint: {'; '.join(changes)}. Set them back, or begin anew "
            "with a new --workdir"
        )
    batches.remember({index: message for index, message in saved["broken"]})
