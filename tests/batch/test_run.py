"""Runs over folders with a restorer without networks: what is written, said and returned, whatever the files are."""

import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffbir_jax.batch import drive
from diffbir_jax.batch.photos import Loaded
from tests.batch.fake import Fake
from tests.batch.runs import index, restore
from tests.command import call, complaint, save, written
from tests.micro import picture


def test_a_folder_of_folders(fake: Fake) -> None:
    """Outcomes come in another order than requests; each goes to its own file."""
    names = ["a.png", "s/b.jpg", "s/t/c.webp", "z.png"]
    for seed, name in enumerate(names):
        save(Path("in") / name, (16, 24), seed)
    assert restore() == 0
    stems = [name.split(".")[0] for name in names]
    assert written() == sorted(f"{stem}{end}" for stem in stems for end in (".png", ".json"))
    for seed, stem in enumerate(stems):
        if stem in "az":  # Their inputs lose nothing.
            wanted = picture(16, 24, seed).repeat(2, axis=0).repeat(2, axis=1) // 2 + index(stem) % 7
            np.testing.assert_array_equal(np.asarray(Image.open(f"out/{stem}.png")), wanted)


def test_broken_files_fail_alone(fake: Fake, capsys) -> None:
    """They are named, one line each, again in the summary; what is no image is left alone."""
    save(Path("in/good.png"))
    Path("in/cut.png").write_bytes(Path("in/good.png").read_bytes()[:60])
    Path("in/dangling.jpg").symlink_to("/nowhere/photo.jpg")
    Path("in/empty.jpg").touch()
    Path("in/notes.webp").write_text("not an image")
    save(Path("in/small.png"), (15, 40))
    texts = [f"in/{number}.txt" for number in range(9)]
    for text in texts:
        Path(text).write_text("about these pictures")
    save(Path("in/sub/zebra.jpg"))
    # Of 900 bytes, though its header says 13000x13000: within --max-pixels, and more than memory holds beside others.
    head = struct.pack("<2sIHHI", b"BM", 900, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 13000, 13000, 1, 24, *[0] * 6
    )
    Path("in/huge.bmp").write_bytes(head.ljust(900, b"\0"))
    assert restore("--no-sidecar", "--report", "reports/all.json") == 1
    assert written() == ["good.png", "sub/zebra.png"]
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line.startswith("diffbir restore: ")]
    others, lines = lines[: len(texts)], lines[len(texts) :]
    assert others == [f"diffbir restore: {text}: is no image and is left out" for text in texts]
    broken = ("cut.png", "dangling.jpg", "empty.jpg", "huge.bmp", "notes.webp", "small.png")
    for line, name in zip(sorted(lines), broken, strict=True):
        assert f"in/{name}: " in line
        assert ("is a broken link, to /nowhere/photo.jpg; " in line) == (name == "dangling.jpg")
        assert f"\n  {line.removeprefix('diffbir restore: ')}\n" in streams.out
    assert "Traceback" not in streams.err
    assert "2 restored, 6 failed\n" in streams.out
    report = json.loads(Path("reports/all.json").read_text())
    assert sorted(entry["input"] for entry in report["failed"]) == [f"in/{name}" for name in broken]
    assert all(entry["reason"].startswith(entry["input"]) for entry in report["failed"])
    assert {entry["result"] for entry in report["restored"]} == {"out/good.png", "out/sub/zebra.png"}
    assert (report["skipped"], report["left"], report["interrupted"]) == ([], [], False)
    assert (report["no_images"], report["warnings"]) == (texts, [])


def test_a_result_that_vanished_is_not_counted(fake: Fake, capsys, monkeypatch) -> None:
    """Somebody removes the folder of a result while another one is written."""
    for name in ("a/a.png", "b.png", "c.png"):
        save(Path("in") / name)
    write = drive.write_results

    def then_remove(loaded: Loaded, *rest: Any) -> tuple[str, ...]:
        left_out, limit = write(loaded, *rest), time.monotonic() + 60
        while loaded.job.path.stem == "c" and not Path("out/a/a.png").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        if loaded.job.path.stem == "c":
            shutil.rmtree("out/a")
        return left_out

    monkeypatch.setattr(drive, "write_results", then_remove)
    assert restore("--no-sidecar") == 1
    streams = capsys.readouterr()
    assert "2 restored, 1 failed" in streams.out
    assert "in/a/a.png: its result was written and is gone; restore it again" in streams.err


