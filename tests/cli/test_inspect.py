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
    assert head.split() == ["photo", "pixels", "blur", "noise", "JPEG", "scale", "restore", "--auto"]
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


def test_without_a_photo(capsys: pytest.CaptureFixture):
    code, _, err = call(capsys)
    assert code == 2
    assert "nothing to inspect: name a photo or a folder" in err
