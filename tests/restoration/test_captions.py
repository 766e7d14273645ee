"""Captions: each image of a batch has its own prompt."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.restoration import generator, restore
from diffbir_jax.restoration.restorer import Request, Restorer
from tests.micro import FEW, MICRO_TEXT, micro, picture, restorer, text

READER = dataclasses.replace(MICRO_TEXT, name="reader", text=CLIPTextConfig(width=8, heads=2, layers=2))
OPTIONS = dataclasses.replace(FEW, pos_prompt="sharp", cfg_scale=2.0)
PHOTOS = [picture(24, 24, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def reader() -> Restorer:
    return restorer(READER)


def restored(reader: Restorer, captions: list[str], options=OPTIONS) -> list[np.ndarray]:
    requests = [Request(photo, i, caption=words) for i, (photo, words) in enumerate(zip(PHOTOS, captions))]
    outcomes = sorted(reader.restore_many(requests, 1, options), key=lambda outcome: outcome.position)
    return [outcome.all()[0].image for outcome in outcomes]


def test_a_caption_comes_before_the_prompt_of_its_image_alone(reader: Restorer) -> None:
    both = restored(reader, ["a red boat", "snow"])
    for place, words in enumerate(("a red boat, sharp", "snow, sharp")):
        alone = restored(reader, ["", ""], dataclasses.replace(OPTIONS, pos_prompt=words))
        np.testing.assert_array_equal(both[place], alone[place])
    plain = restored(reader, ["", ""])
    assert not any(np.array_equal(a, b) for a, b in zip(both, plain))
    one = restored(reader, ["", "snow"])
    np.testing.assert_array_equal(one[0], plain[0])
    np.testing.assert_array_equal(one[1], both[1])


def test_captions_compile_nothing_new(reader: Restorer) -> None:
    restored(reader, ["", ""])
    before = reader.programs.compiled
    restored(reader, ["a red boat", "snow"])
    assert reader.programs.compiled == before


def test_only_the_last_embeddings_are_kept(reader: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "EMBEDDINGS", 3)
    mine = generator.Generator(READER, reader.params)
    first = mine.embed("0")
    assert mine.embed("0") is first
    for number in range(4):
        mine.embed(str(number))
    assert mine.embed("3") is mine.embed("3") and mine.embed("0") is not first
    np.testing.assert_array_equal(mine.embed("0"), first)


def test_where_no_network_reads_text_a_caption_is_refused() -> None:
    (outcome,) = micro().restore_many([Request(PHOTOS[0], caption="a boat")], 1, FEW)
    assert "reads no text; leave `caption` out" in str(outcome.error)


def test_embeddings_and_captions_exclude_each_other(reader: Restorer) -> None:
    with pytest.raises(UserError, match="leave one of them out"):
        list(reader.restore_many([Request(PHOTOS[0], caption="a boat")], 1, FEW, context=text(0.1, 0.2)))


def test_a_function_describes_each_picture_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees the picture as people do: upright, 8 bits, on white, and without metadata, whatever was given."""
    monkeypatch.setattr(restore, "loaded", lambda *_: SimpleNamespace(preset=READER))
    monkeypatch.setattr(
        restore, "_restored", lambda _, taken, requests, *__: [each.caption for each in requests]
    )
    deep = np.dstack([PHOTOS[0].astype(np.uint16) * 257, np.zeros((24, 24), np.uint16)])
    turned = Image.fromarray(PHOTOS[1][:, :16])
    exif = turned.getexif()
    exif[0x010E], exif[0x0112] = "my address", 6
    turned.info["exif"] = exif.tobytes()
    looks: list[Image.Image] = []

    def describe(image: Image.Image) -> str:
        looks.append(image)
        return f"photo {len(looks)}"

    found = restore.restore([deep, turned, PHOTOS[1] / np.float32(255)], caption=describe)
    assert found == ["photo 1", "photo 2", "photo 3"]
    assert [(image.mode, image.size, dict(image.getexif()), image.info) for image in looks] == [
        ("RGB", size, {}, {}) for size in ((24, 24), (24, 16), (24, 24))
    ]
    assert np.asarray(looks[0]).min() == 255
    np.testing.assert_array_equal(np.asarray(looks[1]), np.rot90(PHOTOS[1][:, :16], -1))
    np.testing.assert_array_equal(np.asarray(looks[2]), PHOTOS[1])
    with pytest.raises(UserError, match="gave a int for a picture"):
        restore.restore(PHOTOS[0], caption=lambda image: 3)
