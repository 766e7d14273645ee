"""Make the loaders for training and validation from the settings of a data set."""

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Required, TypedDict

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.captions import CaptionConfig, choose
from diffbir_jax.data.crops import Crop
from diffbir_jax.data.decoded import Decoded
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.example import BrokenExampleError, DataError, Source
from diffbir_jax.data.items import Items
from diffbir_jax.data.loader import Loader
from diffbir_jax.data.recipe import build
from diffbir_jax.data.sources import make_source
from diffbir_jax.data.split import Split

LOG = logging.getLogger(__name__)
# Settings that go to the loader unchanged; settings that turn an example into an item; all settings.
LOADER_SETTINGS = ("workers", "threads", "ahead", "max_broken")
RECIPE = ("crop", "flip", "rotate", "degradation", "captions", "dtype")
SETTINGS = (
    *("source", "validation", "held_out_every", "batch_size", "validation_size"),
    *RECIPE,
    *LOADER_SETTINGS,
    "keep_decoded",
    *("cache", "pool"),  # for stages that train on encoded crops; unused here
)
# Raised when the same settings give other random draws, because a resumed run must continue with the same draws.
# 2: Poisson noise from tables.
DRAWS = 2
REQUIRED = ("source", "crop", "batch_size", "validation_size")
HELD_OUT_EVERY = 16
PROBED = 8  # images whose captions are looked for
# Crops of a held-out example in a validation batch, at most: more of a few photos say nothing new.
CROPS_EACH = 8


class Data(TypedDict, total=False):
    """`config.data` as plain data, see `make_loaders`."""

    source: Required[Mapping[str, object]]
    crop: Required[Mapping[str, object]]
    batch_size: Required[int]
    validation_size: Required[int]
    validation: Mapping[str, object] | None
    held_out_every: int | None
    flip: bool
    rotate: bool
    degradation: Mapping[str, object] | None
    captions: Mapping[str, object] | None
    dtype: str
    keep_decoded: float | None
    workers: int
    threads: int
    ahead: int
    max_broken: float
    cache: str | None
    pool: object


def make_loaders(data: Data, seed: int, host: int = 0, hosts: int = 1) -> tuple[Loader, Loader]:
    """Return the loaders for training and for validation.

    Args:
        data: `config.data` as plain data:
            `source`: see `make_source`.
            `validation`, another source; or `held_out_every`, N: every N-th example is held out (default 16), of fewer
                than N the last one.
            `crop` (`kind`, `size`, `scale`), `flip` and `rotate`: see `Crop`.
            `degradation`: see `make_degradation`; or None.
            `captions`: fields of CaptionConfig; or None.
            `dtype`; `batch_size`; `validation_size`, images in a validation batch, at most 8 crops of an example.
            `keep_decoded`: MiB of decoded training images that each process keeps in memory (default 0).
            `workers`, `threads`, `ahead` and `max_broken`: see `Loader`.
        seed: seed of all random draws.
        host: index of this host; every host validates on the same images.
        hosts: number of hosts.

    Raises:
        DataError: a source, the crop, the degradation or the captions cannot be used.
        ValueError: a setting is not allowed.
    """
    if unknown := sorted(data.keys() - set(SETTINGS)):
        raise UserError(f"config.data has no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    if missing := [name for name in REQUIRED if name not in data]:
        raise UserError(f"config.data lacks {', '.join(missing)}")
    if degrades_pairs(data):
        raise DataError(
            "data.source holds pairs, so set data.degradation to None: nothing degrades their LQ again"
        )
    train, held_out = _parts(data)
    degradation, captions = data.get("degradation"), data.get("captions")
    if captions:
        _look_for_captions(train)
    turns = {"flip": data.get("flip", False), "rotate": data.get("rotate", False)}
    crop = build(Crop, {**data["crop"], **turns}, "crop")
    items = partial(
        Items,
        crop=crop,
        pair=crop.pair,
        degrade=make_degradation(degradation) if degradation else None,
        caption=partial(choose, config=build(CaptionConfig, captions, "captions")) if captions else None,
        dtype=data.get("dtype", "uint8"),
    )
    settings: dict[str, Any] = {name: value for name, value in data.items() if name in LOADER_SETTINGS}
    settings["recipe"] = _digest({name: data.get(name) for name in RECIPE} | {"draws": DRAWS})
    return (
        Loader(items(_kept(train, data), seed=seed), data["batch_size"], host, hosts, **settings),
        Loader(items(held_out, seed=seed + 1), _validation_size(data, held_out), **settings),
    )


def degrades_pairs(data: Data) -> bool:
    """Whether pairs would meet a degradation."""
    source = data["source"]
    paired = source.get("kind") == "pairs" or source.get("lq_column") or source.get("pairs")
    return bool(paired and data.get("degradation"))


def _look_for_captions(source: Source) -> None:
    """Warn if no image of a few has a caption: all prompts would be empty, and nothing else would show it."""
    places = range(0, len(source), -(-len(source) // PROBED))
    for place in places:
        try:
            if source[place].captions:
                return
        except BrokenExampleError:
            continue
    LOG.warning(
        "data.captions is set, but none of %d images looked at (of %d) has a caption: their prompts are empty. Put a "
        ".txt beside each image, or metadata.jsonl into the folder, or set data.captions to None.",
        len(places),
        len(source),
    )


def _parts(data: Data) -> tuple[Source, Source]:
    """What is trained on, and what is held out: at least one example, however few there are."""
    source = make_source(data["source"])
    if validation := data.get("validation"):
        return source, make_source(validation)
    if len(source) < 2:
        raise DataError("data.source holds one example; give at least 2, as one is held out to validate on")
    every = min(data.get("held_out_every") or HELD_OUT_EVERY, len(source))
    return Split(source, every, False), Split(source, every, True)


def _validation_size(data: Data, held_out: Source) -> int:
    """Images in a validation batch: what the settings say, or less if few examples are held out."""
    return min(data["validation_size"], CROPS_EACH * len(held_out))


def _kept(source: Source, data: Data) -> Source:
    """Return `source`, or a `Decoded` around it if `keep_decoded` is set."""
    room = data.get("keep_decoded") or 0
    if room < 0:
        raise UserError(f"data.keep_decoded is {room}, must be at least 0 (MiB)")
    return Decoded(source, int(room * 2**20)) if room else source


def _digest(settings: Mapping[str, object]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
