"""Detection: faces of all sizes and turns, at the border, in every kind of picture; none where there is none."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.faces import ASTRONAUT as ASTRONAUT_NAME
from benchmarks.faces import PLACES, REDUCED, corner_errors, degraded, group
from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import corners, invert, moved
from diffbir_jax.faces.align import similarity
from diffbir_jax.faces.find import Face, YuNet, detect
from diffbir_jax.files.errors import ImageFileError
from tests.faces.pictures import ASTRONAUT, BOX, astronaut, head, row_of_heads, wall


def corner_error(true: np.ndarray, found: np.ndarray) -> float:
    """How far the corners of the crop by found points are off, in pixels of 512."""
    square = corners(512, 512)
    seen = moved(similarity(true), moved(invert(similarity(found)), square))
    return float(np.hypot(*(seen - square).T).mean())


def test_the_face_of_the_astronaut_is_found():
    (face,) = detect(astronaut())
    assert face.score > 0.9 and np.abs(face.points - ASTRONAUT).max() < 8
    assert face.box == pytest.approx((178, 62.6, 90.4, 113.9), abs=8)
    assert face.holds(face.centre) and face.size == pytest.approx(BOX * 0.9, rel=0.1)


@pytest.mark.parametrize("turn", range(0, 181, 45))
def test_a_turned_face_is_found_and_its_crop_is_upright(turn):
    """YuNet alone finds the face, but its points are tilted towards the upright."""
    part = Image.fromarray(astronaut()[:300, 80:380])
    picture = np.asarray(part.rotate(turn, Image.Resampling.BICUBIC, expand=True))
    angle = np.deg2rad(turn)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array(picture.shape[1::-1]) / 2
    true = (ASTRONAUT - (80, 0) + 0.5 - 150) @ turned.T + middle - 0.5
    (face,) = detect(picture)
    assert corner_error(true, face.points) < 50


@pytest.mark.parametrize("height", [17, 60, 300, 900])
def test_faces_of_all_sizes_are_one_face(height):
    one = head(height)
    picture = wall(max(len(one), 400), max(len(one), 600))
    picture[: len(one), : len(one)] = one
    (face,) = detect(picture)
    assert face.box[3] == pytest.approx(height, rel=0.4)
    true = (ASTRONAUT - (80, 0) + 0.5) * (len(one) / 300) - 0.5
    # 36 pixels of 512 are one pixel of the smallest face.
    assert corner_error(true, face.points) < (80 if height == 17 else 50)


def test_a_face_over_the_border_is_found():
    cut = astronaut()[60:, 215:]
    (face,) = detect(cut)
    assert face.points[0, 0] < 0
    assert face.points[:, 1] == pytest.approx(ASTRONAUT[:, 1] - 60, abs=8)


@pytest.mark.parametrize(
    "change",
    [
        lambda rgb: rgb[..., 1],
        lambda rgb: rgb[..., 1:2],
        lambda rgb: rgb[..., 1:3],
        lambda rgb: np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)]),
        lambda rgb: rgb.astype(np.uint16) * 257,
        lambda rgb: (rgb / 255).astype(np.float32),
        lambda rgb: rgb / 255,
        Image.fromarray,
        lambda rgb: Image.fromarray(rgb).convert("LA"),
    ],
    ids=[
        *("gray", "gray of one channel", "gray and alpha", "alpha", "16 bits", "floats", "float64"),
        *("Pillow's image", "Pillow's gray and alpha"),
    ],
)
def test_every_kind_of_picture_is_looked_at(change):
    (face,) = detect(change(astronaut()), closer=False)
    assert np.abs(face.points - ASTRONAUT).max() < 8


def test_files_are_looked_at_upright_and_lists_give_lists(tmp_path):
    """A file that EXIF turns by 90 degrees: points lie in the upright photo."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(astronaut()))).save(file, exif=exif)
    (face,), none, (same,) = detect([file, wall(64, 64), str(file)], closer=False)
    assert none == [] and np.abs(face.points - ASTRONAUT).max() < 8
    assert (face.points == same.points).all()


