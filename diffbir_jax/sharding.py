"""Meshes and shardings: where every array lives, as data beside the config."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
Rules = Sequence[tuple[str, tuple[str | None, ...]]]


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
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
        raise ValueError(
            f"mesh {data} x {fsdp} (data x fsdp) does not cover {count} devices: change config.mesh."
        )
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the leading (batch) axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """Give every leaf the sharding of the first rule whose regex is found in its path, or a copy everywhere.

    Args:
        tree: arrays or `ShapeDtypeStruct`s; a leaf's path is its keys joined by "/".
        mesh: the (data, fsdp) mesh.
        rules: ordered (regex, one mesh axis or None per dimension, counted from the last dimension).
            A dimension that the mesh axis does not divide stays whole.

    Returns:
        The same tree with a `NamedSharding` per leaf.
    """

    def leaf_sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = next((axes for regex, axes in rules if re.search(regex, name)), ())
        axes = tuple(axes)[-leaf.ndim :] if leaf.ndim else ()
        padded = (None,) * (leaf.ndim - len(axes)) + axes
        fits = (a if a and n % mesh.shape[a] == 0 else None for a, n in zip(padded, leaf.shape))
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put a host batch on the devices, split along its leading axis.

    Raises:
        ValueError: if the batch size is not a multiple of the number of devices.
    """
    size = len(next(iter(batch.values())))
    if size % mesh.size:
        raise ValueError(
            f"batch of {size} on {mesh.size} devices: config.data.batch_size must be a multiple of {mesh.size}."
        )
    return jax.device_put(batch, batch_sharding(mesh))
