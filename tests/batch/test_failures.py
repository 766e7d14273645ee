"""Runs in which the memory, the pipeline, a reader or a writer fails: what is written, said and returned."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.batch import drive
from diffbir_jax.console.errors import UserError
from tests.batch.fake import Fake
from tests.batch.runs import index, restore
from tests.command import complaint, save, written

EXHAUSTED = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")


def test_a_report_that_cannot_be_written_is_told_first(fake: Fake, capsys) -> None:
    save(Path("in/a.png"))
    assert restore("--report", "r" * 251 + ".json") == 1
    assert complaint(capsys).endswith("is too long for the file system; give a shorter --report\n")
    assert not fake.seen and not Path("out").exists()


@pytest.mark.parametrize("place", ["file", "file/maps"])
def test_maps_that_have_no_place_are_told_first(fake: Fake, capsys, place: str) -> None:
    save(Path("in/a.png"))
    Path("file").touch()
    assert restore("--guidance-map", place, "--guidance-scale", "1") == 1
    told = complaint(capsys)
    assert f"{place}: cannot be made a folder (" in told and "file is a file); choose another" in told
    assert not fake.seen


@pytest.mark.parametrize("error", [MemoryError(), EXHAUSTED])
@pytest.mark.parametrize("raised", [False, True])
def test_too_little_memory_fails_one_file(fake: Fake, capsys, error: Exception, raised: bool) -> None:
    """Told as an outcome, or by the pipeline as a whole, which loses what it had in hand."""
    for name in "abcde":
        save(Path(f"in/{name}.png"))
    (fake.raises if raised else fake.errors)[index("b")] = error
    assert restore("--no-sidecar") == 1
    assert "in/b.png: memory does not suffice; give a lower --memory-gb, --upscale" in capsys.readouterr().err
    assert written() == ([] if raised else ["a.png"]) + ["c.png", "d.png", "e.png"]


def test_memory_may_fail_again(fake: Fake, capsys) -> None:
    """Each file is named once."""
    for name in "abc":
        save(Path(f"in/{name}.png"))
    fake.raises = {index("b"): MemoryError(), index("c"): MemoryError()}
    assert restore() == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["in/a.png", "in/b.png", "in/c.png"]


def test_what_the_pipeline_refuses(fake: Fake, capsys) -> None:
    for name in "ab":
        save(Path(f"in/{name}.png"))
    fake.errors[index("b")] = UserError("upscale is 0.01")
    assert restore() == 1
    assert complaint(capsys) == "diffbir restore: in/b.png: upscale is 0.01\n"
    assert written() == ["a.json", "a.png"]


def wrong_shape() -> Exception:
    """What JAX raises for shapes that do not fit: a ValueError that no user can mend."""
    with pytest.raises(ValueError) as caught:
        jnp.broadcast_to(jnp.ones(2), (3,))
    return caught.value


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("bug", [KeyError("a bug"), wrong_shape()], ids=["key", "shape"])
def test_bugs_show_their_traceback(fake: Fake, capsys, bug: Exception, raised: bool) -> None:
    """After what was computed is written and the rest named."""
    for name in "abcd":
        save(Path(f"in/{name}.png"))
    (fake.raises if raised else fake.errors)[index("c")] = bug
    with pytest.raises(type(bug)) as caught:
        restore("--no-sidecar", "--report", "r.json")
    assert caught.value is bug
    assert written() == ["a.png", "b.png", "d.png"]
    streams = capsys.readouterr()
    assert "stopped by an error, 1 of 4 images left" in streams.err
    assert "3 restored, 0 failed" in streams.out
    assert json.loads(Path("r.json").read_text())["left"] == ["in/c.png"]


def test_bugs_of_writers_show_their_traceback(fake: Fake, monkeypatch) -> None:
    def write(loaded, *_: object) -> None:
        if loaded.job.path.stem == "b":
            raise KeyError("a bug")

    monkeypatch.setattr(drive, "write_results", write)
    for name in "abc":
        save(Path(f"in/{name}.png"))
    with pytest.raises(KeyError, match="a bug"):
        restore()


def test_bugs_of_readers_show_their_traceback(fake: Fake, monkeypatch) -> None:
    def load(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(drive, "load", load)
    save(Path("in/a.png"))
    with pytest.raises(KeyError, match="a bug"):
        restore()


def test_no_file_is_forgotten(fake: Fake, monkeypatch) -> None:
    """A pipeline that stops early is a bug, not a success."""
    monkeypatch.setattr(fake, "restore_many", lambda *_, **__: iter(()))
    save(Path("in/a.png"))
    with pytest.raises(RuntimeError, match=r"no outcome of in/a\.png"):
        restore()


def test_a_write_that_fails_leaves_no_main_result(fake: Fake, capsys, monkeypatch) -> None:
    """The result tells that all else is there."""
    save(Path("in/a.png"))
    save(Path("in/b.png"))
    Path("out/a.json").mkdir(parents=True)
    assert restore("--compare") == 1
    assert "out/a.json: cannot be written (Is a directory)" in complaint(capsys)
    assert written() == ["a_compare.png", "b.json", "b.png", "b_compare.png"]


def test_an_output_that_cannot_be_a_folder(fake: Fake, capsys) -> None:
    save(Path("in/a.png"))
    Path("out").touch()
    assert restore() == 1
    assert "out: cannot be made a folder (out is a file); choose another --output" in complaint(capsys)
    assert restore("--output", "fine", "--report", "out/r.json") == 1
    assert "out: cannot be made a folder (out is a file)" in complaint(capsys)
