"""All values of one-step restorers: the methods one by one, and the losses of their training."""

from collections.abc import Iterator, Sequence
from functools import partial

from diffbir_jax.parity import losses, one_step, one_step_more, one_step_paths
from diffbir_jax.parity.case import Case

PARTS = (
    one_step.common,
    one_step.hypir,
    one_step_paths.cases,
    one_step_more.osediff,
    one_step.pisa_sr,
    one_step_more.s3diff,
    one_step_more.invsr,
)


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of onestep_*.npz, or of a part of it."""
    for part in PARTS:
        yield from part(partial(Case, file), keys, salt)
    yield from losses.cases(file, keys, salt)
