"""Meshes and shardings: where every array lives, as data beside the config."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import KeyPath

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.trees import Tree

# Arrays by name, on the devices.
Batch = dict[str, jax.Array]
AXES = ("data", "fsdp")
Rules = Sequence[tuple[str, tuple[str | None, ...]]]


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[object] | None = None) -> Mesh:
    """Arrange devices as a (data, fsdp) mesh.

    Args:
        data: devices along the batch; -1 takes all that `fsdp` leaves.
        fsdp: devices that parameters and optimizer state are split over (batches are split over both axes).
        devices: the `jax.Device`s to use; by default all there are.

    Raises:
        ValueError: if the product differs from the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data = count // max(fsdp, 1) if data == -1 else data
    if fsdp < 1 or data * fsdp != count:
        raise UserError(
            f"mesh {data} x {fsdp} (data x fsdp) does not cover {count} devices: change config.mesh."
        )
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the leading (batch) axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Tree, mesh: Mesh, rules: Rules) -> Tree:
    """Give every leaf the sharding of the first rule whose regex is found in its path, or a copy everywhere.

    Args:
        tree: arrays or `ShapeDtypeStruct`s; a leaf's path is its keys joined by "/".
        mesh: the (data, fsdp) mesh.
        rules: ordered (regex, one mesh axis or None per dimension, counted from the last dimension).
            A dimension that the mesh axis does not divide stays whole.

    Returns:
        The same tree with a `NamedSharding` per leaf.
    """

    def leaf_sharding(path: KeyPath, leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = next((axes for regex, axes in rules if re.search(regex, name)), ())
        axes = tuple(axes)[-leaf.ndim :] if leaf.ndim else ()
        padded = (None,) * (leaf.ndim - len(axes)) + axes
        fits = (a if a and n % mesh.shape[a] == 0 else None for a, n in zip(padded, leaf.shape))
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def check_batch(size: int, mesh: Mesh) -> None:
    """Raise UserError if a batch of so many images cannot be split over all devices."""
    if size % mesh.size:
        raise UserError(
            f"batch of {size} on {mesh.size} devices: config.data.batch_size must be a multiple of {mesh.size}."
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """Put a host batch on the devices, split along its leading axis; strings stay on the host.

    Args:
        batch: arrays of one length; of several processes, each gives its part, equally long.
        mesh: the devices of all processes.

    Raises:
        ValueError: if the batch size is not a multiple of the number of devices.
    """
    check_batch(len(next(iter(batch.values()))) * jax.process_count(), mesh)
    arrays = {name: values for name, values in batch.items() if values.dtype.kind not in "US"}
    placed = jax.make_array_from_process_local_data(batch_sharding(mesh), arrays)
    return batch | placed


def prefetch_to_device(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, depth: int = 2
) -> Iterator[Batch]:
    """Yield batches that lie on the devices, where the next `depth` ones follow them while one is worked on.

    Args:
        batches: as `put_batch` takes them.
        mesh: the devices.
        depth: batches ahead; each takes its memory on the devices.
    """
    ahead: deque[Batch] = deque()
    for batch in batches:
        ahead.append(put_batch(batch, mesh))
        if len(ahead) > depth:
            yield ahead.popleft()
    yield from ahead
