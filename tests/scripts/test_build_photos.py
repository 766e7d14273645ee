from pathlib import Path

import pytest
from PIL import Image

from scripts import build_photos

COPYRIGHT = """\
Format: x

Files: *
Copyright: 2014 Somebody
License: GPL-2+

Files: nature/Aqua.jpg
       nature/Garden*.jpg
Copyright: 2008, A
           2009, B
License: CC0-1.0
 The text of the licence.

Files: debian/*
Copyright: 2020 Packager
License: Expat
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("usr/share/x/nature/Aqua.jpg", ("2008, A; 2009, B", "CC0-1.0")),
        ("usr/share/x/nature/Garden_2.jpg", ("2008, A; 2009, B", "CC0-1.0")),
        ("usr/share/x/Other.jpg", ("2014 Somebody", "GPL-2+")),
    ],
)
def test_authorship_is_that_of_the_last_matching_paragraph(path: str, expected: tuple[str, str]) -> None:
    assert build_photos.authorship(COPYRIGHT, path) == expected


def test_output_names_are_distinct_and_plain() -> None:
    paths = [path for paths in build_photos.PACKAGES.values() for path in paths]
    names = {build_photos.output_name(path) for path in paths}
    assert len(names) == len(paths) == 32
    assert {"aqua.jpg", "patak.jpg", "picture_1a_by_freespace.jpg", "summer_1am.jpg"} <= names


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1600, 1203), (1536, 1155)), ((100, 3072), (50, 1536)), ((1280, 1024), (1280, 1024))],
)
def test_longer_side_is_bounded(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = build_photos.scaled(Image.new("RGBA", size))
    assert (image.size, image.mode) == (expected, "RGB")


def test_missing_apt_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["build_photos.py", str(tmp_path / "photos")])
    assert build_photos.main() == 1
    assert "apt-get not found: run this on Debian" in capsys.readouterr().err
