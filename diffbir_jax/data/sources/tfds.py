"""Data sets of TensorFlow Datasets with random access; TensorFlow itself is not needed."""

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Protocol

import numpy as np

from diffbir_jax.console.pages import page
from diffbir_jax.data.example import BrokenExampleError, DataError, Example
from diffbir_jax.data.sources.shared import PerProcess, digest, extra
from diffbir_jax.files.errors import reason


class _Info(Protocol):
    full_name: str
    features: Mapping[str, object]


class _Builder(Protocol):
    info: _Info


class _Records(Protocol):
    """A data source of TensorFlow Datasets; examples are features by name."""

    dataset_info: _Info

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, bytes | np.ndarray]: ...


class TfdsSource:
    """A split of a data set that was built as ArrayRecord files."""

    def __init__(
        self,
        name: str | None = None,
        directory: str | None = None,
        data_dir: str | None = None,
        split: str = "train",
        image_key: str = "image",
        short_key: str | None = None,
        long_key: str | None = None,
    ):
        """Open the data set; nothing is downloaded or built.

        Args:
            name: its name in TensorFlow Datasets, such as `coco/2017` or `my_photos:1.0.0`; or give `directory`.
            directory: the folder of a version, with `dataset_info.json`, built by anyone.
            data_dir: the folder of data sets; by default that of TensorFlow Datasets.
            split: such as `train` or `train[:90%]`.
            image_key: the image's feature: encoded, or (H, W, 3) uint8.
            short_key: the feature of short captions (a text, or several, of which the first is used); None for none.
            long_key: the feature of long captions; None for none.

        Raises:
            DataError: it was not built, lacks the split or a feature, or the split is empty.
        """
        if (name is None) == (directory is None):
            raise DataError("a source of kind tfds takes either name or directory")
        self._keys = {"image": image_key, "short": short_key, "long": long_key}
        self._records = PerProcess(partial(_open, name, directory, data_dir, split, image_key))
        info = self._records().dataset_info
        # The full name has the version, so another version has another fingerprint.
        self._title = f"{info.full_name}, {split}"
        self._check_keys(info.features)

    def _check_keys(self, features: Mapping[str, object]) -> None:
        for field, key in self._keys.items():
            if key is not None and key not in features:
                raise DataError(
                    f"{self._title}: has no feature {key}; {field}_key may be {', '.join(sorted(features))}"
                )

    def __len__(self) -> int:
        return len(self._records())

    def __getitem__(self, index: int) -> Example:
        """Read example `index`; BrokenExampleError if it is damaged."""
        name = f"{self._title}, {index}"
        try:
            features = self._records()[index]
        except (RuntimeError, OSError, ValueError) as error:
            raise BrokenExampleError(f"{name}: cannot be read ({reason(error)})") from None
        values = {kind: features[key] for kind, key in self._keys.items() if key is not None}
        image = values.pop("image")
        return Example(name, image, {kind: text for kind, value in values.items() if (text := _text(value))})

    @property
    def fingerprint(self) -> str:
        """Digest of the data set's name, version and split, and the number of examples."""
        return digest([self._title, len(self)])


def _open(
    name: str | None, directory: str | None, data_dir: str | None, split: str, image_key: str
) -> _Records:
    tfds = extra("tensorflow_datasets", "sources of kind tfds")
    where = directory or f"{name} in {data_dir or 'the default data_dir'}"
    try:
        builder = (
            tfds.builder_from_directory(directory) if directory else tfds.builder(name, data_dir=data_dir)
        )
        return builder.as_data_source(split, decoders=_undecoded(tfds, builder, image_key))
    # NotImplementedError, a RuntimeError, means: built as TFRecord, or not built at all.
    except (ValueError, OSError, RuntimeError, AssertionError) as error:
        first = reason(ValueError(str(error).strip().partition("\n")[0]))
        raise DataError(
            f"{where}: is no data set with random access to {split} ({first}); build it with "
            "tfds.builder(NAME, data_dir=DIR, file_format='array_record').download_and_prepare(), "
            f"see {page('data')}"
        ) from None


def _undecoded(tfds: ModuleType, builder: _Builder, image_key: str) -> dict[str, object] | None:
    """Return the decoders that leave images encoded: all sources use the same decoder (`data.decoding`)."""
    features = builder.info.features
    encoded = image_key in features and isinstance(features[image_key], tfds.features.Image)
    return {image_key: tfds.decode.SkipDecoding()} if encoded else None


def _text(value: object) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        value = value[0] if len(value) else b""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
