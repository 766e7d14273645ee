"""Whether an image is fit for training: read, decoded in full, large enough; in processes beside the main one."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np

from diffbir_jax.data.decoding import samples
from diffbir_jax.data.example import BrokenExampleError, Source
from diffbir_jax.data.sources.array_record import pack
from diffbir_jax.imaging.encoding import encode_png
from diffbir_jax.imaging.photo import Metadata

# Images under way per process: enough that none waits, few enough to stay in memory.
_AHEAD = 4


class Verdict(NamedTuple):
    """What became of an image.

    Attributes:
        name: as its source has it, "" if it could not be read.
        record: what goes into a shard (`sources.array_record.pack`), empty if it is rejected.
        digest: hexadecimal, of the decoded pixels (upright, in the file's channels and depth).
        fault: `unreadable`, `undecodable`, `small`, or "" if it is fit.
        detail: the fault in words.
    """

    name: str
    record: bytes = b""
    digest: str = ""
    fault: str = ""
    detail: str = ""


def examine(source: Source, min_side: int, index: int) -> Verdict:
    """Check image `index` of a source, whose shorter side must have `min_side` pixels."""
    try:
        example = source[index]
    except BrokenExampleError as error:
        return Verdict("", fault="unreadable", detail=str(error))
    name, image = example.name, example.image
    data = encode_png(image, Metadata()) if isinstance(image, np.ndarray) else image
    try:
        decoded = samples(data)
    except BrokenExampleError as error:
        return Verdict(name, fault="undecodable", detail=str(error))
    height, width = decoded.shape[:2]
    if min(height, width) < min_side:
        return Verdict(name, fault="small", detail=f"is {width}x{height} pixels")
    return Verdict(name, pack(name, data, example.captions), _digest(decoded))


def _digest(image: np.ndarray) -> str:
    state = hashlib.blake2b(f"{image.shape} {image.dtype}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(image).data)
    return state.hexdigest()


def verdicts(
    source: Source, indices: Iterable[int], min_side: int, workers: int
) -> Generator[Verdict, None, None]:
    """Yield what becomes of images, in the order of `indices`.

    Args:
        source: where they are; every process gets a copy.
        indices: which of them.
        min_side: as in `examine`.
        workers: processes; 0 does without.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process was killed.
    """
    if workers == 0:
        yield from (examine(source, min_side, index) for index in indices)
        return
    # Of a process with threads, as those of fsspec, a fork may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(source, min_side))
    ahead: deque[Future[Verdict]] = deque()
    try:
        for index in indices:
            with _interrupts_held():
                ahead.append(pool.submit(_examine, index))
            if len(ahead) > _AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let processes that are started meanwhile leave Ctrl-C, which terminals send to all, to their parent."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_of_source: Callable[[int], Verdict]


def _start(source: Source, min_side: int) -> None:
    """Set up a process, which ends with its parent."""
    global _of_source
    _of_source = partial(examine, source, min_side)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this, a process whose parent was killed would wait for work forever."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _examine(index: int) -> Verdict:
    return _of_source(index)
