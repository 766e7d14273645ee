"""Several processes that train one model: how they meet, share batches and look at what is spread over them."""

from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Mesh

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import HostBatch
from diffbir_jax.sharding import replicated


def join(coordinator: str | None = None, hosts: int | None = None, index: int | None = None) -> None:
    """Let this process meet the others. Call it before anything runs on a device.

    Args:
        coordinator: HOST:PORT of process 0; by default what the cluster (TPU pod, SLURM, Open MPI) or
            JAX_COORDINATOR_ADDRESS says.
        hosts: number of processes, if the cluster does not say it.
        index: which of them this is, 0 to hosts - 1.

    Raises:
        ValueError: numbers that make no sense, or the processes do not find together.
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
    """Whether this process is the one that speaks, logs and exports."""
    return jax.process_index() == 0


def own_rows(batch: HostBatch, size: int) -> HostBatch:
    """Return the rows of this process: some batches are made whole everywhere, others in parts.

    Args:
        batch: arrays of one length.
        size: rows of the batch of all processes.

    Raises:
        ValueError: the batch is neither the whole nor a part, or cannot be shared equally.
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


def local(tree: Any, mesh: Mesh) -> Any:
    """Return `tree` as arrays that this process holds by itself; one process has them already.

    All processes must call it, as parameters may be split over them.
    """
    if jax.process_count() == 1:
        return tree
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


def gathered(text: str) -> list[str]:
    """Return the `text` of every process, in their order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = process_allgather(np.int32(len(data)))
    rows = process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def agreed(value: float) -> float:
    """Return the `value` of process 0: what all decide by must be equal to the bit."""
    return value if jax.process_count() == 1 else float(broadcast_one_to_all(np.float32(value)))
