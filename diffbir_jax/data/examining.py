"""Check that images are fit for training: readable, complete, large enough. Worker processes do the checks."""

import atexit
import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from typing import NamedTuple

import numpy as np

from diffbir_jax.console.threads import awaited, in_threads, started
from diffbir_jax.data.decoding import samples
from diffbir_jax.data.example import BrokenExampleError, Source
from diffbir_jax.data.sources.array_record import pack
from diffbir_jax.imaging.encoding import encode_png
from diffbir_jax.imaging.photo import Metadata

# Images in progress per process: enough that no process waits, few enough to fit into memory.
_AHEAD = 4
# Seconds after which a process notices that its parent stops.
POLL = 0.2


class Verdict(NamedTuple):
    """The result of an image's check.

    Attributes:
        name: its name in the source, "" if it could not be read.
        record: its record for a shard (`sources.array_record.pack`), empty if it is rejected.
        digest: hexadecimal digest of the decoded pixels (upright, with the file's channels and depth).
        fault: `unreadable`, `undecodable`, `small`, or "" if it is fit.
        detail: the fault in words.
        captioned: whether it has a caption.
        unread: what is wrong with a caption that is left out; "" if nothing.
    """

    name: str
    record: bytes = b""
    digest: str = ""
    fault: str = ""
    detail: str = ""
    captioned: bool = False
    unread: str = ""


def examine(source: Source, min_side: int, index: int) -> Verdict:
    """Check image `index` of a source; its shorter side must have `min_side` pixels."""
    try:
        example = source[index]
    except BrokenExampleError as error:
        return Verdict(error.name, fault="unreadable", detail=str(error))
    name, image = example.name, example.image
    data = encode_png(image, Metadata()) if isinstance(image, np.ndarray) else image
    try:
        # Decoded in full: a header alone does not show that a file is cut off.
        decoded = samples(data)
    except BrokenExampleError as error:
        return Verdict(name, fault="undecodable", detail=str(error))
    height, width = decoded.shape[:2]
    if min(height, width) < min_side:
        return Verdict(name, fault="small", detail=f"is {width}x{height} pixels")
    record = pack(name, data, example.captions)
    return Verdict(name, record, _digest(decoded), "", "", any(example.captions.values()), example.fault)


def _digest(image: np.ndarray) -> str:
    # Shape and dtype are part of the digest, because the same bytes can form other images.
    state = hashlib.blake2b(f"{image.shape} {image.dtype}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(image).data)
    return state.hexdigest()


def verdicts(
    source: Source, indices: Iterable[int], min_side: int, workers: int
) -> Generator[Verdict, None, None]:
    """Check images and yield the verdicts, in the order of `indices`.

    Args:
        source: the source; every process gets a copy.
        indices: the images to check.
        min_side: as in `examine`.
        workers: number of processes; 0 checks in a thread of this process.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process was killed.
    """
    if workers == 0:
        yield from in_threads(partial(examine, source, min_side), indices)
        return
    # A fork of a process with threads (fsspec has some) may hang, so processes are spawned.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(source, min_side, stop))
    ahead: deque[Future[Verdict]] = deque()
    try:
        for index in indices:
            with _interrupts_held():
                ahead.append(pool.submit(_examine, index))
            # The oldest result is waited for, so verdicts keep the order of the source.
            if len(ahead) > _AHEAD * workers:
                yield awaited(ahead.popleft())
        while ahead:
            yield awaited(ahead.popleft())
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block Ctrl-C in processes that are started inside; a terminal sends it to all, but the parent handles it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_of_source: Callable[[int], Verdict]
_stop: Event


def _start(source: Source, min_side: int, stop: Event) -> None:
    """Set up a worker process."""
    global _of_source, _stop
    _of_source, _stop = partial(examine, source, min_side), stop
    # A thread may still decode. Python's own end would unwind it inside a C++ library, which aborts and says so.
    atexit.register(os._exit, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent dies; otherwise it would wait for work forever."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _examine(index: int) -> Verdict:
    """Examine an image; return nothing of use if the parent stops meanwhile, as a huge one takes seconds."""
    found = started(_of_source, index)
    while not _stop.is_set():
        if futures.wait([found], POLL).done:
            return found.result()
    return Verdict("")
