"""Convert our weights back to the reference's checkpoints: restoration modules and IRControlNet, with all keys."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion.abstract import abstract_controlnet
from diffbir_jax.conversion.adapted import LORA, lora_state
from diffbir_jax.conversion.architectures import BSRNET, CONTROL, SCUNET, SRVGG, SWINIR, Architecture
from diffbir_jax.conversion.engine import export
from diffbir_jax.conversion.kinds import check_file
from diffbir_jax.conversion.output import check_names, together
from diffbir_jax.conversion.report import Entry, sha256_of
from diffbir_jax.conversion.torch_writing import write_torch
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.weights.safetensors import load_weights, read_metadata, write_arrays

ARCHITECTURES = {kind.family: kind for kind in (CONTROL, SWINIR, BSRNET, SCUNET, SRVGG)}
FORMATS = ("pth", "safetensors")
# The reference's `img_size`: it stores SwinIR's attention mask for this number of tokens per side.
SWINIR_MASK_SIDE = 64
# Ends of the keys of `swinir_buffers`.
BUFFERS = (".relative_position_index", ".attn_mask")


def export_files(
    source: str | Path,
    folder: str | Path,
    file_format: str = "pth",
    name: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: bool = False,
) -> list[Entry]:
    """Write weights of ours as checkpoints that the reference loads with `load_state_dict(strict=True)`.

    Args:
        source: a safetensors file that `convert_weights.py` or `train.py` wrote, or a folder of them. From a folder,
            every restoration module, IRControlNet and LoRA is taken, and a warning names the others.
        folder: the folder for NAME.pth or NAME.safetensors; made if missing.
        file_format: "pth" or "safetensors".
        name: name of the result, by default the source's; only for a single file.
        dtype: stored precision, "float32" or "bfloat16".
        overwrite: replace files with the same names.
        progress: show a bar on stderr, if it is a terminal.

    Returns:
        One entry per file.

    Raises:
        FileExistsError: an output exists and `overwrite` is off; nothing is written.
        FileNotFoundError: there is no such source.
        IsADirectoryError: an output is a folder; nothing is written.
        ValueError: nothing in the source has a layout in the reference, a file is damaged, or an output would replace
            a source.
    """
    source, folder = Path(source).expanduser(), Path(folder).expanduser()
    files = _exportable(source)
    if name and len(files) > 1:
        raise UserError(f"one --name for {len(files)} files: give one file as --input")
    names = [f"{name or path.stem}.{file_format}" for path in files]
    check_names(folder, names, overwrite, files)
    bar = tqdm(list(zip(files, names)), "to PyTorch", disable=None if progress else True)
    with together(folder) as unfinished:
        return [_write(state_dict(path), unfinished / name, dtype) for path, name in bar]


def state_dict(path: Path) -> dict[str, np.ndarray]:
    """The reference's state dict of one of our files: float32 weights, and the reference's buffers.

    Raises:
        ValueError: the file is damaged, of another architecture, or does not state its architecture.
    """
    if _is_lora(path):
        return lora_state(path)
    kind, config = _described(path)
    try:
        target = kind.abstract(config)
    except Exception as error:  # an impossible network can raise anything
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: its header gives sizes that no network has, {config}: {reason}") from error
    state = export(load_weights(path, target), list(kind.rules(config)))
    # `load_state_dict(strict=True)` also asks for the buffers.
    return state | (swinir_buffers(config) if isinstance(config, SwinIRConfig) else {})


def swinir_buffers(config: SwinIRConfig) -> dict[str, np.ndarray]:
    """The constants in a SwinIR checkpoint, by key.

    Returns:
        per block the int64 (window^2, window^2) row of the bias table for each pair of pixels, and for every second
        block the float32 (windows, window^2, window^2) mask: -100 for pairs that are neighbours only after rolling,
        otherwise 0.
    """
    index, mask = _position_index(config.window), _attention_mask(config.window)
    buffers = {}
    for layer in range(config.num_layers):
        for i in range(config.depth):
            block = f"layers.{layer}.residual_group.blocks.{i}"
            buffers[f"{block}.attn.relative_position_index"] = index
            # Only every second block shifts its windows and needs a mask.
            if i % 2:
                buffers[f"{block}.attn_mask"] = mask
    return buffers


def _position_index(window: int) -> np.ndarray:
    row, column = np.divmod(np.arange(window**2), window)
    row, column = (x[:, None] - x[None] + window - 1 for x in (row, column))
    return row * (2 * window - 1) + column


def _attention_mask(window: int) -> np.ndarray:
    """Pixels of a rolled image may see each other if they lie in the same of three bands along both axes."""
    position = np.arange(SWINIR_MASK_SIDE)
    band = np.digitize(position, [SWINIR_MASK_SIDE - window, SWINIR_MASK_SIDE - window // 2])
    label = (3 * band[:, None] + band).reshape(SWINIR_MASK_SIDE // window, window, -1, window)
    label = label.transpose(0, 2, 1, 3).reshape(-1, window**2)
    return np.where(label[:, :, None] == label[:, None], 0, -100).astype(np.float32)


def _exportable(source: Path) -> list[Path]:
    if not source.is_dir():
        if source.exists():
            check_file(source)
        if not _is_lora(source):
            _described(source)
        return [source]
    found = {path: _is_lora(path) or _kind(path) is not None for path in sorted(source.glob("*.safetensors"))}
    files, others = ([path for path in found if found[path] is taken] for taken in (True, False))
    if not files:
        raise UserError(f"{source} holds no restoration module and no IRControlNet as .safetensors of ours")
    if others:
        left_out = ", ".join(path.name for path in others)
        warnings.warn(f"left out, without a layout in the reference: {left_out}", stacklevel=3)
    return files


def _is_lora(path: Path) -> bool:
    return read_metadata(path).get("family") == LORA


def _described(path: Path) -> tuple[Architecture, object]:
    found = _kind(path)
    if found is None and _has_encoder(read_metadata(path)):
        raise UserError(
            f"{path}: the reference has no control that reads the output of an encoder trained along; export one that "
            "was trained with config.model.control.condition=vae"
        )
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(
            f"{path} has no layout in the reference, or does not say its family; known are {known}"
        )
    return found


def _kind(path: Path) -> tuple[Architecture, object] | None:
    """Architecture and sizes from the file's header: those it states, or those of the preset of its training."""
    header = read_metadata(path)
    if _has_encoder(header):
        return None
    try:
        return _stated(header) or _trained(header, path.stem)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _has_encoder(header: Mapping[str, str]) -> bool:
    return header.get("condition", "vae") != "vae"


