"""Load parameters from a folder of weights: the file of each network, the choice of stage 1, the precision."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from tqdm import tqdm

from diffbir_jax.console.errors import MissingFileError, UserError
from diffbir_jax.console.pages import page
from diffbir_jax.console.plain import plain
from diffbir_jax.models.apply import Params, abstract
from diffbir_jax.models.lora import merge
from diffbir_jax.models.presets import Preset
from diffbir_jax.models.restoration_families import restoration_config
from diffbir_jax.weights import default_folder
from diffbir_jax.weights.safetensors import load_tree, load_weights, read_metadata

PRETRAINED = Path(__file__).parents[1] / "pretrained"
PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
# These parameters hold nearly all bytes. All others stay float32 and are cast when used.
CAST = ("kernel", "token_embedding")
NO_STAGE1 = "none"


def weights_folder(preset: Preset, folder: str | Path | None) -> Path:
    """Return `folder`; by default the preset's folder in the package, or else the folder of downloaded weights."""
    if folder is not None:
        return Path(folder).expanduser()
    # Small presets ship with the package and work without any download.
    shipped = PRETRAINED / preset.name
    return shipped if shipped.is_dir() else default_folder()


def with_stage1(preset: Preset, choice: str | None, folder: str | Path | None = None) -> Preset:
    """Return the preset with another stage 1.

    Args:
        preset: the preset.
        choice: None keeps the preset's restoration module. "none" removes it, and stage 1 only resizes. Otherwise the
            name of a converted restoration module in `folder`, or the path of its .safetensors file.
        folder: folder of the weights; by default see `weights_folder`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its header does not describe a restoration module.
    """
    if choice is None:
        return preset
    if not choice:
        raise UserError(f"stage 1 is '', allowed are {NO_STAGE1}, a name, a .safetensors file or a folder")
    if preset.one_step is not None and choice != NO_STAGE1:
        raise UserError(f"version {preset.name} has no stage 1, so it takes none: leave --stage1 out")
    if choice == NO_STAGE1:
        return dataclasses.replace(preset, rm=None)
    named = weights_folder(preset, folder) / f"{choice}.safetensors"
    path = Path(choice).expanduser() if choice.endswith(".safetensors") else named
    if not path.is_file():
        raise MissingFileError(
            f"no restoration module at {path}; give {NO_STAGE1}, the name of one in the folder of weights (--weights), "
            "a .safetensors file that diffbir convert wrote, or a folder of stage-1 images"
        )
    try:
        config = restoration_config(read_metadata(path))
    except ValueError as error:
        raise UserError(f"{path}: is no restoration module: {error}") from None
    # An absolute stem: joined to any folder of weights, it still names this file.
    stem = str(path.absolute()).removesuffix(".safetensors")
    return dataclasses.replace(preset, rm=config, files=preset.files._replace(rm=stem))


def load_params(
    preset: Preset,
    folder: str | Path | None = None,
    dtype: DTypeLike = jnp.float32,
    modules: Iterable[str] | None = None,
    change: Callable[[dict[str, Params]], dict[str, Params]] | None = None,
) -> dict[str, Params]:
    """Read a preset's weights onto the default device. A line on the error stream names files of another folder.

    Args:
        preset: determines the files and the shapes.
        folder: folder with `<stem>.safetensors` for some or all of the preset's `files`, see `weight_files`.
        dtype: dtype of the kernels; all small parameters stay float32.
        modules: names of the networks to load, by default all of the preset.
        change: changes the float32 parameters by network before they are stored, keeping shapes and dtypes; see
            `restoration.loras.merging`.

    Returns:
        parameters by module name.

    Raises:
        FileNotFoundError: files are missing (all are listed).
        ValueError: a file does not fit the preset.
    """
    files = weight_files(preset, folder, modules)
    announce(preset, folder, files)
    likes = abstract_params(preset, [name for name in files if name != "lora"])
    loaded = {name: load_weights(file, likes[name]) for name, file in files.items() if name in likes}
    if "lora" in files:
        loaded["lora"] = load_lora(files["lora"], likes)
    loaded = loaded if change is None else change(loaded)
    return {name: stored(params, dtype) for name, params in loaded.items()}


def load_lora(file: Path, networks: dict[str, Params]) -> Params:
    """Read the LoRAs of a one-step restorer: network -> tree, see `models.lora`.

    Args:
        file: what diffbir convert wrote.
        networks: shapes of the networks that may be adapted.

    Raises:
        ValueError: a LoRA fits none of them.
    """
    loras = load_tree(file)
    for name, lora in loras.items():
        try:
            # Shapes only: a LoRA of other kernels fails here, not within a program.
            jax.eval_shape(lambda base, lora: merge(base, lora, 1.0), networks[name], lora)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} does not fit the model's {name}: {error}") from error
    return loras


