"""Sidecars: what they hold, and the run that they repeat."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.batch import repeat
from diffbir_jax.files import digest
from diffbir_jax.models.attention import force, forced
from diffbir_jax.weights.safetensors import save_weights
from tests.batch.fake import Fake
from tests.batch.runs import again
from tests.command import call, complaint, save, written
from tests.micro import MICRO, random_params


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


@pytest.mark.parametrize("name", ["\udcff\udcfe.png", "\U0001f480\u00e9.png", "a\nb.png"])
def test_names_of_any_bytes_are_found_again(fake: Fake, name: str) -> None:
    """The skull's JSON ends as a byte that is no UTF-8 begins."""
    save(Path("a.png"))
    Path("in").mkdir()
    Path("a.png").rename(Path("in", name))
    assert call("--input", "in", "--output", "out") == 0
    assert again(Path("out", name).with_suffix(".json")) == 0
    assert Path("again", name).is_file()


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
