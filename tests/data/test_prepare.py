import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from diffbir_jax.data import examining
from diffbir_jax.data import prepare as command
from diffbir_jax.data.examining import Verdict
from diffbir_jax.data.example import Example
from diffbir_jax.data.preparing import Settings, prepare
from diffbir_jax.data.sources import make_source
from tests.batch.test_interrupts import heed_interrupts
from tests.data.sources.samples import png, put

ROOT = Path(__file__).parents[2]


def call(*flags: object, inputs: object = "in", output: object = "out", workers: int = 0) -> int:
    given = ["--input", inputs, "--output", output, "--workers", workers, "--min-side", 16, *flags]
    return command.main([str(each) for each in given])


def files(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def kept(folder: str = "out") -> list[tuple[str, bytes]]:
    """Names, without where shards lie, and images."""
    source = make_source({"kind": "array_record", "path": folder})
    examples = [source[i] for i in range(len(source))]
    return [(example.name.rpartition(": ")[2], bytes(example.image)) for example in examples]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill() -> list[str]:
    """Eight files of which three are fit: names in order."""
    for name, side, seed in (("a", 32, 0), ("c", 31, 1), ("e", 32, 2), ("g", 40, 3)):
        put(f"in/{name}.png", png(seed, side))
    put("in/b.png", png(5, 32)[:-30])
    put("in/d.png", b"no image")
    Image.open("in/a.png").save("in/f.webp", lossless=True)
    put("in/h.png", b"")
    return [f"in/{name}" for name in "abcdefgh"]


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


def test_arrays_become_png(folder: Path) -> None:
    prepare(Pixels(), folder / "out", Settings(min_side=16), 0)
    [(name, data)] = kept()
    put("x.png", data)
    assert name == "x"
    np.testing.assert_array_equal(np.asarray(Image.open("x.png")), Pixels()[0].image)


def test_shards_do_not_depend_on_processes() -> None:
    fill()
    assert call("--shard-size", 3, output="one") == 0
    assert call("--shard-size", 3, output="two", workers=2) == 0
    assert files("one") == files("two") and len(files("one")) == 3 * 2 + 2


# Of so many images in shards, a run that is watched is held after HELD.
COUNT, SHARD, HELD = 100, 10, 35


def start() -> subprocess.Popen[str]:
    """A run over many lines that name few images, in processes of its own."""
    for i in range(20):
        put(f"photos/{i}.png", png(i, 192))
    put("l.txt", "\n".join(f"photos/{i * 7 % 20}.png" for i in range(COUNT)))
    run = [sys.executable, "-m", "tests.data.held_prepare", str(HELD), "--input", "l.txt", "--output", "out"]
    run += ["--workers", "1", "--shard-size", str(SHARD), "--min-side", "16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heed = {"preexec_fn": heed_interrupts, "start_new_session": True}
    return subprocess.Popen(run, env=environment, **heed, **streams)


def wait_for(process: subprocess.Popen[str], sign: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300
    while not sign():
        assert time.monotonic() < limit and process.poll() is None, "no sign of work"
        time.sleep(0.002)


def reports() -> dict[Path, int]:
    """Those of finished shards, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in Path("out").glob("train-*.json")}


def test_a_killed_run_goes_on() -> None:
    """The end is that of a run without a break, and finished shards are left alone."""
    process = start()
    wait_for(process, lambda: len(reports()) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, orphans = psutil.wait_procs(children, timeout=300)
    for orphan in orphans:
        orphan.kill()
    process.communicate()
    assert children and not orphans
    done = reports()
    assert 2 <= len(done) <= HELD // SHARD < COUNT // SHARD, "killed half-way"
    assert not json.loads(Path("out/manifest.json").read_text())["finished"]
    assert call("--shard-size", SHARD, inputs="l.txt") == 0
    assert done.items() <= reports().items()
    assert call("--shard-size", SHARD, inputs="l.txt", output="whole") == 0
    assert files("out") == files("whole")
    assert len(kept()) == 20


@pytest.mark.parametrize("early", [True, False])
def test_an_interrupt_says_how_to_go_on(early: bool) -> None:
    """Processes say nothing of their own, even if they are just coming up."""
    process = start()
    watched = psutil.Process(process.pid)
    # The first child is one of Python's own.
    wait_for(process, lambda: len(watched.children()) >= 2 if early else len(reports()) >= 2)
    # Python is up in the child by now, and imports.
    time.sleep(0.15 * early)
    # As terminals do, to all.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    said = "interrupted; the same command goes on with the shard that was not finished"
    assert err == f"diffbir data prepare: {said}\n" and out == ""
    for path in reports():
        assert path.with_suffix(".array_record").exists()


def test_a_missing_shard_is_written_again() -> None:
    """The first: what follows it must not count as seen before."""
    fill()
    assert call("--shard-size", 2) == 0
    whole = files()
    Path("out/train-00000-of-00004.array_record").unlink()
    assert call("--shard-size", 2) == 0
    assert files() == whole


def test_a_process_does_not_finish_a_huge_image_when_its_parent_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parent stops when the process is in the middle of it; before that it gets the verdict."""
    stop, free = threading.Event(), threading.Event()

    def examine(index: int) -> Verdict:
        if index:
            stop.set()
            free.wait(60)
        return Verdict(f"image {index}")

    monkeypatch.setattr(examining, "_of_source", examine, raising=False)
    monkeypatch.setattr(examining, "_stop", stop, raising=False)
    assert examining._examine(0) == Verdict("image 0")
    assert examining._examine(1) == Verdict("")
    free.set()


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("array_record", turn_a_bit, "has changed since it was written"),
        ("array_record", lambda path: os.truncate(path, 100), "has changed since it was written"),
        ("array_record", lambda path: path.write_bytes(b""), "has changed since it was written"),
        ("json", lambda path: os.truncate(path, 20), "is damaged, or of an older version"),
        ("json", lambda path: path.write_text("[]"), "is damaged, or of an older version"),
        ("json", lambda path: path.write_text('{"kept": {}}'), "is damaged, or of an older version"),
    ],
)
def test_a_damaged_shard_is_named_and_written_again(
    name: str, damage: Callable[[Path], object], fault: str, capsys: pytest.CaptureFixture
) -> None:
    fill()
    assert call("--shard-size", 2) == 0
    whole = files()
    damage(path := Path(f"out/train-00001-of-00004.{name}"))
    capsys.readouterr()
    assert call("--shard-size", 2) == 0
    assert f"{path}: {fault}; it is written again\n" in capsys.readouterr().err
    assert files() == whole


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 1}'])
def test_a_damaged_manifest_is_one_line(text: str, capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call() == 0
    Path("out/manifest.json").write_text(text)
    capsys.readouterr()
    assert call() == 1
    said = "out/manifest.json: is damaged; give another --output, or remove the folder"
    assert capsys.readouterr().err == f"diffbir data prepare: {said}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-side", 17), "out: begun with --min-side 16, now 17; give the same or another --output"),
        (("--shard-size", 3), "out: begun with --shard-size 1000, now 3;"),
        (("--name", "val"), "out: begun with --name train, now val;"),
    ],
)
def test_other_settings_are_refused(flags: tuple, message: str, capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call() == 0
    before = files()
    assert call(*flags) == 1
    assert message in capsys.readouterr().err
    assert files() == before


def test_other_inputs_are_refused(capsys: pytest.CaptureFixture) -> None:
    fill()
    assert call() == 0
    put("in/z.png", png(9))
    assert call() == 1
    assert "out: begun with other inputs than those of now; give the same or" in capsys.readouterr().err


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
