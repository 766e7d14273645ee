"""A restorer without networks, for what is about files, threads and signals.

As a program it is sample.py with that restorer, which goes no further than so many images before the file `go` is
there: `python -m tests.batch.fake IMAGES FLAGS`.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffbir_jax.batch import run
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.restoration.restorer import Outcome, Request, Restored
from diffbir_jax.restoration.results import Progress
from diffbir_jax.sampling.options import Options


@dataclass
class Fake:
    """Enlarges by repetition, and tells of the later one of two requests first, as packing may.

    Attributes:
        errors: what outcomes hold, by the index of the noise.
        raises: what it raises in place of an outcome, by the index of the noise.
        before: called before each image, with how many were seen.
        seen: every request with the options.
    """

    errors: Mapping[int, Exception] = field(default_factory=dict)
    raises: Mapping[int, BaseException] = field(default_factory=dict)
    before: Callable[[int], None] = lambda seen: None
    seen: list[tuple[Request, float, Options]] = field(default_factory=list)

    compiled = 0
    preset = PRESETS["one-step"]

    def check(self, options: Options) -> None:
        """All options will do."""

    def restore_many(
        self,
        requests: Iterable[Request],
        upscale: float,
        options: Options,
        *,
        count: int,
        listen: Callable[[Progress], None] | None = None,
        **_: object,
    ) -> Iterator[Outcome]:
        numbered = enumerate(requests)
        while pair := list(itertools.islice(numbered, 2)):
            for position, request in reversed(pair):
                self.before(len(self.seen))
                if listen is not None:
                    listen(Progress("decode", 0, 1, 1))
                self.seen.append((request, upscale, options))
                if request.index in self.raises:
                    raise self.raises[request.index]
                if request.index in self.errors:
                    yield Outcome(position, error=self.errors[request.index])
                    continue
                yield Outcome(position, tuple(results(request, upscale, options, count)))


def results(request: Request, upscale: float, options: Options, count: int) -> Iterator[Restored]:
    """The image, brighter with each result, with its noise and its seed."""
    side = round(upscale)
    clean = request.image if request.clean is None else request.clean
    large, stage1 = (image.repeat(side, axis=0).repeat(side, axis=1) for image in (request.image, clean))
    scale = 257 if large.dtype == np.uint16 else 1
    for variant in range(count):
        change = (request.index + options.seed + variant) % 7 * scale
        yield Restored(large // 2 + large.dtype.type(change), stage1, large, large[..., 0].astype(np.uint8))


def hold(images: int) -> Callable[[int], None]:
    """A pause after so many images, until somebody makes the file `go`: a test then knows how far a run has come."""

    def wait(seen: int) -> None:
        while seen >= images and not Path("go").exists():
            time.sleep(0.01)

    return wait


if __name__ == "__main__":
    from diffbir_jax.cli import sample

    run.load = lambda *_: Fake(before=hold(int(sys.argv[1])))
    run.planned = lambda *_: None
    sample.main(sys.argv[2:])
