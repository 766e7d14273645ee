from pathlib import Path

import pytest

from scripts.packages import BuildError, Package, authorship, fetch
from tests.scripts.rcc_file import rcc_file

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

Files: land/*
Copyright: Various
License: public-domain
 Taken from photos.com, a collection.

Files: land/hills1*
Copyright: C
License: CC-BY-4.0

Files: land/*-dora*
Copyright: Dora
License: CC-BY-SA-4.0

Files: planet/*
Copyright: E
License: CC-BY-SA-3.0

Files: debian/*
Copyright: 2020 Packager
License: Expat
"""
# As GCompris writes them: lines are not indented, and "Files:" is forgotten once.
README = """\
Copyright: F, 2020
License: CC-BY 4.0
Files:
cat.webp
dog.webp

Copyright: G and others
License: CC-BY-SA 4.0
castle_0.webp
castle_1.webp
Comment: based on a photo by H, license CC-BY-SA 3.0, source at https://example.org/File:x
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("usr/share/x/nature/Aqua.jpg", ("2008, A; 2009, B", "CC0-1.0")),
        ("usr/share/x/nature/Garden_2.jpg", ("2008, A; 2009, B", "CC0-1.0")),
        ("usr/share/x/Other.jpg", ("2014 Somebody", "GPL-2+")),
        ("usr/share/x/land/beach@2x.jpg", ("Various, from photos.com", "public-domain")),
        ("usr/share/x/land/hills1@2x.jpg", ("C", "CC-BY-4.0")),
        ("usr/share/x/land/hills12@2x.jpg", ("Various, from photos.com", "public-domain")),
        ("usr/share/x/land/hills1-dora@2x.jpg", ("Dora", "CC-BY-SA-4.0")),
    ],
)
def test_authorship_is_that_of_the_last_matching_paragraph(path: str, expected: tuple[str, str]) -> None:
    assert authorship(COPYRIGHT, path) == expected


@pytest.mark.parametrize(
    ("path", "holders", "licence"),
    [
        ("a/dog.webp", "F, 2020", "CC-BY 4.0"),
        (
            "a/castle_1.webp",
            "G and others, based on a photo by H, license CC-BY-SA 3.0, source at https://example.org/File:x",
            "CC-BY-SA 4.0",
        ),
        ("a/unnamed.webp", "unknown", "unknown"),
    ],
)
def test_authorship_is_found_in_the_notes_of_gcompris(path: str, holders: str, licence: str) -> None:
    assert authorship(README, path) == (holders, licence)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    (tmp_path / "usr/share/doc/pack").mkdir(parents=True)
    (tmp_path / "usr/share/doc/pack/copyright").write_text(COPYRIGHT)
    files = {"app/pictures/README": README.encode(), "app/pictures/cats/cat.webp": b"cat", "b/b.webp": b"b"}
    (tmp_path / "pack.rcc").write_bytes(rcc_file(files))
    (tmp_path / "a.jpg").write_bytes(b"a")
    return Package("pack", tmp_path)


def test_pictures_are_read_as_files_and_from_archives(package: Package) -> None:
    assert package.read("a.jpg") == b"a"
    assert package.read("pack.rcc:app/pictures/cats/cat.webp") == b"cat"
    missing = ("b.jpg", "other.rcc:app/pictures/cats/cat.webp", "pack.rcc:app/pictures/cats/dog.webp")
    assert [package.read(path) for path in missing] == [None, None, None]


def test_the_closest_notice_counts(package: Package) -> None:
    assert package.notice("pack.rcc:app/pictures/cats/cat.webp") == README
    assert package.notice("pack.rcc:b/b.webp") == package.notice("a.jpg") == COPYRIGHT


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'E: no such\npackage' >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BuildError) as error:
        fetch("pack", tmp_path)
    assert str(error.value) == "cannot download pack: run 'apt-get update' first (E: no such package)"
