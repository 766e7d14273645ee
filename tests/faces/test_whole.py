"""Whole photos: all faces share one program, results are of the given kind, and reports say what became of faces."""

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.cuts import fitting_zoom
from diffbir_jax.faces.whole import restore_faces, save_crops
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.options import Options
from tests import micro
from tests.faces.known import KNOWN, SIDE, known_faces, small_crops
from tests.faces.pictures import wall

OPTIONS = Options(steps=1, start=0.5)


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return micro.restorer()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of 64 pixels, and faces that are known without a network."""
    small_crops(monkeypatch)
    known_faces(monkeypatch)


PHOTOS = [wall(90, 120), wall(96, 96), wall(60, 80)]


def restored(restorer: Restorer, pictures: list = PHOTOS, **more) -> list:
    return restore_faces(
        pictures, restorer, options=OPTIONS, detector=KNOWN, **{"background": "resize"} | more
    )


def test_faces_of_all_photos_take_one_program_of_each_kind(restorer, compilations):
    two = restored(restorer, PHOTOS[:1] * 2)
    stages = restorer.compiled
    assert len(two[0].faces) == 2
    restored(restorer, PHOTOS)
    assert restorer.compiled == stages


def test_faces_change_and_the_rest_is_the_background(restorer):
    one, two, none = restored(restorer, upscale=2.0)
    assert [len(each.faces) for each in (one, two, none)] == [2, 1, 0]
    for each, photo in zip((one, two), PHOTOS):
        ground = np.asarray(Image.fromarray(photo).resize((photo.shape[1] * 2, photo.shape[0] * 2), 3))
        assert each.image.shape == ground.shape and (each.image[:8] == ground[:8]).all()
        assert (each.image != ground).any()
        assert each.note == "" and all(report.left == "" for report in each.faces)
        assert all(np.shape(report.after) == (SIDE, SIDE, 3) for report in each.faces)
    size = 45
    assert two.faces[0].scale == pytest.approx(2 * 47 * size / 101 / (126 * SIDE / 512), rel=0.1)


def test_a_photo_without_a_face_is_its_background_and_says_so(restorer):
    (none,) = restored(restorer, PHOTOS[2:], upscale=2.0)
    assert none.note == "no face" and none.faces == ()
    assert (none.image == np.asarray(Image.fromarray(PHOTOS[2]).resize((160, 120), 3))).all()


def test_a_face_does_not_depend_on_what_is_restored_beside_it(restorer):
    alone, beside = restored(restorer, PHOTOS[:1]), restored(restorer)
    assert (alone[0].image == beside[0].image).all()
    again = restored(restorer)
    assert all((a.image == b.image).all() for a, b in zip(beside, again))
    assert not np.array_equal(beside[0].faces[0].after, beside[0].faces[1].after)


def test_the_background_is_restored_or_given(restorer):
    (sr,) = restored(restorer, PHOTOS[2:], background="sr", upscale=2.0)
    assert sr.image.shape == (120, 160, 3)
    assert (sr.image != np.asarray(Image.fromarray(PHOTOS[2]).resize((160, 120), 3))).any()
    black = np.zeros((120, 160, 3), np.uint8)
    (given,) = restored(restorer, PHOTOS[2:], background=[black], upscale=2.0)
    assert (given.image == 0).all()
    (half,) = restored(restorer, PHOTOS[2:], background=[black], upscale=4.0)
    assert half.image.shape == (240, 320, 3)


@pytest.mark.parametrize(
    "picture, shape, dtype",
    [
        (PHOTOS[0][..., 0], (90, 120), np.uint8),
        (np.dstack([PHOTOS[0], np.full((90, 120), 200, np.uint8)]), (90, 120, 4), np.uint8),
        (PHOTOS[0].astype(np.uint16) * 257, (90, 120, 3), np.uint16),
        ((PHOTOS[0] / 255).astype(np.float32), (90, 120, 3), np.float32),
    ],
    ids=["gray", "alpha", "16 bits", "floats"],
)
def test_every_kind_of_picture_comes_back_as_it_is(restorer, picture, shape, dtype):
    (found,) = restored(restorer, [picture])
    assert found.image.shape == shape and found.image.dtype == dtype
    assert len(found.faces) == 2 and (found.image != picture).any()
    if shape[2:] == (4,):
        assert (found.image[..., 3] == 200).all()


def test_a_photo_that_exif_turns_is_upright(restorer):
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(PHOTOS[0])))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    turned.info["exif"] = exif.tobytes()
    turned.getexif()[0x0112] = 6
    (found,) = restored(restorer, [turned])
    assert found.image.size == (120, 90) and len(found.faces) == 2


def test_faces_are_chosen_and_those_left_say_why(restorer):
    # Twice, so that two faces are restored as in other tests, by the same programs.
    twice = PHOTOS[:1] * 2
    large, _ = restored(restorer, twice, choice=Faces(only_largest=True))
    assert [report.left for report in large.faces] == ["not the largest face", ""]
    some, _ = restored(restorer, twice, choice=Faces(least=45))
    assert some.faces[0].left == "smaller than 45 pixels" and some.faces[0].after is None
    few, _ = restored(restorer, twice, choice=Faces(most=45))
    assert few.faces[1].left == "larger than 45 pixels"
    (weak,) = restored(restorer, PHOTOS[:1], choice=Faces(strength=0.0))
    assert (weak.image == PHOTOS[0]).all()


def test_the_reference_way_differs(restorer):
    ours, theirs = (restored(restorer, PHOTOS[:1], choice=Faces(compat=c))[0].image for c in (False, True))
    assert theirs.shape == ours.shape and (theirs != ours).any()


def test_identity_is_reported_if_somebody_judges(restorer):
    class Judge:
        def likeness(self, photo, points, other, other_points) -> float:
            assert np.allclose((points + 0.5) * 2 - 0.5, other_points)
            return 0.25

    (found,) = restored(restorer, PHOTOS[:1], upscale=2.0, judge=Judge())
    assert [report.identity for report in found.faces] == [0.25, 0.25]


def test_crops_are_saved_from_left_to_right(restorer, tmp_path):
    one, two, _ = restored(restorer, choice=Faces(only_largest=True))
    assert [file.name for file in save_crops(one, tmp_path, "a")] == [
        "a_face_02_before.png",
        "a_face_02_after.png",
    ]
    save_crops(two, tmp_path, "b")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b_face_01_after.png")), two.faces[0].after)


def test_zooms_fit_the_presets():
    class One:
        preset = micro.MICRO

    assert fitting_zoom(One()) == 1
    for needed, zoom in ((1.5, 2), (3.0, 4)):
        One.preset = micro.dataclasses.replace(micro.MICRO, meant_from=needed)
        assert fitting_zoom(One()) == zoom


@pytest.mark.parametrize(
    "more, wrong",
    [
        ({"upscale": 0.0}, "`upscale` is 0"),
        ({"background": "rezise"}, "`background` is 'rezise'"),
        ({"background": [PHOTOS[0]]}, "1 backgrounds for 3 photos"),
        ({"background": [PHOTOS[0].astype(np.float32)] * 3}, "floats are in"),
        ({"background": ["missing.png"] * 3}, "missing.png: no such file"),
        ({"background": "."}, "photo 1 has no name; give paths of photos"),
        ({"background": [wall(50, 20)] * 3}, "other proportions"),
        ({"zoom": 3}, "`zoom` is 3"),
    ],
)
def test_what_cannot_be_done_is_one_line(restorer, more, wrong):
    with pytest.raises((UserError, ImageFileError), match=wrong):
        restored(restorer, **more)


def test_sizes_in_the_wrong_order_are_refused():
    with pytest.raises(UserError, match="give a least size"):
        Faces(least=9, most=3)
