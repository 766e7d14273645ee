"""Alignment: OpenCV's estimate, crops without aliasing, reflected borders."""

import cv2
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import compose, invert, moved, resizing, warped
from diffbir_jax.faces.align import crop, similarity, template, to_result
from tests.faces.pictures import ASTRONAUT, astronaut

TURNS = range(0, 181, 30)
# OpenCV fits in float32.
REACH = 1e-4


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("size", [64, 512, 1024])
@pytest.mark.parametrize("turn", TURNS)
def test_points_come_to_their_places_at_any_size_and_turn(size, turn):
    angle = np.deg2rad(turn)
    turned = np.array([[np.cos(angle), -np.sin(angle), 30.0], [np.sin(angle), np.cos(angle), -7.0]])
    points = moved(turned, template(512)) * 0.3
    assert np.abs(moved(similarity(points, size), points) - template(size)).max() < REACH


def test_one_wrong_point_spoils_nothing():
    points = template(100) + 5
    wrong = points.copy()
    wrong[2] += 60
    assert np.abs(moved(similarity(wrong), points) - template()).max() < REACH


@pytest.mark.parametrize(
    "points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2)), np.full((5, 2), 7.5)]
)
def test_points_that_make_no_face_are_refused(points):
    with pytest.raises(UserError, match="points are"):
        similarity(points)


def test_inside_the_photo_ours_is_the_references_crop():
    image = astronaut()
    matrix = similarity(ASTRONAUT)
    ours, theirs = crop(image, matrix), crop(image, matrix, compat=True)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_every_kind_of_picture_stays_what_it_is(dtype, channels):
    shape = (90, 120) if channels is None else (90, 120, channels)
    white = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    photo = (np.random.default_rng(0).random(shape) * white).astype(dtype)
    for compat in (False, True):
        if compat and channels in (1, 2, 4, None):
            continue
        found = crop(photo, similarity(template(64) + 10, 64), 64, compat=compat)
        assert found.dtype == dtype and found.shape == (64, 64, *shape[2:])
        # The map is a shift by 10 pixels.
        assert np.abs(found[5:50, 5:50].astype(float) - photo[15:60, 15:60]).max() <= 1e-3 * white


def test_the_border_is_reflected_and_in_the_reference_it_is_one_colour():
    photo = np.arange(40 * 40 * 3, dtype=np.float32).reshape(40, 40, 3) / 4800
    matrix = np.array([[1.0, 0, 12], [0, 1, 9]])
    assert np.allclose(crop(photo, matrix, 32)[9:, :12], crop(photo, matrix, 32)[9:, 24:12:-1], atol=1e-6)
    grey = crop((photo * 255).astype(np.uint8), matrix, 32, compat=True)
    assert (grey[:9] == (135, 133, 132)).all()


def test_a_crop_far_outside_and_one_of_a_single_pixel_are_finite():
    photo = np.full((1, 1, 3), 0.5, np.float32)
    assert np.allclose(crop(photo, np.array([[9.0, 0, 900], [0, 9, 900]]), 32), 0.5)
    wide = crop(astronaut(), np.array([[1.0, 0, 5000], [0, 1, 5000]]), 32)
    assert wide.shape == (32, 32, 3)


def test_a_large_face_does_not_alias():
    small = astronaut()[:300, 80:380]
    points = (ASTRONAUT - (80, 0) + 0.5) * 6 - 0.5
    large = cv2.resize(small, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    noisy = large + np.random.default_rng(0).normal(0, 25, large.shape)
    noisy = noisy.clip(0, 255).round().astype(np.uint8)
    matrix = similarity(points, 256)
    fine = compose(resizing((256, 256), (1024, 1024)), matrix)
    clean = cv2.resize(crop(large, fine, 1024), (256, 256), interpolation=cv2.INTER_AREA)
    ours, theirs = (psnr(crop(noisy, matrix, 256, compat=compat), clean) for compat in (False, True))
    assert ours > 33 and theirs < 25


def test_only_the_crops_part_of_a_photo_is_read():
    photo = np.broadcast_to(np.uint8(9), (60_000, 60_000, 3))  # 10 GB, were it copied
    assert (crop(photo, similarity(template(200) + 30_000)) == 9).all()


def test_a_crop_of_too_many_pixels_is_refused():
    with pytest.raises(UserError, match="reduce the photo first"):
        warped(np.zeros((9, 9), np.uint8), np.array([[1e-3, 0, 0], [0, 1e-3, 0]]), (64, 64))


@pytest.mark.parametrize(
    "photo", [np.zeros((9, 9, 5), np.uint8), np.zeros((9, 9)), np.zeros((0, 9), np.uint8)]
)
def test_what_is_no_picture_is_refused(photo):
    with pytest.raises(UserError, match="the photo is"):
        crop(photo, np.eye(2, 3))


def test_maps_are_composed_and_inverted():
    matrix = similarity(ASTRONAUT)
    assert np.allclose(compose(matrix, invert(matrix)), np.eye(2, 3), atol=1e-9)
    with pytest.raises(UserError, match="no inverse"):
        invert(np.zeros((2, 3)))


@pytest.mark.parametrize("sides", [(512, 512), (1024, 1024), (700, 333)])
def test_the_way_to_the_result_is_that_of_the_resized_photo(sides):
    matrix = similarity(ASTRONAUT)
    there = moved(to_result(matrix, (512, 512), sides), moved(matrix, np.array([-0.5, -0.5])))
    assert np.allclose(there, -0.5, atol=1e-6)
