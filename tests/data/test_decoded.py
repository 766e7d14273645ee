import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data.crops import Crop
from diffbir_jax.data.decoded import Decoded
from diffbir_jax.data.example import BrokenExampleError, Example
from diffbir_jax.data.items import Items
from diffbir_jax.data.loader import Loader
from diffbir_jax.data.setup import make_loaders

SIDE = 20
BYTES = SIDE * SIDE * 3


class Files:
    """Pictures as files; it counts how often each is read."""

    def __init__(self, count, broken=()):
        self.images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        self.broken, self.reads = set(broken), np.zeros(count, int)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads[index] += 1
        file = io.BytesIO()
        Image.fromarray(self.images[index]).save(file, "PNG")
        data = file.getvalue()
        return Example(
            f"{index}.png", data[: len(data) // 2] if index in self.broken else data, {"short": str(index)}
        )

    @property
    def fingerprint(self):
        return "files"


def test_images_are_read_once_and_come_as_pixels():
    files = Files(4)
    decoded = Decoded(files, 4 * BYTES)
    for _ in range(3):
        for index in range(4):
            example = decoded[index]
            assert np.array_equal(example.image, files.images[index])
            assert example.name == f"{index}.png" and example.captions == {"short": str(index)}
    assert files.reads.tolist() == [1] * 4
    assert len(decoded) == 4 and decoded.fingerprint == "files"


def test_what_came_first_stays_as_far_as_there_is_room():
    files = Files(5)
    decoded = Decoded(files, 3 * BYTES - 1)
    for index in (4, 1, 3, 0, 2, 4, 1, 3, 0, 2):
        assert np.array_equal(decoded[index].image, files.images[index])
    assert files.reads.tolist() == [2, 1, 2, 2, 1]


def test_a_broken_image_is_left_to_whoever_decodes_it():
    items = Items(Decoded(Files(3, broken={1}), 3 * BYTES), Crop("none", SIDE))
    plain = Items(Files(3, broken={1}), Crop("none", SIDE))
    for position in range(6):
        item, other = items(position), plain(position)
        assert np.array_equal(item["hq"], other["hq"]) and item["broken"] == other["broken"]
    assert any("1.png: " in message for p in range(3) for _, message in items(p)["broken"])


def test_one_that_cannot_be_read_is_not_kept():
    class Gone(Files):
        def __getitem__(self, index):
            raise BrokenExampleError("0.png: is gone")

    with pytest.raises(BrokenExampleError, match="is gone"):
        Decoded(Gone(1), BYTES)[0]


def test_threads_share_it():
    files = Files(8)
    decoded = Decoded(files, 5 * BYTES)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: decoded[i % 8].image, range(400)))
    assert all(np.array_equal(image, files.images[i % 8]) for i, image in enumerate(images))
    files.reads[:] = 0
    for index in range(8):
        _ = decoded[index]
    assert files.reads.sum() == 3  # five have stayed, and not one more


def test_a_copy_for_another_process_begins_empty():
    decoded = Decoded(Files(2), 2 * BYTES)
    _ = decoded[0]
    copy = pickle.loads(pickle.dumps(decoded))
    assert copy.room == decoded.room and np.array_equal(copy[0].image, decoded[0].image)
    assert copy.source.reads.tolist() == [2, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_without(workers):
    loaders = [
        Loader(Items(source, Crop("random", 16)), 4, workers=workers)
        for source in (Files(6), Decoded(Files(6), 3 * BYTES))
    ]
    streams = []
    for loader in loaders:
        with closing(loader.iterate(0, 5)) as batches:
            streams.append([batch["hq"] for batch in batches])
    assert np.array_equal(*streams)
    assert loaders[0].identity == loaders[1].identity


def test_the_setting_is_mebibytes_of_training_images(tmp_path):
    for index in range(4):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{index}.png")
    data = {"source": {"kind": "folder", "path": str(tmp_path)}, "crop": {"kind": "none", "size": SIDE}}
    data |= {"batch_size": 2, "validation_size": 2, "held_out_every": 2}
    train, held_out = make_loaders(data | {"keep_decoded": 3}, 0)
    assert isinstance(train.items.source, Decoded) and train.items.source.room == 3 * 2**20
    assert not isinstance(held_out.items.source, Decoded)
    assert not isinstance(make_loaders(data, 0)[0].items.source, Decoded)
    with pytest.raises(ValueError, match="data.keep_decoded is -1, must be at least 0"):
        make_loaders(data | {"keep_decoded": -1}, 0)
