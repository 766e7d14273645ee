"""The networks that a LoRA changes: of a checkpoint, a diffusers folder, or a folder of converted weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import safe_open

from diffbir_jax.conversion.architectures import TEXT, UNET, VAE, Architecture
from diffbir_jax.conversion.engine import DAMAGED, by_path, not_finite, raise_all, read
from diffbir_jax.conversion.from_torch import Plan, make_plans, origin_of, select_in
from diffbir_jax.conversion.lora import Sizes
from diffbir_jax.conversion.stored import CheckpointError, Shaped
from diffbir_jax.conversion.zeros import warn_of, zeros_in
from diffbir_jax.weights.safetensors import flatten, read_metadata

KINDS = {"unet": UNET, "vae": VAE, "text": TEXT}
# A part of a parameter: its path, its position along a leading axis or None for all of it, float32 values.
Part = tuple[str, int | None, np.ndarray]


@dataclass(frozen=True)
class Base:
    """A network to change.

    Attributes:
        kind: its architecture.
        config: its sizes.
        shapes: path -> shape, in the order of a file.
        parts: yields its parameters in this order; a stacked one may come block by block.
        origin: file and checksum.
        converted: whether it is one of our files already.
    """

    kind: Architecture
    config: Sizes
    shapes: Mapping[str, tuple[int, ...]]
    parts: Callable[[], Iterator[Part]]
    origin: Mapping[str, str]
    converted: bool


def open_bases(source: Path, stems: Mapping[str, str]) -> dict[str, Base]:
    """Return the networks "unet", "vae" and "text" of a base.

    Args:
        source: checkpoint, diffusers folder, or folder of files that were converted, named `stems`.
        stems: network -> name of its file without suffix.

    Raises:
        CheckpointError: there are no such networks.
        ConversionError: a network is incomplete.
    """
    if source.is_dir() and not (source / "unet").is_dir():
        return {name: _converted(source / f"{stem}.safetensors", name) for name, stem in stems.items()}
    try:
        family, found = select_in(source)
    except CheckpointError as error:
        raise CheckpointError(f"--base {source}: {error}") from None
    networks = [network.stem for network in family.networks]
    if missing := KINDS.keys() - {*networks}:
        raise CheckpointError(
            f"{source} is {family.title} and has no {', '.join(sorted(missing))}: give Stable Diffusion 2.1 as --base"
        )
    plans = make_plans(found.state, family, networks)
    origin = origin_of(source)
    return {
        plan.stem: Base(
            plan.architecture,
            plan.config,
            plan.shapes,
            partial(_of_checkpoint, found.state, plan),
            origin,
            False,
        )
        for plan in plans
        if plan.stem in KINDS and isinstance(plan.config, Sizes)
    }


def _of_checkpoint(state: Mapping[str, Shaped], plan: Plan) -> Iterator[Part]:
    zeros: list[str] = []
    for path, rules in by_path(plan.table).items():
        for rule in rules:
            array = read(state, rule)
            raise_all(DAMAGED, not_finite(rule, array))
            zeros += zeros_in(rule, array)
            yield path, rule.index, array
    warn_of(zeros)


def _converted(file: Path, name: str) -> Base:
    if not file.is_file():
        raise CheckpointError(
            f"{file.parent} has no {file.name}: convert the base into it first, or give the base's file as --base"
        )
    kind, header = KINDS[name], read_metadata(file)
    config = kind.revive(header["config"]) if header.get("family") == kind.family else kind.config()
    flat = flatten(kind.abstract(config))
    shapes = {path: tuple(flat[path].shape) for path in sorted(flat)}
    with safe_open(file, "np") as opened:
        if {*opened.keys()} != {*shapes}:
            raise CheckpointError(f"{file} is no {name} as diffbir convert writes it: convert the base again")
    return Base(kind, config, shapes, partial(_of_file, file, shapes), origin_of(file), True)


def _of_file(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
    with safe_open(file, "np") as opened:
        for path in shapes:
            yield path, None, opened.get_tensor(path).astype(np.float32)
