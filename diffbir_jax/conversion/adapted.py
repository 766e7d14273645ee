"""Convert LoRAs and published one-step restorers together with the network that they change."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
from tqdm import tqdm

from diffbir_jax.conversion import one_step
from diffbir_jax.conversion.bases import Base, open_bases
from diffbir_jax.conversion.diffusers import unet_rules
from diffbir_jax.conversion.engine import DAMAGED, ConversionError, Params, convert, raise_all
from diffbir_jax.conversion.files import State, read_all
from diffbir_jax.conversion.from_torch import origin_of
from diffbir_jax.conversion.lora import Adapter, adapters, deltas, is_lora, to_peft, tree
from diffbir_jax.conversion.lora_files import LORA
from diffbir_jax.conversion.output import check_names, together
from diffbir_jax.conversion.published import FACES, Method, method_of
from diffbir_jax.conversion.report import Entry, read_report, write_report
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.models.lora import adapted_layers
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.weights.safetensors import flatten, load_tree, read_metadata, write_arrays


class Output(NamedTuple):
    """A file to write.

    Attributes:
        stem: its name without suffix.
        shapes: path -> shape, in the order of the file.
        parts: yields (path, values) in this order.
        header: strings in its header.
        facts: for report.json.
    """

    stem: str
    shapes: Mapping[str, tuple[int, ...]]
    parts: Callable[[], Iterator[tuple[str, np.ndarray]]]
    header: Mapping[str, str]
    facts: Mapping[str, object]


def convert_adapted(
    source: str | Path,
    base: str | Path,
    folder: str | Path,
    name: str | None = None,
    alpha: float | None = None,
    keep: bool = False,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda note: None,
) -> list[Entry]:
    """Convert a LoRA or a published one-step restorer.

    LoRAs are merged into ordinary kernels. Those of S3Diff, which depend on the image, and the second one of PiSA-SR,
    which has a slider, stay factors in a file of their own, and so does any LoRA with `keep`.

    Args:
        source: file of HYPIR, OSEDiff, PiSA-SR or S3Diff, or a LoRA by the names of PEFT, diffusers or kohya.
        base: what it was trained on: a checkpoint, a diffusers folder, or a folder of files that were converted.
        folder: the folder for the files and report.json; made if missing. Networks that stay as they are are written,
            too, if `base` is no converted folder and they are not there.
        name: the end of the names of files: unet_NAME; by default the method's, or the source's.
        alpha: of a LoRA that does not say it; by default 8, as PEFT's. Its scale is alpha / rank.
        keep: keep all factors, and change no network.
        dtype, overwrite, progress, say: as in `convert_file`.

    Returns:
        One entry per file.

    Raises:
        CheckpointError: a source is no checkpoint of the kind, or damaged.
        ConversionError: keys are missing, unexpected or misshapen, or values are not finite; nothing is written.
        FileExistsError, IsADirectoryError, NotADirectoryError, ValueError: as in `convert_file`.
    """
    path, base, folder = Path(source).expanduser(), Path(base).expanduser(), Path(folder).expanduser()
    for given in (path, base):
        if not given.exists():
            raise FileNotFoundError(f"no file and no folder {given}")
    state = read_all(path)
    method = method_of(state)
    if method is None:
        raise CheckpointError(f"{path} is no LoRA and no known one-step restorer: leave --base out")
    if alpha is not None and method.version != LORA:
        raise CheckpointError(f"{path} is {method.title}, whose scale is known: leave --lora-alpha out")
    method = dataclasses.replace(method, alpha=alpha) if alpha is not None else method
    method = dataclasses.replace(method, kept=".*") if keep else method
    say(f"takes {path.name} as {method.title}, with alpha {_alpha_text(method)}")
    ending = name or _version(method, path)
    bases = open_bases(base, method.base)
    planned = list(_outputs(state, method, bases, ending, folder, overwrite))
    check_names(folder, [f"{output.stem}.safetensors" for output in planned], overwrite, [path])
    origin = origin_of(path) | {"family": method.title, "base": dict(bases["unet"].origin)}
    report = read_report(folder)
    with together(folder) as unfinished:
        entries = [_write(output, unfinished, dtype, origin, progress) for output in planned]
        write_report(unfinished, report | {entry.module: entry.describe() for entry in entries})
    return entries


def lora_state(path: Path) -> dict[str, np.ndarray]:
    """Return the factors in a LoRA file of ours by PEFT's keys, bit for bit as they were converted.

    Raises:
        ValueError: the file is no LoRA, or damaged.
    """
    header = json.loads(read_metadata(path).get("config", "{}"))
    if read_metadata(path).get("family") != LORA or not header:
        raise CheckpointError(f"{path} is no LoRA file of ours")
    state: dict[str, np.ndarray] = {}
    params = load_tree(path)
    for network, about in header.items():
        sizes = {key: tuple(x) if isinstance(x, list) else x for key, x in about["sizes"].items()}
        config = one_step.SIZES[network](**sizes)
        found = to_peft(params[network], network, config, about["adapters"])
        state |= {f"{about['prefix']}{key}": x for key, x in found.items()}
    return state


def _alpha_text(method: Method) -> str:
    return "equal to the rank" if method.alpha is None else f"{method.alpha:g} where it has none of its own"


def _version(method: Method, path: Path) -> str:
    return path.stem if method.version == LORA else FACES.get(path.stem.lower(), method.version)


def _outputs(
    state: State, method: Method, bases: Mapping[str, Base], ending: str, folder: Path, overwrite: bool
) -> Iterator[Output]:
    """All files that a source becomes, after checking its keys."""
    rest = {key: x for key, x in state.items() if not is_lora(key)}
    factors = {key: x for key, x in state.items() if is_lora(key)}
    found = adapters(factors, {network: base.config for network, base in bases.items()})
    method.check(found)
    trained, modulation = _trained(rest, method, bases["unet"]), _modulation(rest, method)
    known = {*trained.keys, *modulation.keys}
    raise_all(f"the file is not {method.title}", [f"unexpected {key}" for key in rest if key not in known])
    kept = [adapter for adapter in found if method.keeps(adapter)]
    merged = [adapter for adapter in found if adapter not in kept]
    for network, base in bases.items():
        own = [adapter for adapter in merged if adapter.network == network]
        values = trained.values if network == "unet" else {}
        if own or values:
            yield _changed(network, base, own, values, method, f"{network}_{ending}")
        elif not base.converted and method.version != LORA and _needed(method, network, folder, overwrite):
            yield _changed(network, base, [], {}, method, method.base[network])
    if kept:
        yield _kept(kept, bases, method, f"{LORA}_{ending}")
    if modulation.output:
        yield modulation.output(f"modulation_{ending}")


def _needed(method: Method, network: str, folder: Path, overwrite: bool) -> bool:
    """Whether a network that stays as it is is still to be written."""
    return network != "unet" and not (folder / f"{method.base[network]}.safetensors").is_file()


# The block of a stacked parameter, and what is added to it.
Addition = tuple[int | None, Callable[[], np.ndarray]]


class _Trained(NamedTuple):
    """Layers that replace the base's: their keys in the file, and path -> values."""

    keys: Sequence[str]
    values: Mapping[str, np.ndarray]


