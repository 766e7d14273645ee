import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from scripts.photo_list import HELD_OUT, TRAIN, Photo
from scripts.select_photos import difference_hash, is_large, near_duplicates, sharp_scale, without_leaks


def texture(side: int, contrast: float = 60.0, seed: int = 0) -> Image.Image:
    """Return a picture whose octaves have about the same variance, like photographs."""
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) / np.maximum(frequencies, 1 / side)
    grey = np.fft.irfft2(spectrum, s=(side, side))
    grey = np.clip(128 + contrast * (grey - grey.mean()) / grey.std(), 0, 255)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def test_a_sharp_photo_keeps_its_size() -> None:
    assert sharp_scale(texture(512)) == 1.0


def test_an_enlarged_photo_is_scaled_back() -> None:
    assert sharp_scale(enlarged(texture(512), 2)) == 0.5


def test_one_sharp_window_is_enough() -> None:
    image = Image.new("RGB", (1024, 512), "grey")
    image.paste(texture(256), (512, 128))
    assert sharp_scale(image) == 1.0


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (512, 512), "grey"),
        texture(512, contrast=5.0),
        enlarged(texture(128), 8),
        texture(200),
    ],
    ids=["flat", "faint", "enlarged 8 times", "small"],
)
def test_what_is_sharp_at_no_scale_is_left_out(image: Image.Image) -> None:
    assert sharp_scale(image) is None


def test_small_and_cut_out_pictures_are_left_out() -> None:
    assert is_large(Image.new("RGB", (600, 300)))
    assert not is_large(Image.new("RGB", (599, 300)))
    assert not is_large(Image.new("RGBA", (600, 300)))


def _again(image: Image.Image) -> Image.Image:
    """Return the same picture brighter, smaller and compressed."""
    file = io.BytesIO()
    smaller = image.resize((image.width * 3 // 4, image.height * 3 // 4))
    ImageEnhance.Brightness(smaller).enhance(1.2).save(file, "JPEG", quality=50)
    return Image.open(file)


def test_near_duplicates_are_found() -> None:
    first, second = texture(256, seed=1), texture(256, seed=2)
    hashes = [difference_hash(image) for image in (first, second, _again(first))]
    assert list(near_duplicates(hashes)) == [(0, 2)]


@pytest.mark.parametrize(("splits", "kept"), [((TRAIN, HELD_OUT), [1]), ((TRAIN, TRAIN), [0, 1])])
def test_no_photo_for_training_looks_like_a_held_out_one(splits: tuple[str, str], kept: list[int]) -> None:
    photo = Photo(TRAIN, "a.jpg", "pack", "a.jpg", "A", "CC0-1.0", 1.0, "0")
    photos = [dataclasses.replace(photo, split=split, file=f"{i}.jpg") for i, split in enumerate(splits)]
    image = texture(256)
    hashes = [difference_hash(image), difference_hash(_again(image))]
    assert without_leaks(photos, hashes) == [photos[i] for i in kept]