def weight_files(
    preset: Preset, folder: str | Path | None, modules: Iterable[str] | None = None
) -> dict[str, Path]:
    """Return the file of each of `modules`, by default of all of the preset.

    Files that a given folder lacks come from the usual one, see `weights_folder`; `borrowed` says which. So the export
    of a training is enough as `folder`. If the header of the control says that it was trained with its own encoder,
    the encoder's file is included. It lies beside the control.

    Raises:
        FileNotFoundError: files are missing (all are listed), or the given folder has none of the preset's files.
        ValueError: the header of the control's file cannot be read.
    """
    own, usual = weights_folder(preset, folder), weights_folder(preset, None)
    helped = folder is not None and bool(_held(preset, own))
    names = [*(preset.modules if modules is None else modules)]
    files = {name: _file(preset, name, own, usual if helped else own) for name in {*names, "control"}}
    if "control" in names and has_encoder(files["control"]) and "condition" not in names:
        # The header decides, not the presence of the file: an old encoder may lie in the same folder.
        names.append("condition")
    files["condition"] = files["control"].with_name(f"{preset.files.condition}.safetensors")
    files = {name: files[name] for name in names}
    if missing := [
        f"{getattr(preset.files, name)}.safetensors" for name in names if not files[name].is_file()
    ]:
        about = "published_one_step" if preset.one_step else "published"
        also = f" ({usual} lacks them, too)" if helped and usual != own else ""
        raise MissingFileError(
            f"{own} lacks {', '.join(missing)}; give a folder (--weights) that holds these weights of "
            f"the preset {preset.name}{also}; {page(about)} says how to get those of the published versions"
        )
    return files


def borrowed(preset: Preset, folder: str | Path | None, files: Mapping[str, Path]) -> str:
    """Say which of `files` are not of the given folder, in a line; "" if there are none.

    Args:
        preset, folder: see `weight_files`.
        files: its result.
    """
    own, usual = weights_folder(preset, folder), weights_folder(preset, None)
    others = [name for name, file in files.items() if own != usual and file.parent == usual]
    if not others:
        return ""
    are, those = ("are", "those") if len(others) > 1 else ("is", "that")
    source = f"{those} of {preset.name}" if usual == PRETRAINED / preset.name else f"from {usual}"
    return f"{own} has {', '.join(_held(preset, own))}; {', '.join(others)} {are} {source}"


def announce(preset: Preset, folder: str | Path | None, files: Mapping[str, Path]) -> None:
    """Print what `borrowed` says to the error stream, without breaking a progress bar."""
    if text := borrowed(preset, folder, files):
        tqdm.write(plain(text), file=sys.stderr)


def _held(preset: Preset, folder: Path) -> list[str]:
    """Return the networks of a preset that a folder has. A stage 1 from elsewhere does not count."""
    found = {name: _file(preset, name, folder, folder) for name in preset.modules}
    return [name for name, file in found.items() if file.is_file() and file.parent == folder]


def _file(preset: Preset, name: str, folder: Path, other: Path) -> Path:
    """Return the file of a network in a folder if it is there, else in another one."""
    stem = getattr(preset.files, name)
    file, trained = folder / f"{stem}.safetensors", folder / f"{name}.safetensors"
    # A stage 1 from elsewhere, see `with_stage1`, has its own folder.
    if file.is_file() or file.parent != folder:
        return file
    # Training exports control_v2.1 as control. By name alone it could be the control of another version.
    if trained.is_file() and read_metadata(trained).get("preset") == preset.name:
        return trained
    return other / file.name


def has_encoder(control: Path) -> bool:
    """Whether a control was trained with its own encoder of the condition, in place of the autoencoder's.

    False for older files, whose headers do not say it, and for a missing file.
    """
    return control.is_file() and read_metadata(control).get("condition", "vae") != "vae"


def abstract_params(preset: Preset, modules: Iterable[str] | None = None) -> dict[str, Params]:
    """Return shapes and dtypes of a preset's parameters by module name, by default of all; nothing is computed."""
    side, f = preset.multiple * 2, preset.vae.downsample
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    # A restoration module of another preset may need other multiples.
    lq_side = 0 if preset.rm is None else -(-side // preset.rm.multiple) * preset.rm.multiple
    z = jax.ShapeDtypeStruct((1, side // f, side // f, preset.vae.embed_dim), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    text = preset.unet.context_dim
    context = () if text is None else (jax.ShapeDtypeStruct((1, 77, text), jnp.float32),)
    inputs = {
        "rm": (jax.ShapeDtypeStruct((1, lq_side, lq_side, 3), jnp.float32),),
        "vae": (image,),
        "unet": (z, t, *context),
        "control": (z, z, t, *context),
        "text": (jax.ShapeDtypeStruct((1, 77), jnp.int32),),
        "condition": (image,),
        "degradation": (image,),
        "modulation": (jax.ShapeDtypeStruct((1, 2), jnp.float32),),
    }
    names = preset.modules if modules is None else modules
    return {name: abstract(getattr(preset, f"make_{name}")(), *inputs[name]) for name in names}


class _Key(Protocol):
    """An entry of the path to a leaf of nested dicts."""

    key: str


def stored(params: Params, dtype: DTypeLike) -> Params:
    """Put frozen parameters on the device with kernels in `dtype`: cast once, not in every call."""

    def place(path: Sequence[_Key], x: ArrayLike) -> jax.Array:
        return jnp.asarray(x, dtype if path[-1].key in CAST else jnp.float32)

    return jax.tree_util.tree_map_with_path(place, params)