@pytest.mark.slow
def test_all_faces_of_a_degraded_group_are_found_with_upright_crops():
    """Five sizes and turns, the smallest with 3.5 pixels between the eyes; 36 pixels of 512 are one pixel of it."""
    places = [place._replace(name=ASTRONAUT_NAME) for place in PLACES]
    clean, true = group(None, places)
    found = detect(np.asarray(degraded(clean)))
    assert len(found) == len(places)
    assert np.mean(corner_errors(true, found, REDUCED)) <= 20


def test_overlapping_faces_are_two():
    """The second head covers a part of the first one's cheek."""
    one = astronaut()[:300, 80:380]
    picture = wall(300, 400)
    picture[:, :300] = one
    picture[:, 185:] = one[:, 85:]
    found = detect(picture, closer=False)
    assert len(found) == 2
    assert found[1].box[0] < found[0].box[0] + found[0].box[2] + 20
    for face, shift in zip(found, (0, 100)):
        assert np.abs(face.points - (ASTRONAUT - (80 - shift, 0))).max() < 12


def test_colours_come_in_our_order():
    seen = []

    class Seeing:
        def detect(self, image: np.ndarray) -> list[Face]:
            seen.append(image)
            return []

    red = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    assert detect(red, Seeing()) == []
    assert all((image == (255, 0, 0)).all() and image.dtype == np.uint8 for image in seen)


@pytest.mark.parametrize("sides", [(1, 1), (2, 900), (64, 64), (700, 1500)])
def test_a_photo_without_a_face_has_none(sides):
    assert detect(wall(*sides)) == []


def test_many_faces_come_from_left_to_right():
    found = detect(row_of_heads(60, 20), closer=False)
    assert 57 <= len(found) <= 60
    assert [face.centre for face in found] == sorted(face.centre for face in found)


def test_one_face_found_at_two_sizes_is_one():
    class Twice:
        """Finds the same face at each size, and a part of it as a face of its own."""

        def detect(self, image: np.ndarray) -> list[Face]:
            scale = image.shape[1] / 512
            points = ASTRONAUT * scale
            small = (200 * scale, 100 * scale, 20 * scale, 20 * scale)
            whole = (178 * scale, 62 * scale, 90 * scale, 114 * scale)
            return [Face(whole, points, 0.9), Face(small, points, 0.7)]

    assert len(detect(astronaut(), Twice(), closer=False)) == 1


def test_points_that_make_no_face_are_dropped():
    mirrored = ASTRONAUT * (-1, 1)

    class Nonsense:
        def detect(self, image: np.ndarray) -> list[Face]:
            return [
                Face((1.0, 1.0, 9.0, 9.0), np.ones((5, 2)), 0.9),
                Face((20, 20, 9, 9), mirrored, 0.9),
            ]

    assert detect(wall(64, 64), Nonsense(), closer=False) == []


def test_a_missing_or_a_wrong_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no face detector"):
        YuNet(tmp_path / "missing.onnx")
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read the face detector"):
        YuNet(wrong)


def test_what_is_no_picture_is_refused():
    for wrong, message in (
        (np.zeros((4, 4, 7), np.uint8), "the picture is uint8 of shape"),
        (np.zeros((0, 4, 3), np.uint8), "the photo is uint8 of shape"),
        (np.full((4, 4, 3), 9.0), "floats are in"),
        (np.full((4, 4, 3), np.nan), "NaN or infinity in 48 of 48 values; floats are in"),
        (7, "the picture is a int"),
        (None, "the picture is a NoneType"),
    ):
        with pytest.raises(UserError, match=message):
            detect(wrong)
    with pytest.raises(ImageFileError, match="no such file"):
        detect("missing.png")


def test_the_detector_comes_with_its_licence():
    folder = YuNet.__init__.__globals__["MODEL"].parent
    assert "Shiqi Yu" in (folder / "LICENSE").read_text("utf-8")


def test_a_face_that_is_not_found_again_stays_as_it_was():
    class Once:
        """Finds a face in whole photos only."""

        def detect(self, image: np.ndarray) -> list[Face]:
            if image.shape[0] == image.shape[1] and image.shape[0] < 300:
                return []
            scale = image.shape[1] / 512
            return [Face((178 * scale, 62 * scale, 90 * scale, 114 * scale), ASTRONAUT * scale, 0.7)]

    (found,) = detect(astronaut(), Once())
    assert found.score == 0.7 and np.abs(found.points - ASTRONAUT).max() < 1
