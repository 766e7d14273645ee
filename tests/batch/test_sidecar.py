"""Sidecars: what they hold, and the run that they repeat."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffbir_jax.batch import repeat, run
from diffbir_jax.files import digest
from diffbir_jax.models.attention import force, forced
from diffbir_jax.weights.safetensors import save_weights
from tests.batch.fake import Fake
from tests.command import call, complaint, save, written
from tests.micro import MICRO, random_params

MADE = (
    "--guidance-scale",
    "2",
    "--fidelity-mask",
    "masks",
    "--stage1",
    "clean",
    "--n-samples",
    "2",
    "--std-map",
)
MADE += ("--seed", "5", "--steps", "7", "--upscale", "2", "--format", "same", "--compare", "--bit-depth", "8")


@pytest.fixture
def made(fake: Fake) -> Path:
    """The sidecar of a result that many flags made."""
    for name in ("in/s/a.png", "masks/s/a.png", "clean/s/a.png"):
        save(Path(name), seed=len(name))
    assert call("--input", "in", "--output", "out", *MADE) == 0
    return Path("out/s/a.png.json")


def again(path: Path, *flags: object) -> int | str | None:
    return call("--from-sidecar", path, "--output", "again", *flags)


def test_attention_is_repeated(fake: Fake) -> None:
    """A sidecar of before, which does not say it, means auto."""
    save(Path("in/a.png"))
    assert call("in/a.png", "-o", "out", "--attention", "xla") == 0
    assert forced() == "xla"
    path = Path("out/a.json")
    record = json.loads(path.read_text())
    assert record["parameters"]["attention"] == "xla"
    del record["parameters"]["attention"]
    Path("old.json").write_text(json.dumps(record))
    for sidecar, expected in ((Path("old.json"), "auto"), (path, "xla")):
        assert again(sidecar, "--no-sidecar", "--output", sidecar.stem) == 0
        assert forced() == expected
    force("auto")


def test_what_a_sidecar_holds(made: Path) -> None:
    record = json.loads(made.read_text())
    assert record["input"] == {
        "path": "in/s/a.png",
        "sha256": digest.sha256(Path("in/s/a.png")),
        "bytes": Path("in/s/a.png").stat().st_size,
    }
    assert (record["mask"]["path"], record["clean"]["path"]) == ("masks/s/a.png", "clean/s/a.png")
    assert sorted(record["outputs"]) == [name for name in written("out/s") if not name.endswith("json")]
    assert record["parameters"]["options"]["seed"] == 5 and record["parameters"]["upscale"] == 2.0
    assert record["preset"] == "one-step" and record["device"]["backend"] == "cpu"
    assert set(record["weights"]) == {"vae", "unet", "control"}, "stage 1 was ready"
    assert {"read", "compute", "write"} == set(record["seconds"])
    assert record["date"].endswith("+00:00")
    assert str(Path.cwd()) not in made.read_text()


def test_a_sidecar_repeats_its_result(made: Path, fake: Fake, capsys) -> None:
    """The same request with the same options, and the same bytes; nothing to warn of."""
    first = fake.seen.pop()
    capsys.readouterr()
    assert again(made) == 0
    assert capsys.readouterr().err == ""
    assert written("again") == written("out/s")
    for name in written("again"):
        if not name.endswith("json"):
            assert Path("again", name).read_bytes() == Path("out/s", name).read_bytes()
    (request, *rest) = fake.seen.pop()
    assert rest == list(first[1:]) and request.index == first[0].index
    for now, then in zip(request, first[0], strict=True):
        np.testing.assert_array_equal(now, then)
    assert again(Path("again/a.png.json"), "--no-sidecar", "--output", "third") == 0
    assert written("third") == [name for name in written("again") if not name.endswith("json")]


def test_moved_files_are_found_again(made: Path) -> None:
    """A file or a folder each; an input of another name keeps its noise and the name of its result."""
    for folder in ("in", "masks", "clean"):
        shutil.move(f"{folder}/s", f"moved_{folder}")
    shutil.move("moved_in/a.png", "renamed.png")
    places = ("--input", "renamed.png", "--fidelity-mask", "moved_masks/a.png", "--stage1", "moved_clean")
    assert again(made, *places) == 0
    assert Path("again/a_1.png").read_bytes() == Path("out/s/a_1.png").read_bytes()


@pytest.mark.parametrize(
    "path, what, flag",
    [
        ("in/s/a.png", "input", "--input"),
        ("masks/s/a.png", "mask", "--fidelity-mask"),
        ("clean/s/a.png", "stage-1 image", "--stage1"),
    ],
)
def test_changed_files_are_refused(made: Path, capsys, path: str, what: str, flag: str) -> None:
    capsys.readouterr()
    save(Path(path), seed=99)
    assert again(made) == 1
    assert f"{path}: is not the {what} that the sidecar names (its SHA-256 differs)" in complaint(capsys)
    Path(path).unlink()
    assert again(made) == 1
    assert f"{path}: the {what} that the sidecar names is no file; give it by {flag}" in complaint(capsys)


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


def test_other_weights_are_refused(fake: Fake, inputs: Path, pretrained: Path, capsys) -> None:
    save(inputs / "a.png")
    weights = Path(shutil.copytree(pretrained / "micro", "weights"))
    run = ("--version", "micro", "--upscale", "1", "--weights")
    assert call("--input", "in", "--output", "out", *run, "weights") == 0
    assert again(Path("out/a.json")) == 0
    assert again(Path("out/a.json"), "--weights", pretrained / "micro") == 0
    params = random_params(MICRO, seed=1, modules=["unet"])["unet"]
    save_weights(weights / "unet.safetensors", params, {})
    capsys.readouterr()
    assert again(Path("out/a.json")) == 1
    assert "weights/unet.safetensors: the weights of unet are not those that the sidecar names" in complaint(
        capsys
    )
    assert again(Path("out/a.json"), "--weights", "nowhere") == 1
    assert "nowhere lacks" in complaint(capsys)


def test_other_versions_are_a_warning(made: Path, monkeypatch, capsys) -> None:
    there = repeat.versions()
    monkeypatch.setattr(repeat, "versions", lambda: there | {"jax": "99.0"})
    capsys.readouterr()
    assert again(made) == 0
    error = capsys.readouterr().err
    assert error.startswith("diffbir restore: warning: not all is as in the sidecar, results may differ")
    assert f": jax {there['jax']} then, 99.0 now\n" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "flag", ["--seed 5", "--upscale 4", "--compare", "--version tiny", "--format png", "--list a"]
)
def test_flags_that_the_sidecar_decides(made: Path, capsys, flag: str) -> None:
    """Even where they say the same."""
    capsys.readouterr()
    assert again(made, *flag.split()) == 2
    assert f"--from-sidecar decides {flag.split()[0]}; leave that out" in complaint(capsys)


def test_places_of_what_the_sidecar_lacks(fake: Fake, capsys) -> None:
    save(Path("in/a.png"))
    assert call("--input", "in", "--output", "out") == 0
    for flag, what in (("--stage1", "stage 1 is the version's own"), ("--fidelity-mask", "knows no mask")):
        assert again(Path("out/a.json"), flag, "in") == 2
        assert what in complaint(capsys)


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


@pytest.mark.parametrize("name", ["\udcff\udcfe.png", "\U0001f480\u00e9.png", "a\nb.png"])
def test_names_of_any_bytes_are_found_again(fake: Fake, name: str) -> None:
    """The skull's JSON ends as a byte that is no UTF-8 begins."""
    save(Path("a.png"))
    Path("in").mkdir()
    Path("a.png").rename(Path("in", name))
    assert call("--input", "in", "--output", "out") == 0
    assert again(Path("out", name).with_suffix(".json")) == 0
    assert Path("again", name).is_file()


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


