"""Batches for training and validation, from the photo folder or the data source in a config."""

import warnings
from collections.abc import Generator, Mapping
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.console.section import Section
from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.photos import CropConfig, PairBatches, load_photos
from diffbir_jax.text.tokenizer import tokenize
from diffbir_jax.training.config import Config, optional

# Every 16th photo is held out of training, starting at the offset (or at the last photo of a small set).
HELD_OUT_EVERY, HELD_OUT_OFFSET = 16, 11


def to_unit(image: jax.Array | np.ndarray) -> jax.Array:
    """uint8, or float32 in [0, 1] -> float32 in [0, 1]."""
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    return jnp.asarray(image).astype(jnp.float32) / scale


def to_signed(image: jax.Array | np.ndarray) -> jax.Array:
    """uint8, or float32 in [0, 1] -> float32 in [-1, 1], the range of the VAE."""
    return 2.0 * to_unit(image) - 1.0


class Tokenized(Batches):
    """Batches with the captions, `prompt` (B,) str, replaced by `tokens` (B, 77) int32; others are unchanged.

    Long captions are cut without a warning: they are common in data sets, and nobody will shorten them.
    """

    def __init__(self, batches: Batches):
        """Wrap `batches` and share their table of broken examples."""
        self._batches, self.broken = batches, batches.broken

    def __call__(self, step: int) -> HostBatch:
        """Return batch `step`."""
        return _tokenized(self._batches(step))

    def iterate(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """Yield the batches `first` to `last` - 1, prepared ahead; the caller must close the generator."""
        with closing(self._batches.iterate(first, last)) as batches:
            for batch in batches:
                yield _tokenized(batch)

    @property
    def identity(self) -> dict[str, int | str]:
        """The identity of the wrapped batches."""
        return self._batches.identity

    def remember(self, broken: Mapping[int, str]) -> None:
        """Take over the `broken` examples of the run that is resumed."""
        self._batches.remember(broken)


def _tokenized(batch: HostBatch) -> HostBatch:
    if "prompt" not in batch:
        return batch
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "prompt cut after", UserWarning)
        tokens = tokenize([str(text) for text in batch["prompt"]])
    return {name: values for name, values in batch.items() if name != "prompt"} | {"tokens": tokens}


def training_batches(config: Config, whole: bool = False) -> tuple[Batches, Batches]:
    """Return training batches and batches of held-out examples.

    Args:
        config: `seed` and `data`; with `data.source` see `make_loaders`, without it see `photo_batches`.
        whole: True returns whole training batches in every process; False makes a source return each process's part.
    """
    if "source" not in config.data:
        return photo_batches(config)
    # Imported here because Grain is slow to import, and photo folders do not need it.
    from diffbir_jax.data.setup import make_loaders

    host, hosts = (0, 1) if whole else (jax.process_index(), jax.process_count())
    return make_loaders(config.data.to_dict(), config.seed, host, hosts)


def photo_batches(config: Config) -> tuple[PairBatches, PairBatches]:
    """Return training batches and batches of crops of the held-out photos.

    Args:
        config: `data.folder`, `data.held_out` (a folder of other photos; without it, every 16th photo is held out),
            `data.batch_size`, `data.crop` (CropConfig fields), `data.degradation` (see `make_degradation`, or None),
            `data.validation_size` (images in a validation batch) and `seed`.
    """
    data = config.data
    kept, held_out = _split(data)
    degradation = None if data.degradation is None else make_degradation(data.degradation.to_dict())
    crop = CropConfig(**_plain(data.crop))
    return (
        PairBatches(kept, data.batch_size, crop, degradation, config.seed),
        # Another seed than training, so that validation does not share its crops and degradations.
        PairBatches(held_out, data.validation_size, crop, degradation, config.seed + 1),
    )


def _split(data: Section) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return training photos and held-out photos, from two folders or from one."""
    photos = load_photos(data.folder)
    if optional(data, "data.held_out"):
        return photos, load_photos(data.held_out)
    first = min(HELD_OUT_OFFSET, len(photos) - 1)
    # A single photo serves both purposes, so that a run can be tried with it.
    kept = [p for i, p in enumerate(photos) if (i - first) % HELD_OUT_EVERY] or photos
    return kept, photos[first::HELD_OUT_EVERY]


def _plain(config: Section) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