def _trained(rest: State, method: Method, base: Base) -> _Trained:
    assert isinstance(base.config, UNetConfig)
    rules = {rule.key: rule for rule in unet_rules(base.config)}
    keys, values, problems = [], {}, []
    for layer, replaced in method.trained.items():
        for part in ("weight", "bias"):
            key, rule = f"{layer}.{part}", rules[f"{replaced}.{part}"]
            if key not in rest:
                problems.append(f"missing {key}")
                continue
            keys.append(key)
            values[rule.path] = rule.layout.to_flax(np.asarray(rest[key]).astype(np.float32))
            if values[rule.path].shape != base.shapes[rule.path]:
                problems.append(f"misshapen {key}: got {rest[key].shape}")
    raise_all(f"the file does not fit {method.title}", problems)
    return _Trained(keys, values)


class _Modulation(NamedTuple):
    """S3Diff's modulation: its keys in the file, and stem -> output."""

    keys: Sequence[str]
    output: Callable[[str], Output] | None


def _modulation(rest: State, method: Method) -> _Modulation:
    if not method.modulated:
        return _Modulation([], None)
    kind = one_step.MODULATION
    config, target = kind.fit({key: x.shape for key, x in rest.items()})
    table = list(kind.rules(config))
    keys = [rule.key for rule in table]
    params = convert({key: rest[key] for key in keys if key in rest}, table, target)
    return _Modulation(keys, lambda stem: _whole(stem, params, kind.describe(config)))


def _whole(stem: str, params: Params, header: Mapping[str, str]) -> Output:
    flat = dict(sorted((path, np.asarray(x)) for path, x in flatten(params).items()))
    shapes = {path: x.shape for path, x in flat.items()}
    return Output(stem, shapes, lambda: iter(flat.items()), header, json.loads(header["config"]))