def _stated(header: Mapping[str, str]) -> tuple[Architecture, object] | None:
    kind = ARCHITECTURES.get(header.get("family", ""))
    if kind is None:
        return None
    config = kind.revive(header.get("config", ""))
    return (_control(int(header.get("hint_channels", 4))) if kind is CONTROL else kind), config


def _trained(header: Mapping[str, str], stem: str) -> tuple[Architecture, object] | None:
    """For files that name only a preset: their stage of training, or otherwise their name, gives the network."""
    preset, name = PRESETS.get(header.get("preset", "")), header.get("objective", stem)
    if preset is None or name not in ("rm", "control"):
        return None
    if name == "control":
        return _control(preset.vae.embed_dim), preset.unet
    kinds = (SWINIR, BSRNET, SCUNET)
    return next(((kind, preset.rm) for kind in kinds if isinstance(preset.rm, kind.config)), None)


def _control(hint_channels: int) -> Architecture:
    return replace(CONTROL, abstract=lambda config: abstract_controlnet(config, hint_channels))


def _write(state: Mapping[str, np.ndarray], path: Path, dtype: str) -> Entry:
    # Wide types first, so that every array is aligned.
    state = dict(sorted(state.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    dtypes = {key: dtype if x.dtype == np.float32 else str(x.dtype) for key, x in state.items()}
    if path.suffix == ".pth":
        digest = _write_pth(state, path, dtypes)
    else:
        shapes = {key: x.shape for key, x in state.items()}
        digest = write_arrays(path, shapes, iter(state.items()), {"format": "pt"}, dtypes)
    parameters = sum(x.size for key, x in state.items() if not key.endswith(BUFFERS))
    return Entry(path.stem, len(state), parameters, dtype, digest)


def _write_pth(state: Mapping[str, np.ndarray], path: Path, dtypes: Mapping[str, str]) -> str:
    write_torch(path, {key: x.astype(jnp.dtype(dtypes[key]), copy=False) for key, x in state.items()})
    return sha256_of(path)
