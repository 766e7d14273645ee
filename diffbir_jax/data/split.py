"""Hold out every N-th example of a source from training."""

import hashlib
from dataclasses import dataclass

from diffbir_jax.data.example import DataError, Example, Source


@dataclass(frozen=True)
class Split:
    """One of the two parts of a source; a part is a source too.

    Attributes:
        source: the whole source.
        every: N: examples N - 1, 2 N - 1, ... are held out.
        held_out: True for the held-out part, False for the training part.

    Raises:
        DataError: `every` is below 2, or the source has fewer examples.
    """

    source: Source
    every: int
    held_out: bool

    def __post_init__(self) -> None:
        if not 2 <= self.every <= len(self.source):
            raise DataError(
                f"data.held_out_every is {self.every}, must be in 2..{len(self.source)}, the number of examples "
                "of the source; or name data.validation, a source of its own"
            )

    def __len__(self) -> int:
        held_out = len(self.source) // self.every
        return held_out if self.held_out else len(self.source) - held_out

    def __getitem__(self, index: int) -> Example:
        """Return example `index` of this part."""
        if self.held_out:
            return self.source[index * self.every + self.every - 1]
        # Each run of N - 1 training examples is followed by a held-out one, which is skipped.
        return self.source[index + index // (self.every - 1)]

    @property
    def fingerprint(self) -> str:
        """Digest of the whole source and the way it is split."""
        parts = f"{self.source.fingerprint} {self.every} {self.held_out}"
        return hashlib.sha256(parts.encode()).hexdigest()
