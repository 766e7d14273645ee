"""Load parameters from a folder of weights: the file of each network, the choice of stage 1, the precision."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from diffbir_jax.console.errors import MissingFileError, UserError
from diffbir_jax.console.pages import page
from diffbir_jax.models.apply import Params, abstract
from diffbir_jax.models.lora import merge
from diffbir_jax.models.presets import Preset, restoration_config
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
    """Read a preset's weights onto the default device.

    Args:
        preset: determines the files and the shapes.
        folder: folder with `<stem>.safetensors` for each of the preset's `files`; by default see `weights_folder`.
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
    """Return the file of each of `modules`; arguments and `FileNotFoundError` as in `load_params`.

    If the header of the control says that it was trained with its own encoder, the encoder's file is included.

    Raises:
        ValueError: the header of the control's file cannot be read.
    """
    folder = weights_folder(preset, folder)
    files = {name: folder / f"{stem}.safetensors" for name, stem in preset.files._asdict().items()}
    names = [*(preset.modules if modules is None else modules)]
    if "control" in names and has_encoder(files["control"]) and "condition" not in names:
        # The header decides, not the presence of the file: an old encoder may lie in the same folder.
        names.append("condition")
    files = {name: files[name] for name in names}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        about = "published_one_step" if preset.one_step else "published"
        raise MissingFileError(
            f"{folder} lacks {', '.join(missing)}; give a folder (--weights) that holds these weights of "
            f"the preset {preset.name}; {page(about)} says how to get those of the published versions"
        )
    return files


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
