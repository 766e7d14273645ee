"""The command line; what it does is tested in tests/conversion."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffbir_jax.cli import convert_weights
from diffbir_jax.conversion import from_torch
from diffbir_jax.conversion.families import FAMILIES
from diffbir_jax.weights.registry import REGISTRY
from tests.conversion import made, small

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run the command line with an output folder; exit code, stdout and stderr without the progress bar."""
    small.publish(monkeypatch)

    def run(*argv):
        code = convert_weights.main([*map(str, argv), "--output", str(tmp_path / "out")])
        out, err = capsys.readouterr()
        return code, out, err.split("\r")[-1]

    return run


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "face_swinir_v1.safetensors"
    save_file(small.swinir(), path)
    return path


def test_a_table_and_a_report(tmp_path, run, source):
    code, out, _ = run("--input", source, "--name", "swinir_face")
    head, row = out.splitlines()
    assert (code, head.split()) == (0, ["module", "arrays", "parameters", "dtype", "sha256"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())["swinir_face"]
    numbers = [f"{report['arrays']:,}", f"{report['parameters']:,}"]
    assert row.split() == ["swinir_face", *numbers, "float32", report["sha256"]]
    assert report["parameters"] == sum(
        x.size for key, x in small.swinir().items() if not key.endswith(("_index", "attn_mask"))
    )


@pytest.mark.parametrize("flipped", [False, True])
def test_other_bytes_than_the_published_ones_are_told(run, source, monkeypatch, flipped):
    """A flipped bit gives other weights, which nothing but a checksum can tell."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    known = dataclasses.replace(REGISTRY[source.with_suffix(".ckpt").name], sha256=digest)
    monkeypatch.setitem(REGISTRY, source.name, known)
    if flipped:
        data = bytearray(source.read_bytes())
        data[-9] ^= 1
        source.write_bytes(data)
    code, _, error = run("--input", source)
    assert code == 0
    told = f"{source.name} has the name of a published file, but not its SHA-256: fetch it again,"
    assert (told in error) == flipped


@pytest.mark.parametrize("data", [b"none", b""])
def test_names_cannot_command_a_terminal(tmp_path, run, data):
    """In errors, in choices and in the table."""
    path = tmp_path / "a\x1b[2Jb\nc.pth"
    path.write_bytes(data)
    code, _, error = run("--input", path)
    assert code == 1 and r"a\x1b[2Jb\nc.pth" in error and error[:-1].isprintable()


def test_choices_and_tables_cannot_command_a_terminal(tmp_path, run, source):
    made.write(tmp_path / "w.pth", {"epoch\x1b[2J": 1, "model": small.swinir()})
    code, out, error = run("--input", tmp_path / "w.pth", "--name", "x\x1b[2J")
    assert code == 0 and r"x\x1b[2J" in out
    assert out.replace("\n", "").isprintable() and error.replace("\n", "").isprintable()


def test_warnings_are_one_line(tmp_path, capsys):
    save_file(small.FAMILIES["BSRNet"][0](), tmp_path / "mine.safetensors")
    command = ["--input", str(tmp_path / "mine.safetensors"), "--output", str(tmp_path)]
    assert convert_weights.main(command) == 0
    first = capsys.readouterr().err.split("\n")[0]
    assert first.startswith("diffbir convert: warning: bsrnet has num_feat 16 (published: 64), num_blocks 2")


def test_published_names_come_from_the_registry(tmp_path, run, monkeypatch):
    path = tmp_path / "BSRNET.safetensors"
    save_file(small.FAMILIES["BSRNet"][0](), path)
    monkeypatch.setitem(convert_weights.PUBLISHED, "bsrnet.safetensors", ("bsrnet_published",))
    assert run("--input", path)[0] == 0
    assert (tmp_path / "out" / "bsrnet_published.safetensors").is_file()
    assert convert_weights.PUBLISHED["sd2.1-base-zsnr-laionaes5.ckpt"] == (
        "unet_zsnr",
        "vae_zsnr",
        "text_zsnr",
    )


# Files that change another network are converted in test_adapted.py.
WHOLE = [name for name, file in REGISTRY.items() if not re.match("unet_(?!zsnr)", file.stems[0])]


@pytest.mark.parametrize("name", WHOLE)
def test_registered_names_fit_a_family(name):
    """What the registry says a file becomes is what its family makes of it."""
    stems = list(REGISTRY[name].stems)
    assert any(family.stems(None, tuple(stems)) == stems for family in FAMILIES)


@pytest.mark.parametrize("flag, dtype", [("fp32", "float32"), ("bf16", "bfloat16")])
def test_precision(tmp_path, run, source, flag, dtype):
    assert run("--input", source, "--dtype", flag, "--name", "x")[0] == 0
    assert {str(x.dtype) for x in load_file(tmp_path / "out" / "x.safetensors").values()} == {dtype}


def test_there_and_back(tmp_path, run, source):
    assert run("--input", source)[0] == 0
    code, out, _ = run(
        "--input", tmp_path / "out" / "swinir_face.safetensors", "--to-torch", "safetensors", "--name", "b"
    )
    assert (code, out.splitlines()[1].split()[0]) == (0, "b")
    state = load_file(tmp_path / "out" / "b.safetensors")
    assert {key: x.tobytes() for key, x in state.items()} == {
        k: x.tobytes() for k, x in small.swinir().items()
    }


def test_errors_are_one_line(tmp_path, run, source, monkeypatch, capsys):
    save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:1000])
    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    for name, message in (
        ("absent.ckpt", "no file and no folder"),
        ("x.safetensors", "unknown family of weights; known are"),
        ("cut.safetensors", "is not a safetensors file, or it is truncated"),
        ("w.pth", "w.pth is empty: fetch it again"),
    ):
        code, out, err = run("--input", tmp_path / name)
        assert (code, out) == (1, "")
        assert err.startswith("diffbir convert: ") and message in err and err.count("\n") == 1
    assert convert_weights.main(["--input", str(source), "--output", str(source)]) == 1
    err = capsys.readouterr().err
    assert "face_swinir_v1.safetensors is a file: give a folder" in err and err.count("\n") == 1
    assert run("--input", source)[0] == 0
    code, _, err = run("--input", source)
    assert code == 1 and "exists: give --overwrite" in err
    assert run("--input", source, "--overwrite")[0] == 0


def test_choices_are_said_and_made(tmp_path, run):
    state = {f"net.{key}": x for key, x in small.swinir().items()}
    other = {f"net.{key}": 2 * x for key, x in small.swinir().items()}
    path = made.write(tmp_path / "x.ckpt", {"params": state, "params_ema": other, "epoch": 3})
    code, _, err = run("--input", path, "--name", "a")
    assert (code, err.splitlines()[:3]) == (
        0,
        [
            "diffbir convert: takes the weights in 'params_ema'; the file also has params (--key NAME takes another)",
            "diffbir convert: left out beside the weights: epoch",
            "diffbir convert: takes the keys net.*",
        ],
    )
    assert run("--input", path, "--name", "b", "--key", "params", "--prefix", "net")[0] == 0
    a, b = (load_file(tmp_path / "out" / f"{name}.safetensors") for name in "ab")
    np.testing.assert_array_equal(a["norm/bias"], 2 * b["norm/bias"])
    code, _, err = run("--input", path, "--key", "absent")
    assert code == 1 and "there is no --key absent; at 'absent' there are: params, params_ema" in err


@pytest.mark.parametrize("flag", ["--key", "--prefix"])
def test_choices_belong_to_reading(run, source, flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        run("--input", source, "--to-torch", flag, "x")
    assert exit_.value.code == 2
    assert "leave them out with --to-torch" in capsys.readouterr().err


def test_problems_are_listed_one_a_line(tmp_path, run):
    state = small.swinir()
    del state["norm.bias"], state["conv_hr.weight"]
    save_file(state, tmp_path / "x.safetensors")
    code, _, err = run("--input", tmp_path / "x.safetensors")
    assert code == 1
    assert [line.split()[:2] for line in err.splitlines()[1:]] == [
        ["missing", "norm.bias"],
        ["missing", "conv_hr.weight"],
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [[], ["--input", "x"], ["--input", "x", "--output", "y", "--dtype", "fp8"]])
def test_bad_flags(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        convert_weights.main(argv)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_interruption(run, source, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(from_torch, "convert_file", interrupted)
    assert run("--input", source)[0] == convert_weights.INTERRUPTED


TERMINATED = """
import os, runpy, signal, sys
from diffbir_jax.conversion import from_torch

def parts(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    yield from ()

from_torch.parts = parts
runpy.run_path("convert_weights.py", run_name="__main__")
"""


def test_termination_leaves_nothing_behind(tmp_path, source):
    source = source.rename(tmp_path / "mine.safetensors")  # a published name would demand the published sizes
    command = [sys.executable, "-c", TERMINATED, "--input", str(source), "--output", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == convert_weights.INTERRUPTED, result.stderr
    assert result.stderr.endswith("diffbir convert: interrupted: nothing is written\n")
    assert list((tmp_path / "out").iterdir()) == []
