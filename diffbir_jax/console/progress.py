"""What programs show of their loops: a bar on a terminal, a line every few seconds elsewhere."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from diffbir_jax.console.meter import Meter
from diffbir_jax.console.plain import counted

T = TypeVar("T")


@contextmanager
def waiting(title: str, doing: str) -> Iterator[None]:
    """A context that takes seconds before there is anything to count, such as imports."""
    with Meter(title) as meter:
        meter.begin(doing)
        yield


@contextmanager
def tally(title: str, total: int, done: int = 0, thing: str = "image") -> Iterator[Callable[[], None]]:
    """A context that counts things, of which some may be done; call what it gives once for each further one."""
    with Meter(title) as meter:
        meter.expect({thing: float(total - done)})
        meter.begin(f"{done} of {counted(total, thing)}")

        def step() -> None:
            nonlocal done
            done += 1
            meter.step(thing, 1.0)
            meter.begin(f"{done} of {counted(total, thing)}")

        yield step


def tallied(
    items: Iterable[T], title: str, total: int, done: int = 0, thing: str = "image"
) -> Generator[T, None, None]:
    """Yield items, and show how many of `total` there have been, with `done` before the first."""
    with tally(title, total, done, thing) as step:
        for item in items:
            yield item
            step()
