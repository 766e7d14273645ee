import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from diffbir_jax.data.degradation import FirstOrder
from diffbir_jax.data.photos import CropConfig, PairBatches, detail, load_photos, random_crop
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.training.sources import HELD_OUT_EVERY, photo_batches


def levels(count):
    """Photos of one grey level each, so that a crop tells where it is from."""
    return [np.full((40, 48, 3), i, np.uint8) for i in range(count)]


def batches(degradation=None, seed=0, photos=None):
    rng = np.random.default_rng(3)
    photos = photos or [rng.integers(0, 255, (40, 48, 3), np.uint8) for _ in range(5)]
    return PairBatches(photos, 4, CropConfig(16, (0.5, 1.0)), degradation, seed)


def test_photos_are_read_in_name_order(tmp_path):
    for name, level in (("b.png", 2), ("a.PNG", 1), ("c.webp", 3)):
        Image.new("RGB", (20, 16), (level,) * 3).save(tmp_path / name, lossless=True)
    Image.new("L", (20, 16), 9).save(tmp_path / "grey.png")
    (tmp_path / "notes.txt").write_text("no photo")
    photos = load_photos(tmp_path)
    assert [int(p[0, 0, 0]) for p in photos] == [1, 2, 3, 9]
    assert {(p.shape, p.dtype.name) for p in photos} == {((16, 20, 3), "uint8")}


def test_photos_are_what_viewers_show(tmp_path):
    """Turned by EXIF's orientation, transparency over white, 16 bits rounded to 8."""
    rgb = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    alpha = np.full((16, 24, 1), 255, np.uint8)
    alpha[:, :8] = 0
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "b.png")
    deep = rgb.astype(np.uint16) * 257 + np.where(rgb < 255, 128, 0).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "c.png"), deep[..., ::-1])
    turned, over_white, rounded = load_photos(tmp_path)
    np.testing.assert_array_equal(turned, np.rot90(rgb, -1))
    np.testing.assert_array_equal(over_white, np.where(alpha > 0, rgb, 255))
    # 128 of 257 steps above a level still round to it; to cut the lower 8 bits off would not.
    np.testing.assert_array_equal(rounded, rgb)


@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_folder_without_photos_says_what_to_do(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"no photo .*config\.data\.folder=DIR.*build_photos\.py"):
        load_photos(tmp_path / folder)


def test_an_unreadable_photo_is_named(tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(b"not a jpeg")
    with pytest.raises(ImageFileError, match=r"broken\.jpg: is not a PNG, JPEG, .* image; convert it"):
        load_photos(tmp_path)


@pytest.mark.parametrize("shape", [(40, 48), (7, 90), (200, 150)])
def test_crops_have_their_size_whatever_the_photo(shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    for seed in range(20):
        crop = random_crop(photo, np.random.default_rng(seed), CropConfig(16, (0.3, 1.0)))
        assert (crop.shape, crop.dtype) == ((16, 16, 3), np.uint8)


def test_crops_at_full_scale_are_pixels_of_the_photo_flipped_and_turned():
    photo = np.arange(40 * 48, dtype=np.uint32).reshape(40, 48)
    photo = np.stack([photo // 256, photo % 256, 0 * photo], axis=-1).astype(np.uint8)
    orientations = set()
    for seed in range(60):
        crop = random_crop(photo, np.random.default_rng(seed), CropConfig(16, (1.0, 1.0))).astype(int)
        index = crop[..., 0] * 256 + crop[..., 1]
        top, left = divmod(index.min(), 48)
        patch = np.arange(40 * 48).reshape(40, 48)[top : top + 16, left : left + 16]
        same = [np.array_equal(index, np.rot90(p, k)) for p in (patch, patch[:, ::-1]) for k in range(4)]
        assert sum(same) == 1
        orientations.add(same.index(True))
    assert orientations == set(range(8))


def test_the_most_detailed_candidate_is_kept():
    flat, busy = (
        np.zeros((40, 40, 3), np.uint8),
        np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8),
    )
    source = PairBatches([flat, busy], 64, CropConfig(16, (1.0, 1.0), candidates=2), None)
    shares = np.mean([detail(crop) > 0 for crop in source(0)["hq"]])
    assert 0.6 < shares < 0.9  # 3/4: both candidates are flat once in four


def test_batches_are_pure_functions_of_seed_and_step():
    source, again, other = (
        batches(FirstOrder()),
        batches(FirstOrder()),
        batches(FirstOrder(), 1),
    )
    again(5)
    for key, value in source(7).items():
        assert (value.shape, value.dtype) == ((4, 16, 16, 3), np.uint8)
        np.testing.assert_array_equal(value, again(7)[key])
        assert (value != source(8)[key]).any()
        assert (value != other(7)[key]).any()
        assert len({image.tobytes() for image in value}) == 4


def test_without_a_degradation_there_is_no_lq():
    assert batches()(0).keys() == {"hq"}
    assert batches(FirstOrder())(0).keys() == {"hq", "lq"}


@pytest.mark.parametrize("count", [2, 5, 16, 40])
def test_held_out_photos_are_never_trained_on(tmp_path, count):
    for i, photo in enumerate(levels(count)):
        Image.fromarray(photo).save(tmp_path / f"{i:03}.png")
    data = {
        "folder": str(tmp_path),
        "batch_size": 16,
        "validation_size": 16,
        "crop": {"size": 16, "scale": (1.0, 1.0)},
    }
    train, held_out = photo_batches(ConfigDict({"seed": 0, "data": data | {"degradation": None}}))
    seen, kept = ({int(x) for step in range(30) for x in np.unique(b(step)["hq"])} for b in (train, held_out))
    assert not seen & kept
    assert seen | kept == set(range(count))
    assert len(kept) == -(-max(count - 11, 1) // HELD_OUT_EVERY)
