"""`python -m diffbir_jax.data.prepare` that goes no further than so many images.

As a program: `python -m tests.data.held_prepare IMAGES FLAGS`. A test then interrupts or kills a run that cannot be
done before, however slow the test itself is.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import closing

from diffbir_jax.data import prepare, preparing
from diffbir_jax.data.examining import Verdict, verdicts


def hold(images: int) -> None:
    """Let no run of this process get the verdicts beyond the first `images`."""

    def held(*arguments: object) -> Iterator[Verdict]:
        with closing(verdicts(*arguments)) as found:
            yield from itertools.islice(found, images)
            while True:
                time.sleep(0.01)

    preparing.verdicts = held


if __name__ == "__main__":
    hold(int(sys.argv[1]))
    sys.exit(prepare.main(sys.argv[2:]))
