"""A data set for TensorFlow Datasets that builds without TensorFlow: its images are given as files, encoded.

To be run: of a class that is imported TensorFlow Datasets looks up the package, by a module that it does not require.
"""

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import png

COUNT = 5


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Random images, in the order they are given in."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "pixels": tfds.features.Tensor(shape=(4, 6, 3), dtype=np.uint8),
            "caption": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(COUNT):
            pixels = np.full((4, 6, 3), i, np.uint8)
            captions = [f"long {i}", "another"][: i + 1] if i else []
            yield (
                i,
                {"image": io.BytesIO(png(i)), "pixels": pixels, "caption": f"ä {i}", "captions": captions},
            )


def main(data_dir: str) -> None:
    """Build the data set, read it back and print as JSON what is in it."""
    TinyPhotos(data_dir=data_dir, file_format="array_record").download_and_prepare()
    source = make_source(
        {"kind": "tfds", "name": "tiny_photos", "data_dir": data_dir, "short_key": "caption"}
    )
    examples = (source[i] for i in range(len(source)))
    found = [(example.name, bytes(example.image).hex(), dict(example.captions)) for example in examples]
    print(json.dumps({"examples": found, "tensorflow": "tensorflow" in sys.modules}))


if __name__ == "__main__":
    main(sys.argv[1])