def test_what_only_looks_done_is_restored(fake: Fake) -> None:
    """A folder with the name of a result."""
    save(Path("in/a.png"))
    Path("out/a.png").mkdir(parents=True)
    assert restore("--no-sidecar", "--skip-existing") == 1
    assert len(fake.seen) == 1


@pytest.mark.parametrize(
    "name", ["a\0b.png", "\udcff\udcfe.png", "a\nb.png", "e" * 251 + ".png", "e" * 300 + ".png"]
)
def test_names_that_no_file_has_or_that_are_long_fail_alone(fake: Fake, capsys, name: str) -> None:
    """Names that are no UTF-8 are names, too."""
    save(Path("good.png"))
    there = "\0" not in name and len(name) < 256
    if there:
        save(Path("c.png")).rename(name)
    Path("list.txt").write_bytes(b"good.png\n" + os.fsencode(name) + b"\n")
    code = call("--list", "list.txt", "--output", "out", "--save-stages")
    assert "Traceback" not in capsys.readouterr().err
    assert Path("out/good.png").is_file()
    # A line of a list is a name; the one with a newline in it is two names that are not there.
    fine = there and "\n" not in name and len(name) < 250
    assert code == (0 if fine else 1)
    # Nobody waits for an image that cannot be written.
    assert len(fake.seen) == 1 + fine
    assert call("--list", "list.txt", "--output", "out", "--save-stages", "--skip-existing") == code
    assert len(fake.seen) == 1 + fine and "out/good.png" not in capsys.readouterr().err


def test_notes_of_files_are_shown_and_reported(fake: Fake, capsys) -> None:
    """Of what is read, and of what is written."""
    save(Path("in/a.gif"), save_all=True, append_images=[Image.new("RGB", (16, 16))])
    save(Path("in/b.png"), pnginfo=with_xmp(70_000))
    assert restore("--format", "jpeg", "--report", "r.json") == 0
    told = json.loads(Path("r.json").read_text())["warnings"]
    texts = [
        "in/a.gif: is an animation; its first image is taken",
        "out/b.jpg: is written without XMP, which jpg cannot hold, or not as much of it",
    ]
    assert sorted(f"{entry['file']}: {entry['text']}" for entry in told) == texts
    errors = capsys.readouterr().err
    assert all(f"diffbir restore: warning: {text}\n" in errors for text in texts)


def with_xmp(length: int) -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x>" + " " * length + "</x>")
    return info


def test_a_missing_file_of_a_list_fails_alone(fake: Fake, capsys) -> None:
    save(Path("a.png"))
    Path("list.txt").write_text("none.png\na.png\n")
    assert call("--list", "list.txt", "--output", "out", "--no-sidecar") == 1
    assert complaint(capsys) == "diffbir restore: none.png: no such file; check the path\n"
    assert written() == ["a.png"]


def test_what_is_done_is_skipped(fake: Fake, capsys) -> None:
    """All files of an input have to be there."""
    for name in "abc":
        save(Path(f"in/{name}.png"))
    assert restore("--save-stages") == 0
    Path("out/a_stage1.png").unlink()
    Path("out/b.json").unlink()
    before = {name: Path(f"out/{name}.png").stat().st_mtime_ns for name in "abc"}
    fake.seen.clear()
    assert restore("--save-stages", "--skip-existing", "--report", "r.json") == 0
    assert {request.index for request, *_ in fake.seen} == {index("a"), index("b")}
    assert Path("out/c.png").stat().st_mtime_ns == before["c"]
    assert Path("out/a.png").stat().st_mtime_ns > before["a"]
    assert "2 restored, 0 failed, 1 skipped\n" in capsys.readouterr().out
    assert json.loads(Path("r.json").read_text())["skipped"] == ["in/c.png"]
    fake.seen.clear()
    assert restore("--save-stages", "--skip-existing") == 0
    assert "0 restored, 0 failed, 3 skipped\n" in capsys.readouterr().out
    assert not fake.seen


def test_names_that_are_no_text(fake: Fake, capfd) -> None:
    """Latin-1 of an old disk."""
    save(Path("in/a.png"))
    try:
        os.rename("in/a.png", b"in/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes text alone")
    assert restore("--report", "r.json") == 0
    assert sorted(os.listdir(b"out")) == [b"caf\xe9.json", b"caf\xe9.png"]
    assert json.loads(Path("r.json").read_text())["restored"][0]["input"] == "in/caf\udce9.png"
