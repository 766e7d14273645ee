"""`diffbir_jax.restore(..., task="faces")`: backgrounds of all kinds, and wrong arguments in one line."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces import call, whole
from diffbir_jax.files.errors import ImageFileError
from tests.batch.fake import Fake
from tests.faces.known import known_faces, small_crops
from tests.faces.pictures import wall

FLAGS = {"task": "faces", "steps": 1, "start": 0.5, "set_up": False, "version": "tiny"}
# With one face.
PHOTO = wall(96, 96)


class Unplanned:
    """In place of plans by memory."""

    plan = None


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restorer without networks, crops of 64 pixels, and faces that are known."""
    small_crops(monkeypatch)
    known_faces(monkeypatch)
    monkeypatch.setattr(call, "_networks", lambda *_: (Fake(), Fake()))
    for name in ("crops_plan", "photos_plan"):
        monkeypatch.setattr(whole, name, lambda *_: Unplanned())


def restored(pictures: Any, **more: Any) -> Any:
    return call.restore(pictures, **FLAGS | {"upscale": 2, "background": "resize"} | more)


def changed(result: object, ground: np.ndarray) -> float:
    """The share of pixels that differ from the background, which is enlarged by 2 if need be."""
    size = np.asarray(result).shape[1::-1]
    large = np.asarray(Image.fromarray(ground).resize(size, Image.Resampling.BICUBIC))
    return float((np.asarray(result) != large).any(axis=2).mean())


def test_a_folder_holds_the_backgrounds_of_paths(tmp_path: Path) -> None:
    """At any scale and depth, with other suffixes; subfolders do not count."""
    file = tmp_path / "a.png"
    Image.fromarray(PHOTO).save(file)
    backs = tmp_path / "backs"
    (backs / "sub").mkdir(parents=True)
    Image.fromarray(PHOTO[::-1]).save(backs / "a.tif")
    Image.fromarray(PHOTO).save(backs / "sub" / "a.png")
    result = restored(file, background=backs)
    assert isinstance(result, Image.Image) and result.size == (192, 192)
    assert 0.01 < changed(result, PHOTO[::-1]) < 0.5
    Image.fromarray(PHOTO).save(backs / "a.png")
    with pytest.raises(UserError, match="holds no background, or several, named a; give one"):
        restored(file, background=str(backs))


@pytest.mark.parametrize(
    "ground",
    [
        PHOTO[::-1],
        Image.fromarray(PHOTO[::-1].copy()),
        PHOTO[::-1] / 255,
        PHOTO[::-1].astype(np.uint16) * 257,
    ],
    ids=["bytes", "Pillow's image", "float64", "16 bits"],
)
def test_one_photo_takes_one_picture_as_background(ground: object) -> None:
    for given in (ground, [ground]):
        assert 0.01 < changed(restored(PHOTO, background=given), PHOTO[::-1]) < 0.5


def test_a_photo_without_a_face_warns() -> None:
    with pytest.warns(UserWarning, match="picture 2: no face, restored as background"):
        one, none = restored([PHOTO, wall(60, 80)])
    assert changed(one, PHOTO) > 0.01 and changed(none, wall(60, 80)) == 0


def test_small_faces_are_left_by_size() -> None:
    assert changed(restored(PHOTO, face_size=(60, None)), PHOTO) == 0
    assert changed(restored(PHOTO, face_size=[0, 60]), PHOTO) > 0.01


@pytest.mark.parametrize(
    "given, message",
    [
        ({"face_size": 20}, r"`face_size` is 20; give the least and the most in pixels, such as \(20, 400\)"),
        ({"face_size": None}, "`face_size` is None"),
        ({"face_size": ("20", None)}, "least is '20'; allowed are numbers of pixels from 0"),
        ({"face_size": (None, 400)}, "least is None"),
        ({"face_size": (0, "x")}, "most is 'x'; allowed are numbers of pixels from 0, and None"),
        ({"face_size": (9, 3)}, "faces from 9 to 3 pixels"),
        ({"face_strength": "1"}, "strength is '1'; allowed are numbers from 0 to 1"),
        ({"face_strength": 2}, "the strength of faces is 2"),
        ({"only_largest": "no"}, "only_largest is 'no'; allowed are True and False"),
        ({"mask": "round"}, "mask is 'round'; allowed are ellipse, square"),
        ({"mask": None}, "mask is None"),
        ({"texture": "1"}, "texture is '1'; allowed are shares from 0 to 1"),
        ({"texture": None}, "texture is None"),
        ({"background": "none"}, "`background` is 'none', which leaves no picture to give back"),
        ({"background": "rezise"}, "`background` is 'rezise', and no folder; use sr, resize, none, a folder"),
        ({"background": "."}, "photo 1 has no name; give paths of photos"),
        ({"background": [PHOTO] * 2}, "2 backgrounds for 1 photos"),
        ({"background": 7}, "the picture is a int"),
        ({"background": wall(50, 20)}, "other proportions"),
        ({"background": ["missing.png"]}, "missing.png: no such file"),
        (
            {"caption": "a man"},
            '`caption` has words for a whole photo, and task="faces" restores crops; leave it out',
        ),
        ({"caption": ["a man"]}, "`caption` has words"),
        ({"face_sise": 3}, "there is no option 'face_sise'; did you mean 'face_size'"),
    ],
)
def test_wrong_arguments_are_one_line(given: dict, message: str) -> None:
    with warnings.catch_warnings(), pytest.raises((UserError, ImageFileError), match=message) as raised:
        warnings.simplefilter("error")
        restored(PHOTO, **given)
    assert "\n" not in str(raised.value)
