"""GPUs that this machine does not have, by the files in benchmarks/targets/: meshes, and how weights lie there."""

import re
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.layout import Format
from jax.sharding import Mesh

from diffbir_jax.restoration.compiled import kernel_order
from diffbir_jax.sharding import make_mesh, replicated

TARGETS = Path(__file__).with_name("targets")
# Kernels are chosen without timing them: there is no device.
OPTIONS: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}


def mesh_of(target: str) -> Mesh:
    """Return the mesh of one GPU of a target, the name of a file in benchmarks/targets."""
    described = (TARGETS / f"{target}.txt").read_text()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name=target, target_config=described, topology="1x1x1"
    )
    return make_mesh(devices=topology.devices)


def capability_of(target: str) -> float:
    """Compute capability of a target, such as 8.9."""
    described = (TARGETS / f"{target}.txt").read_text()
    found = re.search(r"cuda_compute_capability \{\s*major: (\d+)(?:\s+minor: (\d+))?", described)
    assert found is not None, target
    return float(f"{found[1]}.{found[2] or 0}")


def held(params: Any, mesh: Mesh, capability: float) -> Any:
    """Return abstract parameters that lie in memory as `compiled.laid` lays them."""
    everywhere = replicated(mesh)

    def lies(x: Any) -> jax.ShapeDtypeStruct:
        where = Format(kernel_order(x.dtype, capability), everywhere) if x.ndim == 4 else everywhere
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(lies, params)
