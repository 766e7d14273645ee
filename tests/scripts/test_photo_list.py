from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from scripts.photo_list import HELD_OUT, TRAIN, read_list, scaled, write_list
from scripts.select_photos import GAMES, HELD_OUT_LANDS, SKY, TINY

PHOTOS = read_list()


def test_the_list_has_the_photos_of_tiny_and_many_more() -> None:
    assert Counter(photo.split for photo in PHOTOS) == {TRAIN: 347, HELD_OUT: 40}
    assert {photo.package for photo in PHOTOS} == {*TINY, SKY, GAMES}
    old = {(photo.package, photo.path) for photo in PHOTOS if photo.package in TINY}
    assert old == {(package, path) for package, paths in TINY.items() for path in paths} and len(old) == 32
    names = {photo.file for photo in PHOTOS if photo.package in TINY}
    assert {"aqua.jpg", "patak.jpg", "picture_1a_by_freespace.jpg", "summer_1am.jpg"} <= names


def test_no_photo_is_listed_twice() -> None:
    for field in ("file", "sha256", "path"):
        assert len({getattr(photo, field) for photo in PHOTOS}) == len(PHOTOS)


def test_held_out_photos_are_free_and_all_authors_are_known() -> None:
    held_out = [photo for photo in PHOTOS if photo.split == HELD_OUT]
    assert {photo.file for photo in held_out} == {f"sky_{name}.jpg" for name in HELD_OUT_LANDS}
    assert {photo.licence for photo in held_out} == {"public-domain"}
    assert all(photo.copyright not in ("", "unknown") and photo.licence for photo in PHOTOS)


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_list(reversed(PHOTOS), tmp_path / "list.tsv")
    assert read_list(tmp_path / "list.tsv") == PHOTOS


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((1600, 1203), 1.0, (1536, 1155)),
        ((100, 3072), 1.0, (50, 1536)),
        ((100, 3072), 0.75, (50, 1536)),
        ((1280, 1024), 1.0, (1280, 1024)),
        ((1440, 720), 0.375, (540, 270)),
    ],
)
def test_photos_are_scaled_and_bounded(
    size: tuple[int, int], scale: float, expected: tuple[int, int]
) -> None:
    image = scaled(Image.new("RGBA", size), scale)
    assert (image.size, image.mode) == (expected, "RGB")
