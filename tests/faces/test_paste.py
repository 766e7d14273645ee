"""Pasting: the untouched crop comes back, faces stay apart, and backgrounds keep their kind, alpha and shades."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.align import crop, similarity, template
from diffbir_jax.faces.masks import inside, mask_of, outline, owned
from diffbir_jax.faces.paste import Patch, paste
from diffbir_jax.faces.reference import reference_inverse, reference_paste
from tests.faces.pictures import ASTRONAUT, astronaut, wall

MATRIX = similarity(ASTRONAUT)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def enlarged(image: np.ndarray, by: int) -> np.ndarray:
    size = (image.shape[1] * by, image.shape[0] * by)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def patch(pixels: np.ndarray, points: np.ndarray = ASTRONAUT, **more: np.ndarray) -> Patch:
    return Patch(pixels, points, similarity(points, pixels.shape[0]), **more)


def flat(value: float, dtype: type = np.uint8, side: int = 512) -> np.ndarray:
    return np.full((side, side, 3), value, dtype)


def weights(points: list[np.ndarray], side: int, scale: int = 1, **options: str) -> np.ndarray:
    """The share of white faces on black, (side * scale, side * scale)."""
    black = np.zeros((side * scale, side * scale, 3), np.float32)
    patches = [patch(flat(1.0, np.float32), each) for each in points]
    return paste(black, patches, (side, side), keep_low=False, **options)[..., 0]


# The square reaches hair and clothes, whose bicubic enlargement is sharper than the crop's bilinear one.
@pytest.mark.parametrize(
    "shape, scale, least",
    [("ellipse", 2, 52), ("ellipse", 4, 52), ("ellipse", 1, 48), ("square", 2, 48), ("square", 4, 48)],
)
def test_the_untouched_crop_comes_back_to_its_place(shape, scale, least):
    photo = astronaut()
    background = enlarged(photo, scale)
    found = paste(background, [patch(crop(photo, MATRIX))], (512, 512), shape=shape)
    assert (found != background).any()
    assert psnr(found, background) >= least


@pytest.mark.parametrize("scale", [2, 4])
def test_half_a_pixel_is_what_the_reference_loses(scale):
    photo = astronaut()
    background = enlarged(photo, scale)
    patches = [patch(crop(photo, MATRIX))]
    ours, theirs = (psnr(paste(background, patches, (512, 512), compat=c), background) for c in (False, True))
    assert ours > theirs + 8


def test_a_scale_that_differs_by_side_is_met():
    photo = astronaut()
    background = np.asarray(Image.fromarray(photo).resize((1023, 771), Image.Resampling.BICUBIC))
    assert psnr(paste(background, [patch(crop(photo, MATRIX))], (512, 512)), background) > 52


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_backgrounds_keep_their_kind_and_alpha(dtype, channels):
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    shape = (512, 512) if channels is None else (512, 512, channels)
    background = (np.random.default_rng(0).random(shape) * white).astype(dtype)
    face = (np.random.default_rng(1).random((512, 512, 3)) * white).astype(dtype)
    found = paste(background, [patch(face)], (512, 512), keep_low=False)
    assert found.dtype == dtype and found.shape == shape
    assert (found != background).any()
    if channels in (2, 4):
        assert (found[..., -1] == background[..., -1]).all()


def test_gray_photos_of_three_channels_stay_gray():
    background = np.repeat(astronaut()[..., :1], 3, 2)
    found = paste(background, [patch(np.full((512, 512, 3), (200, 30, 60), np.uint8))], (512, 512))
    assert (found[..., :1] == found).all() and (found != background).any()


def test_flat_on_flat_stays_flat():
    background = np.full((1024, 1024, 3), 200, np.uint8)
    assert (paste(background, [patch(flat(200))], (512, 512)) == 200).all()


def test_low_frequencies_are_the_backgrounds():
    photo = astronaut()
    tinted = np.clip(crop(photo, MATRIX) * 0.7 + (60, 20, 0), 0, 255).astype(np.uint8)
    kept, lost = (
        paste(photo, [patch(tinted)], (512, 512), keep_low=keep).astype(float) - photo
        for keep in (True, False)
    )
    inner = np.s_[90:150, 190:250]
    assert np.abs(kept[inner].mean((0, 1))).max() < 3
    assert np.abs(lost[inner].mean((0, 1))).max() > 20


def test_no_faces_change_nothing():
    assert (paste(astronaut(), [], (512, 512)) == astronaut()).all()
    assert (paste(astronaut(), [patch(flat(0))], (512, 512), strength=0.0) == astronaut()).all()


def test_half_strength_is_half_way():
    photo = np.zeros((512, 512, 3), np.float32)
    whole, half = (
        paste(photo, [patch(flat(1.0, np.float32))], (512, 512), keep_low=False, strength=s)
        for s in (1.0, 0.5)
    )
    assert np.allclose(half, whole / 2, atol=1e-6) and whole.max() == 1


def test_the_mask_covers_the_face_and_ends_inside_the_crop():
    share = weights([ASTRONAUT], 512)
    for x, y in ASTRONAUT.round().astype(int):
        assert share[y, x] == 1
    footprint = cv2.warpAffine(np.ones((512, 512), np.float32), cv2.invertAffineTransform(MATRIX), (512, 512))
    assert share[footprint == 0].max() == 0
    y, x = np.nonzero(share > 0.02)
    assert 100 < x.max() - x.min() < 130 and 100 < y.max() - y.min() < 130


@pytest.mark.parametrize("scale", [1, 4])
def test_the_feather_grows_with_the_face(scale):
    small = weights([template(64) + 90], 256, scale)
    large = weights([template(256)], 256, scale)
    soft = [
        np.count_nonzero((share > 0.1) & (share < 0.9)) / np.count_nonzero(share) for share in (small, large)
    ]
    assert soft[0] == pytest.approx(soft[1], rel=0.1)


def test_the_order_of_faces_does_not_matter_and_each_keeps_its_half():
    photo = np.zeros((256, 400, 3), np.float32)
    left, right = template(200) + (20, 20), template(200) + (80, 20)
    one, two = patch(flat(1.0, np.float32), left), patch(flat(0.5, np.float32), right)
    found = paste(photo, [one, two], (256, 400), keep_low=False)
    assert np.allclose(found, paste(photo, [two, one], (256, 400), keep_low=False), atol=1e-6)
    assert np.allclose(found[140, [110, 190], 0], [1.0, 0.5], atol=1e-6)
    assert found.max() <= 1.0 + 1e-6
    middle = found[140, 140:170, 0]
    assert (np.diff(middle) < 1e-6).all(), "between the faces, one changes over to the other"


def test_shares_of_two_faces_sum_to_one():
    mine, other = np.linspace(0, 1, 50), np.linspace(0.9, 0.1, 50)
    assert np.allclose(owned(mine, other) + owned(other, mine), 1)


def test_a_face_over_the_border_and_one_outside():
    photo = astronaut()
    points = template(200) - (100, 60)
    found = paste(
        photo, [patch(flat(250), points), patch(flat(9), points - 4000)], (512, 512), keep_low=False
    )
    assert (found[40, 20] == 250).all() and (found[300:] == photo[300:]).all()
    low = paste(photo, [patch(crop(photo, similarity(points)), points)], (512, 512))
    assert psnr(low, photo) > 40


def test_many_rows_are_pasted_in_strips_without_a_seam():
    share = weights([template(512)], 512, 4)
    assert share.shape == (2048, 2048)
    assert np.abs(np.diff(share[:, 1024])).max() < 0.01


def test_labels_decide_where_a_face_counts():
    labels = np.zeros((512, 512), np.uint8)
    labels[100:400, 150:350] = 1
    labels[100:180, 150:350] = 14  # a hat is kept from the background
    black = np.zeros((512, 512, 3), np.float32)
    points = template()
    found = paste(
        black, [Patch(flat(1.0, np.float32), points, np.eye(2, 3), labels)], (512, 512), keep_low=False
    )
    assert found[300, 250, 0] > 0.99 and found[110, 250, 0] < 0.01 and found[300, 60, 0] < 0.01


def test_masks_are_continuous_and_end_at_the_edges():
    y, x = np.mgrid[:512, :512].astype(np.float32)
    face = outline(template(), np.eye(2, 3))
    for shape in ("ellipse", "square"):
        mask = mask_of(shape, face, x, y, 512)
        assert mask.min() < 1e-3 and mask.max() == 1
        assert max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()) < 0.06
    assert inside(np.float32([-1]), np.float32([5]), 512) == 0


def test_a_face_in_profile_still_has_a_width():
    points = template()
    points[:, 0] = 256 + (points[:, 0] - 256) * 0.1
    face = outline(points, np.eye(2, 3))
    assert face.radius(np.float64(256 + 100), np.float64(306)) < 1


def test_the_references_way_is_repeatable():
    photo = astronaut()
    crops = [np.ascontiguousarray(crop(photo, MATRIX))]
    inverse = reference_inverse(MATRIX, 2)
    first = reference_paste(enlarged(photo, 2), crops, [inverse], 2)
    assert (reference_paste(enlarged(photo, 2), crops, [inverse], 2) == first).all()
    assert (paste(enlarged(photo, 2), [patch(crops[0])], (512, 512), compat=True) == first).all()


@pytest.mark.parametrize(
    "background, face, options, wrong",
    [
        (wall(64, 64), flat(1, np.uint16), {}, "the crop is uint16"),
        (wall(64, 64), np.zeros((8, 9, 3), np.uint8), {}, "the crop is"),
        (wall(64, 64).astype(int), flat(1), {}, "the background is"),
        (wall(64, 64), flat(1), {"shape": "round"}, "mask 'round'"),
        (wall(64, 64), flat(1), {"strength": 2.0}, "strength 2"),
        (wall(64, 64)[..., 0], flat(1), {"compat": True}, "`compat` pastes"),
    ],
)
def test_what_cannot_be_pasted_is_refused(background, face, options, wrong):
    with pytest.raises(UserError, match=wrong):
        paste(background, [Patch(face, ASTRONAUT, MATRIX)], (64, 64), **options)


def test_labels_of_another_size_are_refused():
    with pytest.raises(UserError, match="labels are"):
        paste(wall(64, 64), [patch(flat(1), labels=np.zeros((9, 9), np.uint8))], (64, 64))


def test_goldens_are_here():
    assert (Path(__file__).parents[1] / "golden" / "faces.npz").stat().st_size < 1.5e6


def test_the_mask_leaves_no_seam():
    """Gradients along the soft edge are those of face and background; the mask itself adds less than 3 %."""
    photo = (astronaut() / 255).astype(np.float32)
    face = crop(photo, MATRIX)
    sharper = (1.15 * (2 * face - cv2.GaussianBlur(face, (0, 0), 6)) + 0.04).clip(0, 1)
    share = weights([ASTRONAUT], 512).astype(np.float64)
    found = paste(photo, [patch(sharper)], (512, 512)).astype(np.float64)
    edge = (share > 0.05) & (share < 0.95)
    pasted = photo + (found - photo) / np.maximum(share, 0.01)[..., None]
    seen = gradients(found)
    without = share * gradients(pasted) + (1 - share) * gradients(photo)
    assert (seen[:, edge] ** 2).sum() == pytest.approx((without[:, edge] ** 2).sum(), rel=0.03)


def gradients(picture: np.ndarray) -> np.ndarray:
    return np.stack(np.gradient(picture.astype(np.float64).mean(-1)))
