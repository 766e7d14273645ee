"""diffbir data prepare: what is kept, what is rejected and what is said."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data import prepare as command
from diffbir_jax.data.example import Example
from diffbir_jax.data.preparing import Settings, prepare
from diffbir_jax.data.sources import make_source
from tests.data.prepared import call, files, fill, kept
from tests.data.sources.samples import png, put

pytestmark = pytest.mark.usefixtures("here")


def test_what_is_fit_is_kept_as_it_is(capsys: pytest.CaptureFixture) -> None:
    """Duplicates by their pixels, whatever the format; the others with what is wrong with them."""
    names = fill()
    Path("in/h.png").unlink()
    Path("in/h.png").symlink_to("gone.png")
    put("l.txt", "\n".join(f"{name}.{'webp' if name == 'in/f' else 'png'}" for name in names))
    assert call("--min-side", 32, "--shard-size", 3, inputs="l.txt") == 0
    assert kept() == [(f"in/{name}.png", Path(f"in/{name}.png").read_bytes()) for name in "aeg"]
    with open("out/rejected.csv", newline="") as file:
        rows = [(int(row["index"]), row["name"], row["fault"], row["detail"]) for row in csv.DictReader(file)]
    assert [row[:3] for row in rows] == [
        (1, "in/b.png", "undecodable"),
        (2, "in/c.png", "small"),
        (3, "in/d.png", "undecodable"),
        (5, "in/f.webp", "duplicate"),
        (7, "", "unreadable"),
    ]
    details = (
        "is cut off",
        "is 31x31 pixels",
        "is not a PNG",
        "has the pixels of image 0",
        "in/h.png: cannot be read",
    )
    for row, detail in zip(rows, details):
        assert detail in row[3]
    out, err = capsys.readouterr()
    faults = "1 duplicate, 1 small, 2 undecodable, 1 unreadable"
    assert out == f"kept 3 of 8 images in 3 shards, no captions; rejected {faults} (out/rejected.csv)\n"
    assert err == ""


def test_the_manifest_says_what_was_done() -> None:
    fill()
    assert call("--min-side", 32, "--shard-size", 6, "--name", "val") == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["finished"] and manifest["images"] == 8 and manifest["kept"] == 3
    assert manifest["rejected"] == {"duplicate": 1, "small": 1, "undecodable": 3}
    assert manifest["settings"] == {"name": "val", "min_side": 32, "shard_size": 6}
    assert (
        manifest["fingerprint"]
        == make_source({"kind": "concat", "sources": [command.config_of("in")]}).fingerprint
    )
    assert manifest["shards"] == {"val-00000-of-00002.array_record": 2, "val-00001-of-00002.array_record": 1}


def test_captions_go_along() -> None:
    """Several inputs, one of them described in full."""
    for i in range(3):
        put(f"photos/{i}.png", png(i))
    put("t.csv", "image_path,short,long\n0.png,a cat,\n1.png,a dog,a wet dog\n")
    table = json.dumps({"kind": "table", "path": "t.csv", "root": "photos"})
    assert (
        command.main(["--input", table, "photos", "--output", "out", "--workers", "0", "--min-side", "16"])
        == 0
    )
    source = make_source({"kind": "array_record", "path": "out"})
    captions = [dict(source[i].captions) for i in range(len(source))]
    assert captions == [{"short": "a cat"}, {"short": "a dog", "long": "a wet dog"}, {}]


class Pixels:
    """A source whose image is an array."""

    fingerprint = "0"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Example:
        return Example("x", np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3))


def test_arrays_become_png(here: Path) -> None:
    prepare(Pixels(), here / "out", Settings(min_side=16), 0)
    [(name, data)] = kept()
    put("x.png", data)
    assert name == "x"
    np.testing.assert_array_equal(np.asarray(Image.open("x.png")), Pixels()[0].image)


def test_shards_do_not_depend_on_processes() -> None:
    fill()
    assert call("--shard-size", 3, output="one") == 0
    assert call("--shard-size", 3, output="two", workers=2) == 0
    assert files("one") == files("two") and len(files("one")) == 3 * 2 + 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"inputs": "nowhere"}, "nowhere: no such folder; check the path"),
        ({"inputs": "nowhere.csv"}, "nowhere.csv: no such file or folder; check the path"),
        ({"inputs": "{'kind': 1}"}, "--input {'kind': 1}: is no JSON"),
        ({"inputs": '{"kind": "zip"}'}, "kind of source 'zip' is unknown"),
        ({"output": "in/a.png"}, "in/a.png/manifest.json: cannot be written"),
        ({"output": "old"}, "old: holds shards but no manifest.json; give another --output"),
    ],
)
def test_bad_input_is_one_line(flags: dict, message: str, capsys: pytest.CaptureFixture) -> None:
    fill()
    put("old/x.array_record", b"-")
    assert call(**flags) == 1
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--min-side", 15, "--min-side 15: give at least 16"),
        ("--shard-size", 0, "--shard-size 0: give at least 1"),
        ("--name", "../x", "--name ../x: give letters, digits, - and _ only"),
    ],
)
def test_settings_without_sense_are_one_line(
    flag: str, value: object, message: str, capsys: pytest.CaptureFixture
) -> None:
    fill()
    assert call(flag, value) == 1
    assert capsys.readouterr().err == f"diffbir data prepare: {message}\n"


def test_images_of_any_name_are_kept(capsys: pytest.CaptureFixture) -> None:
    """Names that are no UTF-8, of 255 bytes, with a line end or composed in another way."""
    names = [os.fsdecode(b"\xff\xfe"), "x" * 251, "a\nb", "cafe\u0301", "--flag"]
    for seed, name in enumerate(names):
        Path("in").mkdir(exist_ok=True)
        Path("in", f"{name}.png").write_bytes(png(seed, 32))
    put("in/broken\nname.png", b"none")
    assert call("--min-side", 32) == 0
    assert sorted(name for name, _ in kept()) == sorted(f"in/{name}.png" for name in names)
    with open("out/rejected.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["in/broken\nname.png"]
    assert "rejected 1 undecodable" in capsys.readouterr().out


def test_a_name_too_long_is_told_before_anything_is_read(capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call("--name", "x" * 225) == 1
    assert capsys.readouterr().err.endswith(
        "too long for the file system; give a shorter --name or --output\n"
    )
    assert not Path("out").exists()


def test_captions_are_counted(capsys: pytest.CaptureFixture) -> None:
    """Those of kept images, also of shards that an earlier run wrote."""
    fill()
    for name in "abce":
        put(f"in/{name}.txt", b"a house" if name != "e" else b" ")
    put("in/g.txt", b"caf\xe9")
    assert call("--min-side", 32, "--shard-size", 3) == 0
    said = capsys.readouterr().out
    assert said.startswith("kept 3 of 8 images in 3 shards, 1 with captions; rejected ")
    assert "; 1 captions were left out: in/g.txt: is no UTF-8 text" in said
    assert [name for name, _ in kept()] == ["in/a.png", "in/e.png", "in/g.png"]
    assert call("--min-side", 32, "--shard-size", 3) == 0
    assert capsys.readouterr().out == said
    manifest = json.loads(Path("out/manifest.json").read_text())
    (told,) = manifest["unread_captions"]
    assert manifest["captioned"] == 1 and told.startswith("in/g.txt: is no UTF-8 text")


def test_nothing_fit_is_a_failure(capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call("--min-side", 100) == 1
    out, err = capsys.readouterr()
    assert "kept 0 of 8 images in 1 shard, no captions; rejected 5 small, 3 undecodable" in out
    assert err == "diffbir data prepare: out: holds no image, since none was fit; see rejected.csv there\n"


def test_help_explains_itself(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--input", "--output", "--min-side", "--shard-size", "--name", "--workers", "Exit code"):
        assert flag in text