class _About(TypedDict):
    """What the header of a file of factors says of a network: the adapter of each layer, its sizes, its prefix."""

    adapters: dict[str, str]
    sizes: dict[str, object]
    prefix: NotRequired[str]


def _kept(kept: Sequence[Adapter], bases: Mapping[str, Base], method: Method, stem: str) -> Output:
    """The file of factors: a tree per network, with each layer's alpha."""
    params: Params = {}
    about: dict[str, _About] = {}
    for adapter in kept:
        config = bases[adapter.network].config
        grown = tree(adapter, config)
        if double := adapted_layers(params.get(adapter.network, {})).keys() & adapted_layers(grown).keys():
            raise CheckpointError(
                f"several adapters change {sorted(double)[0]}: merge them, or give a file with one of them"
            )
        for layer in adapted_layers(grown).values():
            alpha = layer["b"].shape[0] if method.alpha is None else method.alpha
            layer.setdefault("alpha", np.float32(alpha))
        params[adapter.network] = _joined(params.get(adapter.network, {}), grown)
        facts = about.setdefault(adapter.network, {"adapters": {}, "sizes": dataclasses.asdict(config)})
        facts["prefix"] = "" if method.version in (LORA, "hypir") else f"state_dict_{adapter.network}."
        facts["adapters"] |= dict.fromkeys(adapter.layers, adapter.name)
    header = {"family": LORA, "config": json.dumps(about)}
    return _whole(stem, params, header)._replace(facts={"networks": sorted(about)})


def _joined(one: Params, other: Params) -> Params:
    """The union of two trees of layers."""
    both = {name: _joined(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def _changed(
    network: str,
    base: Base,
    own: Sequence[Adapter],
    values: Mapping[str, np.ndarray],
    method: Method,
    stem: str,
) -> Output:
    """A network with LoRAs merged into it and some layers replaced."""
    added: dict[str, list[Addition]] = {}
    for adapter in own:
        for layer in adapter.layers:
            one = dataclasses.replace(adapter, layers={layer: adapter.layers[layer]})
            path, index, shape = _place(one, base)
            _check_shape(layer, path, shape, base)
            added.setdefault(path, []).append((index, lambda one=one: _delta(one, base, method)))

    def parts() -> Iterator[tuple[str, np.ndarray]]:
        for path, index, array in base.parts():
            yield path, _with(path, index, values.get(path, array), added)

    header = base.kind.describe(base.config)
    return Output(stem, base.shapes, parts, header, {"config": dataclasses.asdict(base.config)})


def _with(
    path: str, index: int | None, array: np.ndarray, added: Mapping[str, Sequence[Addition]]
) -> np.ndarray:
    """A part of a parameter with what LoRAs add to it."""
    for block, delta in added.get(path, ()):
        if block == index:
            array = array + delta()
        elif index is None:  # a stacked parameter that comes as a whole
            array = array.copy()
            array[block] += delta()
    raise_all(DAMAGED, [] if np.isfinite(array).all() else [f"not finite {path}, with the LoRA"])
    return array


def _place(adapter: Adapter, base: Base) -> tuple[str, int | None, tuple[int, ...]]:
    path, index, delta = next(deltas(adapter, base.config, 0.0))
    return path, index, delta.shape


def _delta(adapter: Adapter, base: Base, method: Method) -> np.ndarray:
    (parts,) = adapter.layers.values()
    rank = parts["b"].shape[1]
    # A layer's own alpha replaces the method's.
    scale = 1.0 if "alpha" in parts or method.alpha is None else method.alpha / rank
    return next(deltas(adapter, base.config, scale))[2]


def _check_shape(layer: str, path: str, shape: tuple[int, ...], base: Base) -> None:
    wanted = base.shapes[path]
    if shape not in (wanted, wanted[1:]):
        raise ConversionError(
            f"the LoRA of {layer} makes a kernel {shape}; the base has {wanted}: is it of another?"
        )


def _write(output: Output, folder: Path, dtype: str, origin: Mapping[str, object], progress: bool) -> Entry:
    dtypes = dict.fromkeys(output.shapes, dtype)
    bar = tqdm(
        output.parts(), output.stem, len(output.shapes), unit=" arrays", disable=None if progress else True
    )
    digest = write_arrays(folder / f"{output.stem}.safetensors", output.shapes, bar, output.header, dtypes)
    parameters = sum(math.prod(shape) for shape in output.shapes.values())
    facts = {"family": output.header["family"], **output.facts, "source": origin}
    return Entry(output.stem, len(output.shapes), parameters, dtype, digest, facts)
