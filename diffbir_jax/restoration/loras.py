"""LoRA files of users, merged into a preset's networks while these are loaded, before anything is compiled."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion.engine import ConversionError
from diffbir_jax.conversion.lora import Sizes
from diffbir_jax.conversion.lora_files import Change, changes
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.models.apply import Params
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.weights.safetensors import flatten, unflatten

Networks = dict[str, Params]


def merging(preset: Preset, loras: Iterable[Lora]) -> Callable[[Networks], Networks] | None:
    """Return what merges LoRAs into float32 parameters by network, for `load_params`; None if there are no LoRAs.

    The result has the shapes and dtypes of the parameters, so all programs stay the same.
    """
    several = tuple(loras)
    return (lambda params: merged(params, preset, several)) if several else None


def merged(params: Mapping[str, Params], preset: Preset, loras: Sequence[Lora]) -> Networks:
    """Return parameters with what LoRAs add to them; networks that are not among `params` are left out.

    Args:
        params: by network, float32 on the host.
        preset: the networks that a LoRA may change.
        loras: the files with their scales; their order only changes the rounding.

    Raises:
        UserError: a file is no LoRA, or one of other networks; the message begins with its path.
        OSError: a file cannot be read.
    """
    flat = {name: flatten(tree) for name, tree in params.items()}
    for lora in loras:
        _merge(flat, preset, lora)
    return {name: unflatten(leaves) for name, leaves in flat.items()}


def _merge(flat: dict[str, dict[str, np.ndarray]], preset: Preset, lora: Lora) -> None:
    """Add a LoRA to the flat parameters of each network, in place."""
    problems = []
    try:
        for change in changes(lora.path, sizes(preset), lora.scale):
            if problem := _add(flat, preset, change):
                problems.append(problem)
    except (CheckpointError, ConversionError) as error:
        text = str(error)
        raise UserError(text if text.startswith(str(lora.path)) else f"{lora.path}: {text}") from None
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(
            f"{lora.path} is a LoRA of other networks than version {preset.name}: {problems[0]}{more}"
        )


def _add(flat: dict[str, dict[str, np.ndarray]], preset: Preset, change: Change) -> str:
    """Add a change to a kernel; return what is wrong with it, or ""."""
    network, path, index, delta = change
    if network not in preset.modules:
        return f"it changes {network}, the version has {', '.join(preset.modules)}"
    if network not in flat:
        return ""
    kernel = flat[network].get(path)
    if kernel is None:
        return f"{network} has no {path}"
    there = kernel if index is None else kernel[index]
    if there.shape != delta.shape:
        return f"{network}/{path} is {there.shape}, the LoRA makes {delta.shape}"
    if not np.isfinite(delta).all():
        return f"what it adds to {network}/{path} is not finite"
    flat[network][path] = kernel = np.array(kernel, np.float32)
    kernel[... if index is None else index] += delta
    return ""


def sizes(preset: Preset) -> dict[str, Sizes]:
    """Return the sizes of the networks of a preset that LoRAs may change."""
    known = {"unet": preset.unet, "control": preset.unet, "vae": preset.vae, "text": preset.text}
    return {name: config for name, config in known.items() if name in preset.modules and config is not None}


def recorded(loras: Sequence[Lora]) -> dict[str, Path]:
    """Return the files by the names that sidecars give them beside the networks."""
    return {f"lora_{number}": lora.path for number, lora in enumerate(loras, 1)}
