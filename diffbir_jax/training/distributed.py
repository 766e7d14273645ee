"""Training with several processes: they connect, split batches and gather values that are spread over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Mesh

from diffbir_jax.console.errors import UserError, one_line
from diffbir_jax.data.batches import HostBatch
from diffbir_jax.sharding import replicated

T = TypeVar("T")


def join(coordinator: str | None = None, hosts: int | None = None, index: int | None = None) -> None:
    """Connect this process to the others. Call it before anything runs on a device.

    Args:
        coordinator: HOST:PORT of process 0. By default the cluster (TPU pod, SLURM, Open MPI) or
            JAX_COORDINATOR_ADDRESS gives it.
        hosts: number of processes, if the cluster does not give it.
        index: index of this process, 0 to hosts - 1.

    Raises:
        ValueError: the numbers do not fit together, or the processes cannot connect.
    """
    if (hosts is None) != (index is None):
        raise UserError(
            "--hosts and --host-index belong together: give both, or none where the cluster knows"
        )
    if hosts is not None and index is not None and not 0 <= index < hosts:
        raise UserError(f"--host-index is {index}; allowed with --hosts {hosts} are 0 to {hosts - 1}")
    try:
        jax.distributed.initialize(coordinator, hosts, index)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--distributed: {reason}; give --coordinator HOST:PORT, --hosts and --host-index"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that prints, logs and exports."""
    return jax.process_index() == 0


@contextmanager
def jointly() -> Iterator[None]:
    """At the end of this context wait for all processes; if the block failed in one of them, fail in all.

    Otherwise they would wait for one that has ended, in the next operation that needs all of them.

    Raises:
        UserError: the block failed in another process; the message names the process and its error.
    """
    failed: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failed = error
    text = "" if failed is None else one_line(failed) or type(failed).__name__
    told = gathered(text)
    if failed is not None:
        raise failed
    for process, text in enumerate(told):
        if text:
            raise UserError(f"process {process} failed, and all others end with it: {text}")


def own_rows(batch: HostBatch, size: int) -> HostBatch:
    """Return this process's rows of a batch. A photo folder or a pool gives whole batches, a data source gives parts.

    Args:
        batch: arrays of one length.
        size: rows in the batch of all processes together.

    Raises:
        ValueError: the batch is neither whole nor a part, or cannot be split equally.
    """
    count, length = jax.process_count(), len(next(iter(batch.values())))
    if length * count == size:
        return batch
    if length != size or size % count:
        raise UserError(
            f"a batch of {length}, config.data.batch_size is {size}: it must be a multiple of {count} processes"
        )
    part = size // count
    rows = slice(jax.process_index() * part, (jax.process_index() + 1) * part)
    return {name: values[rows] for name, values in batch.items()}


def local(tree: T, mesh: Mesh) -> T:
    """Return `tree` as whole arrays on this process's devices; with one process, return it unchanged.

    All processes must call it, because parameters may be split over them.
    """
    if jax.process_count() == 1:
        return tree
    # A jitted identity with another sharding is how JAX gathers a tree across processes.
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def gathered(text: str) -> list[str]:
    """Return the `text` of every process, in process order; all processes must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    # An all-gather needs equal shapes: exchange the lengths first, then pad to the longest.
    sizes = process_allgather(np.int32(len(data)))
    rows = process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def agreed(value: float) -> float:
    """Return the `value` of process 0, so that all processes take the same decision; floats differ in the last bits."""
    return value if jax.process_count() == 1 else float(broadcast_one_to_all(np.float32(value)))
