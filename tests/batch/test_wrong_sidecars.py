"""Sidecars that are malformed, of other versions, or no sidecars at all."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffbir_jax.batch import run
from tests.batch.fake import Fake
from tests.batch.runs import again
from tests.command import call, complaint, save


def test_a_path_of_any_length_makes_a_short_message(made: Path, capsys) -> None:
    record = json.loads(made.read_text())
    record["input"]["path"] = "x" * 100_000
    made.write_text(json.dumps(record))
    capsys.readouterr()
    assert again(made) == 1
    told = complaint(capsys)
    assert "the input that the sidecar names is no file" in told and len(told) < 1500


def test_a_pipe_is_no_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Reading it would wait for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("side.json")
    assert call("--from-sidecar", "side.json", "--output", "out") in (1, 2)
    assert "side.json: is no sidecar" in complaint(capsys)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"format": 2},
            "is no sidecar of format 1 (format: Input should be 1); give the .json file beside",
        ),
        ({"format": None}, "is no sidecar of format 1 (format: Input should be 1)"),
        ({"parameters": {}}, "a.json: lacks parameters version, task"),
        ({"parameters": {"speed": 1}}, "a.json: has unknown parameters speed; it is of another version"),
        ({"parameters": {"options": {"speed": 1}}}, "has unknown parameters speed; it is of another version"),
        ({"parameters": {"options": {"steps": 0}}}, "a.json: options: steps is 0; allowed"),
        (
            {"parameters": {"options": {"steps": "2"}}},
            "a.json: options.steps: Input should be a valid integer",
        ),
        ({"parameters": {"upscale": 1e9}}, "a.json: --upscale is 1e+09; allowed are numbers above 0 to 1000"),
        ({"name": "../victim/a.png"}, "(name is '../victim/a.png'; allowed are file names without folders"),
        ({"name": "/tmp/a.png"}, "(name is '/tmp/a.png'; allowed are file names without folders"),
        ({"name": "C:a.png"}, "(name is 'C:a.png'; allowed are file names without folders"),
        ({"name": ".."}, "(name is '..'; allowed are file names without folders"),
        (
            {"outputs": ["../a.png"]},
            "(outputs has '../a.png'; allowed are names of files below the sidecar's",
        ),
        ({"outputs": ["/tmp/a.png"]}, "(outputs has '/tmp/a.png'; allowed are names of files below"),
        ({"outputs": "a.png"}, "is no sidecar of format 1 (outputs: Input should be a valid"),
        ({"faces": 5}, "is no sidecar of format 1 (faces: Input should be a valid"),
        ({"plan": {"rm": [1, 2, 3]}}, "is no sidecar of format 1 (plan.encode: Field required)"),
    ],
)
def test_sidecars_of_other_versions(fake: Fake, capsys, change: dict, message: str) -> None:
    save(Path("in/a.png"))
    assert call("--input", "in", "--output", "out") == 0
    record = json.loads(Path("out/a.json").read_text())
    if change.get("parameters"):
        change = {"parameters": record["parameters"] | change["parameters"]}
    Path("out/a.json").write_text(json.dumps(record | change))
    assert again(Path("out/a.json")) == 1
    assert message in complaint(capsys)


@pytest.mark.parametrize("plan", ["plan", "crops"])
@pytest.mark.parametrize("stage", ["encode", "decode", "sample"])
def test_a_plan_that_no_network_takes_is_refused_before_one_is_loaded(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys, plan: str, stage: str
) -> None:
    save(Path("in/a.png"))
    assert call("--input", "in", "--output", "out") == 0
    record = json.loads(Path("out/a.json").read_text())
    record[plan] = DRAWN | {stage: [1, 0, 4]}
    Path("out/a.json").write_text(json.dumps(record))
    monkeypatch.setattr(run, "networks", lambda *given, **named: pytest.fail("loads the networks"))
    assert again(Path("out/a.json")) == 1
    assert f"a.json: the plan has tiles of 1 that overlap by 0 for {stage}; preset" in complaint(capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"rm": [10**9, 64, 1]},
        {"sample": [512, 504, 1]},
        {"decode": [512, 64, 10**9]},
        {"encode": [512, 64, 17]},
    ],
)
def test_a_plan_that_no_planner_makes_is_refused(fake: Fake, capsys, change: dict) -> None:
    save(Path("in/a.png"))
    assert call("--input", "in", "--output", "out") == 0
    record = json.loads(Path("out/a.json").read_text())
    Path("out/a.json").write_text(json.dumps(record | {"plan": DRAWN | change}))
    assert again(Path("out/a.json")) == 1
    assert "; allowed are tiles up to 512, half of a tile, and 16 tiles for each of 1 devices" in complaint(
        capsys
    )


def test_files_that_are_no_sidecars(fake: Fake, capsys) -> None:
    save(Path("a.png"))
    assert call("--input", "a.png", "--output", "out") == 0
    Path("a.json").write_bytes(b"\xef\xbb\xbf" + Path("out/a.json").read_bytes())  # as Notepad saves it
    assert again(Path("a.json")) == 0
    capsys.readouterr()
    assert again(Path("none.json")) == 1
    assert "none.json: cannot be read (No such file or directory); give the .json" in complaint(capsys)
    Path("a.json").write_bytes(b"\x89PNG")
    assert again(Path("a.json")) == 1
    assert "a.json: is no sidecar of format 1 (" in complaint(capsys)
    Path("a.json").write_text("[1]")
    assert again(Path("a.json")) == 1
    assert "a.json: is no sidecar of format 1 (Input should be an object)" in complaint(capsys)
    Path("a.json").write_text("[" * 100_000)
    assert again(Path("a.json")) == 1
    assert "a.json: is no sidecar of format 1 (" in complaint(capsys)


DRAWN = {name: [512, 64, 1] for name in ("rm", "encode", "sample", "decode")}


WRONG = (None, True, -1, 10**30, 1e308, "", "x" * 5000, "../x", "/x", "\0", [], [1, 2, 3], {}, {"a": 1})


def leaves(record: object, place: tuple = ()) -> Iterator[tuple]:
    """The places of all values in a record."""
    yield place
    if isinstance(record, dict | list):
        for key, value in record.items() if isinstance(record, dict) else enumerate(record):
            yield from leaves(value, (*place, key))


def replaced(record: Any, place: tuple, value: object) -> Any:
    """A copy of a record with another value in a place; without it for `...`."""
    if not place:
        return value
    key, *rest = place
    inner = replaced(record[key], tuple(rest), value)
    if isinstance(record, list):
        return [*record[:key], *([] if inner is ... else [inner]), *record[key + 1 :]]
    left = {name: each for name, each in record.items() if name != key}
    return left if inner is ... else left | {key: inner}


def test_malformed_sidecars_are_one_line_and_write_nothing_elsewhere(made: Path, fake: Fake, capsys) -> None:
    """150 of all changes; `make fuzz` tries more."""
    record = json.loads(made.read_text())
    places = [place for place in leaves(record) if place]
    rng = np.random.default_rng(int(os.environ.get("DIFFBIR_FUZZ", "0")))
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    for _ in range(150 if "DIFFBIR_FUZZ" not in os.environ else 3000):
        place, value = places[rng.integers(len(places))], (*WRONG, ...)[rng.integers(len(WRONG) + 1)]
        changed = replaced(record, place, value)
        Path("../side.json").write_text(json.dumps(changed))
        before = sorted(Path("..").rglob("*"))
        capsys.readouterr()
        code = call(
            "--from-sidecar",
            "../side.json",
            "--input",
            "../in/s/a.png",
            "--output",
            "again",
            "--fidelity-mask",
            "../masks",
            "--stage1",
            "../clean",
        )
        errors = capsys.readouterr().err.splitlines()
        assert code in (0, 1, 2) and not any("Traceback" in line for line in errors), (place, value)
        assert code == 0 or len(errors) == 1 or errors[0].startswith("diffbir restore: warning"), (
            place,
            value,
            errors,
        )
        if Path("again").exists():
            shutil.rmtree("again")
        assert sorted(Path("..").rglob("*")) == before, (place, value)
