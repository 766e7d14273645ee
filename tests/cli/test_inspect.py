"""diffbir inspect: a line for each photo, as a table or as JSON, and errors of single files."""

import json
from pathlib import Path

import pytest

from diffbir_jax.cli.main import start
from tests.command import save


def call(capsys: pytest.CaptureFixture, *words: object) -> tuple[int | str | None, str, str]:
    """Exit code, output and error stream of diffbir inspect."""
    with pytest.raises(SystemExit) as end:
        start("inspect", [str(word) for word in words])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("diffbir_jax.console.process.configure", lambda precision: None)
    return save(tmp_path / "photos" / "a.png", (64, 80))


def test_a_table_with_a_line_for_each_photo(photo: Path, capsys: pytest.CaptureFixture):
    code, out, _ = call(capsys, photo.parent, "--upscale", "1")
    head, line = out.splitlines()
    assert code == 0
    assert head.split() == [
        "photo",
        "pixels",
        "blur",
        "noise",
        "JPEG",
        "scale",
        "restore",
        "--auto",
        "--upscale",
        "1",
    ]
    assert line.split()[:2] == [str(photo), "80x64"]
    assert line.count("±") == 4


def test_json_has_the_same_numbers(photo: Path, capsys: pytest.CaptureFixture):
    _, out, _ = call(capsys, photo, "--json", "-")
    (entry,) = json.loads(out)
    assert {"photo", "width", "height", "blur", "noise", "quality", "scale", "errors", "auto"} == set(entry)
    assert (entry["width"], entry["height"], len(entry["errors"])) == (80, 64, 4)
    file = photo.with_name("found.json")
    assert f"{entry['noise']:.1f} ±" in call(capsys, photo, "--json", file)[1]
    assert json.loads(file.read_text()) == [entry]


def test_bad_files_are_told_and_the_others_read(photo: Path, capsys: pytest.CaptureFixture):
    small = save(photo.with_name("small.png"), (20, 20))
    bad = photo.with_name("bad.png")
    bad.write_text("no image")
    code, out, err = call(capsys, small, bad, photo, photo.with_name("absent.png"))
    assert code == 1
    assert str(photo) in out
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0] == f"diffbir inspect: {small}: the image is 20x20; the estimate needs at least 64x64"
    assert f"{bad}: is not a" in lines[1]
    assert "absent.png" in lines[2]


def test_a_folder_without_photos_is_told_and_the_others_read(photo: Path, capsys: pytest.CaptureFixture):
    empty = photo.with_name("empty")
    empty.mkdir()
    code, out, err = call(capsys, empty, photo, photo.parent, "--json", "-")
    assert code == 1 and err.count("\n") == 1
    assert f"diffbir inspect: {empty}: holds no image file" in err
    assert [entry["photo"] for entry in json.loads(out)] == [str(photo)], "once, though it is named twice"


@pytest.mark.parametrize("name", ["a.png", "report", "folder.json"])
def test_results_go_to_json_files_alone(photo: Path, capsys: pytest.CaptureFixture, name: str):
    photo.with_name("folder.json").mkdir()
    before = photo.read_bytes()
    code, out, err = call(capsys, photo, "--json", photo.with_name(name))
    assert (code, out, photo.read_bytes()) == (2, "", before)
    assert "allowed are names of files that end in .json" in err and err.count("\n") == 1


def test_results_never_replace_a_photo(photo: Path, capsys: pytest.CaptureFixture):
    odd = photo.rename(photo.with_name("odd.json"))
    link = photo.with_name("link.json")
    link.symlink_to(odd)
    before = odd.read_bytes()
    for target in (odd, link):
        code, _, err = call(capsys, photo.parent, "--json", target)
        assert code == 2 and "is one of the photos, which --json would replace" in err
        assert (odd.read_bytes(), link.is_symlink()) == (before, True)


def test_without_a_photo(capsys: pytest.CaptureFixture):
    code, _, err = call(capsys)
    assert code == 2
    assert "nothing to inspect: name a photo or a folder" in err