def test_weights_are_read_once(fake: Fake, monkeypatch) -> None:
    """Not once per image; again when they change."""
    read = []
    original = digest.sha256
    monkeypatch.setattr(digest, "sha256", lambda path: read.append(path.suffix) or original(path))
    digest._sha256.cache_clear()
    for name in "abc":
        save(Path(f"in/{name}.png"))
    for output in ("out", "more"):
        assert call("--input", "in", "--output", output) == 0
    assert read.count(".safetensors") == 4
    Path("file").write_bytes(b"1")
    one = digest.known_sha256(Path("file"))
    Path("file").write_bytes(b"22")
    assert digest.known_sha256(Path("file")) != one


def test_loras_are_recorded_and_repeated(fake: Fake, inputs: Path, capsys) -> None:
    """By path, SHA-256 and scale; a moved file is found by its flag."""
    save(inputs / "a.png")
    for name in ("one", "two"):
        save_weights(Path(f"{name}.safetensors"), {"unet": {name: np.ones(2)}}, {"family": "lora"})
    flags = ("--lora", "one.safetensors", "--lora", "two.safetensors:0.5")
    assert call("in/a.png", "--output", "out", "--version", "micro", "--upscale", "1", *flags) == 0
    side = Path("out/a.json")
    record = json.loads(side.read_text())
    scales = [("one.safetensors", 1.0), ("two.safetensors", 0.5)]
    assert record["parameters"]["lora"] == [{"path": path, "scale": scale} for path, scale in scales]
    two = {"file": "two.safetensors", "sha256": digest.sha256(Path("two.safetensors"))}
    assert record["weights"]["lora_2"] == two
    assert again(side) == 0
    assert json.loads(Path("again/a.json").read_text())["parameters"] == record["parameters"]
    shutil.move("two.safetensors", "moved.safetensors")
    capsys.readouterr()
    assert again(side) == 1
    assert "two.safetensors" in complaint(capsys)
    assert again(side, "--lora", "one.safetensors", "--lora", "moved.safetensors") == 0
    moved = json.loads(Path("again/a.json").read_text())["parameters"]["lora"][1]
    assert moved == {"path": "moved.safetensors", "scale": 0.5}
    capsys.readouterr()
    assert again(side, "--lora", "one.safetensors") == 2
    assert "--lora is given 1 times, the sidecar names 2" in complaint(capsys)
    assert again(side, "--lora", "one.safetensors", "--lora", "moved.safetensors:2") == 2
    assert "has the scale 2, the sidecar 0.5" in complaint(capsys)
    assert again(side, "--lora", "moved.safetensors", "--lora", "one.safetensors") == 1
    assert "moved.safetensors: the weights of lora_1 are not those" in complaint(capsys)
