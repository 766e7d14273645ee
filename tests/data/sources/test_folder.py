from pathlib import Path

import pytest

from diffbir_jax.data.example import BrokenExampleError, DataError
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import check_copies, check_reads, place_on, png, put

NAMES = ["a.png", "b/c.JPG", "b/d.webp", "b-e.png"]


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place_on(request.param, tmp_path)


def fill(place: str) -> list[bytes]:
    images = [png(i) for i in range(len(NAMES))]
    for name, image in zip(NAMES, images):
        put(f"{place}/{name}", image)
    for name in ("notes.txt", ".hidden.png", ".cache/x.png"):
        put(f"{place}/{name}", b"-")
    return images


def test_a_folder_is_read_by_name(place: str) -> None:
    """Subfolders too; hidden files and other kinds are left out."""
    images = fill(place)
    source = make_source({"kind": "folder", "path": place})
    check_reads(source, images, [{}] * 4, lambda i: f"{place}/{NAMES[i]}")
    check_copies(source)


def test_a_folder_may_be_named_as_people_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = fill(str(tmp_path / "photos"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("photos", "photos/", "~/photos", f"file://{tmp_path}/photos"):
        source = make_source({"kind": "folder", "path": path})
        check_reads(source, images, [{}] * 4, lambda i: f"photos/{NAMES[i]}")


def test_the_fingerprint_tells_listings_apart_and_not_places(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        fill(str(tmp_path / folder))
    one, two = (make_source({"kind": "folder", "path": str(tmp_path / name)}) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    put(tmp_path / "two" / "z.png", png(9))
    assert make_source({"kind": "folder", "path": str(tmp_path / "two")}).fingerprint != one.fingerprint


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_a_file_that_vanishes_is_one_broken_example(tmp_path: Path, kind: str) -> None:
    fill(str(tmp_path))
    put(tmp_path / "list.txt", "\n".join(NAMES))
    source = make_source({"kind": kind, "path": str(tmp_path / ("list.txt" if kind == "list" else ""))})
    (tmp_path / "a.png").unlink()
    with pytest.raises(BrokenExampleError, match=r"a\.png: cannot be read \(No such file"):
        source[0]
    assert source[1].image == png(1)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder; check the path"):
        make_source({"kind": "folder", "path": str(tmp_path / "nowhere")})


def test_a_folder_without_images_is_refused(place: str) -> None:
    put(f"{place}/empty/notes.txt", b"-")
    with pytest.raises(DataError, match=r"empty: holds no image file; .*\.png"):
        make_source({"kind": "folder", "path": f"{place}/empty"})


@pytest.mark.parametrize("url", ["nonsense://photos", "nonsense::file://photos"])
def test_an_unknown_protocol_is_refused(url: str) -> None:
    with pytest.raises(DataError, match="nonsense.*check the path"):
        make_source({"kind": "folder", "path": url})


LIST = "# chosen by hand\n\nb/c.JPG\n  a.png  \nb/d.webp\n"


def test_a_list_is_read_in_its_order(place: str) -> None:
    images = fill(place)
    source = make_source({"kind": "list", "path": put(f"{place}/lists.txt", "\ufeff" + LIST)})
    check_reads(source, [images[1], images[0], images[2]], [{}] * 3, lambda i: f"{place}/")
    check_copies(source)


def test_paths_of_a_list_start_from_its_root(place: str, tmp_path: Path) -> None:
    """And full paths from nowhere."""
    images = fill(place)
    path = put(tmp_path / "lists" / "l.txt", f"{LIST}{place}/b-e.png\n")
    source = make_source({"kind": "list", "path": path, "root": place})
    check_reads(source, [images[i] for i in (1, 0, 2, 3)], [{}] * 4, lambda i: f"{place}/")


def test_a_list_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = fill(str(tmp_path))
    put(tmp_path / "l.txt", "a.png")
    monkeypatch.chdir(tmp_path)
    check_reads(make_source({"kind": "list", "path": "l.txt"}), images[:1], [{}], lambda i: "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "l.txt: lists no file; give a text file with one path per line"),
        (b"# nothing\n\n", "l.txt: lists no file"),
        (b"\xff\xfe\x00", "l.txt: cannot be read .*utf-8"),
        (b"x.png\ny.png", "l.txt: of 2 files listed none of 2 looked for is there, such as .*x.png; .*root"),
        (b"x.png\n" * 1000, "l.txt: of 1000 files listed none of 16 looked for"),
    ],
)
def test_a_list_of_no_use_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = put(tmp_path / "l.txt", content)
    with pytest.raises(DataError, match=message):
        make_source({"kind": "list", "path": path})


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); check the path"):
        make_source({"kind": "list", "path": str(tmp_path)})
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        make_source({"kind": "list", "path": str(tmp_path / "l.txt")})
