"""`config.init`: start the trained parameters of any stage from existing weights."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.plain import counted
from diffbir_jax.files.digest import known_sha256
from diffbir_jax.models.apply import Params
from diffbir_jax.training.objective import Objective
from diffbir_jax.weights.safetensors import flatten, load_tree, mismatches, unflatten

INIT = "init"


def started(objective: Objective, given: str | Path) -> Objective:
    """Return an objective whose trained parameters come from weights files of the kind that it exports.

    Args:
        objective: a stage with its own start.
        given: a weights file, or a folder with one for each trained network, named as in `export`.

    Returns:
        The objective. What no file holds, such as a discriminator, keeps its own start. The header of exported files
        names the files and their SHA-256.

    Raises:
        FileNotFoundError: there is no such file, or none for this stage in the folder.
        UserError: a file fits no trained network, or differs in a part that this stage does not train.
    """
    exported, params, said = objective.export(objective.params), objective.params, []
    # An export may hold frozen networks, too.
    exported = {name: x for name, x in exported.items() if name in params or _same(x, params)}
    if not exported:
        raise UserError(
            "config.init has nothing to start here: this stage trains parts of networks; give the whole networks as "
            "config.weights"
        )
    for path in _files(Path(given).expanduser(), exported):
        stored = load_tree(path)
        name = _network(path, stored, exported)
        params = _placed(path, params, stored, exported, name)
        said.append(f"{path.name} {known_sha256(path)}")
    return replace(objective, params=params, metadata=objective.metadata | {INIT: ", ".join(said)})


def _files(given: Path, names: Collection[str]) -> list[Path]:
    """Return the weights files that `given` names."""
    listed = [given / f"{name}.safetensors" for name in names] if given.is_dir() else [given]
    if not (found := [path for path in listed if path.is_file()]):
        wanted = f"; this stage trains {', '.join(names)}" if given.is_dir() else ""
        raise FileNotFoundError(
            f"no weights at {given} (config.init){wanted}: give a .safetensors file of one"
        )
    return found


def _network(path: Path, stored: Params, exported: Mapping[str, Params]) -> str:
    """Return which network of the export a file holds."""
    problems = {name: mismatches(flatten(stored), flatten(params)) for name, params in exported.items()}
    name = min(problems, key=lambda name: len(problems[name]))
    if found := problems[name]:
        raise UserError(
            f"{path} does not fit the {name} that config.init starts ({counted(len(found), 'problem')}):\n  "
            + "\n  ".join(found)
        )
    return name


def _placed(path: Path, params: Params, stored: Params, exported: Mapping[str, Params], name: str) -> Params:
    """Return `params` with the values of a file in the places of a network."""
    whole = _same(exported[name], params)
    own = flatten(params if whole else params[name])
    values = flatten(stored)
    if changed := next(_differences(values, flatten(exported[name]), own), None):
        raise UserError(
            f"{path}: {changed} is not trained by this stage, and differs from that of config.weights; start from a "
            "file of the same frozen weights"
        )
    taken = unflatten({key: values[key] for key in own})
    return taken if whole else {**params, name: taken}


def _same(one: Params, other: Params) -> bool:
    """Whether two trees have the same keys."""
    return jax.tree.structure(one) == jax.tree.structure(other)


def _differences(values: Params, exported: Params, own: Params) -> Iterator[str]:
    """Yield the names of frozen arrays that a file has with other values."""
    for key in exported.keys() - own.keys():
        if not np.array_equal(np.asarray(exported[key], np.float32), values[key]):
            yield key
