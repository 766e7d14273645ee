"""python -m diffbir_jax.parity: what it accepts, what it refuses, and what it admits that it does not know."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.parity import case as measures
from diffbir_jax.parity.__main__ import DEFAULTS, main
from diffbir_jax.parity.case import Case, Limit
from diffbir_jax.parity.runner import run_case, run_here
from diffbir_jax.parity.suite import collect
from diffbir_jax.parity.weights import fill
from tests.golden import weights as reference

GOLDEN = Path(__file__).parent / "golden"
QUICK = "image_ops:interpolate_*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden image operations."""
    for name in ("meta.json", "image_ops.npz"):
        shutil.copy(GOLDEN / name, tmp_path)
    return tmp_path


def change(file: Path, edit: Callable[[dict], object]) -> None:
    with np.load(file) as stored:
        arrays = dict(stored)
    edit(arrays)
    np.savez(file, **arrays)


def remove(file: Path, *patterns: str) -> None:
    with np.load(file) as stored:
        gone = measures.matching(list(stored), *patterns)
        kept = {key: stored[key] for key in stored if key not in gone}
    np.savez(file, **kept)


def run(folder: Path, *flags: str) -> int:
    return main(["--golden", str(folder), *flags])


def lines(capsys: pytest.CaptureFixture, start: str) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(start)]


@pytest.mark.parametrize(
    "pattern, count", [("image_ops:*", 6), ("samplers:*tables", 4), ("degradation:*", 7), ("faces:*", 20)]
)
def test_true_values_pass(pattern, count, capsys):
    assert run(GOLDEN, "--only", pattern) == 0
    rows = lines(capsys, pattern.split(":")[0])
    assert len([row for row in rows if "  pass  " in row]) >= count
    assert not [row for row in rows if "MISS" in row]


def test_a_network_passes(capsys):
    assert run(GOLDEN, "--only", "swinir_small:*") == 0
    (row,) = lines(capsys, "swinir_small:out")
    _, error, tolerance, result, *_ = row.split()
    assert (tolerance, result) == ("1.0e-04", "pass")
    assert 0 < float(error) < 1e-5


@pytest.mark.parametrize("delta", [2e-5, np.nan])
def test_a_changed_value_is_a_miss(folder, delta, capsys):
    key = "interpolate_area|24x30"

    def edit(arrays: dict) -> None:
        arrays[key][0, 1, 2, 3] += delta

    change(folder / "image_ops.npz", edit)
    assert run(folder, "--only", QUICK) == 1
    (row,) = lines(capsys, "image_ops:interpolate_area")
    assert "MISS" in row and row.endswith(key)
    assert len(lines(capsys, "image_ops:interpolate_bilinear")) == 0, "read once"


def test_other_weights_are_a_miss(folder, capsys):
    shutil.copy(GOLDEN / "bsrnet_small.npz", folder)
    (folder / "meta.json").write_text('{"salt": "b"}')
    assert run(folder, "--only", "bsrnet*") == 1
    assert "MISS" in lines(capsys, "bsrnet_small:out")[0]


def test_a_value_of_another_shape_is_a_miss_and_the_rest_still_runs(folder, capsys):
    def edit(arrays: dict) -> None:
        arrays["interpolate_area|24x30"] = arrays["interpolate_area|24x30"][:, :, :-1]

    change(folder / "image_ops.npz", edit)
    assert run(folder, "--only", QUICK) == 1
    area, *others = lines(capsys, "image_ops:")
    assert "the value is float32 (1, 3, 24, 30), the golden float32 (1, 3, 23, 30)" in area
    assert len(others) == 2 and all("pass" in row for row in others)


def test_a_missing_input_is_a_miss(folder, capsys):
    change(folder / "image_ops.npz", lambda arrays: arrays.pop("content"))
    assert run(folder, "--only", QUICK) == 1
    assert "lacks content" in lines(capsys, "image_ops:interpolate_area")[0]


@pytest.mark.parametrize(
    "file, patterns, gone",
    [
        ("image_ops", ["interpolate_area|*"], ["interpolate_area"]),
        ("image_ops", ["low", "high", "reconstruction"], ["wavelet"]),
        ("image_ops", ["psnr*", "ycbcr"], ["likeness"]),
        ("guidance", ["w_mse|*"], ["w_mse"]),
        ("guidance", ["weight"], ["weight"]),
        ("training", ["*|adamw|*"], ["eps|adamw", "v|adamw"]),
        ("training", ["eps|noisy"], ["eps|noisy"]),
        ("clip_small", ["embedding"], ["embedding"]),
    ],
)
def test_a_part_of_a_file_is_checked_for_what_it_holds(folder, file, patterns, gone):
    shutil.copy(GOLDEN / f"{file}.npz", folder)
    before = {case.label for case in collect(folder).cases}
    remove(folder / f"{file}.npz", *patterns)
    suite = collect(folder)
    assert before - {case.label for case in suite.cases} == {f"{file}:{name}" for name in gone}
    assert all(case.outputs for case in suite.cases)


def test_a_part_of_a_file_runs(folder, capsys):
    remove(folder / "image_ops.npz", "interpolate_area|*")
    assert run(folder, "--only", QUICK) == 0
    assert len(lines(capsys, "image_ops:interpolate")) == 2


def test_the_unknown_is_reported(folder, capsys):
    np.savez(folder / "surprise_small.npz", a=np.zeros(1), b=np.zeros(1))
    change(folder / "image_ops.npz", lambda arrays: arrays.update(extra=np.zeros(1)))
    assert run(folder, "--only", "*[!y]:*a*") == 0
    text = capsys.readouterr().out
    assert "unknown file surprise_small.npz: a\n" in text
    assert "unknown keys in image_ops.npz: extra\n" in text
    assert " 2 unknown keys;" in text


def test_what_is_not_implemented_is_reported(folder, capsys):
    """A sampler that nothing here knows, whatever is added."""
    name = "eps|invented"
    run_of_it = f"{name}|steps=2|cfg=1|rescale=0|churn=0|"
    values = {"out": np.zeros((1, 4, 2, 2)), "noise_count": np.zeros((), int)}
    np.savez(folder / "samplers.npz", **{run_of_it + key: value for key, value in values.items()})
    assert run(folder, "--only", "samplers:*") == 0
    text = capsys.readouterr().out
    assert f"not implemented, samplers (1 values): {name}\n" in text
    assert "0 pass, 0 MISS, 1 not implemented, 0 unknown keys;" in text
    assert run(folder, "--cases", "--only", "samplers:*") == 0
    assert capsys.readouterr().out == f"samplers:{name}  (not implemented)\n"


def test_every_file_here_is_known():
    """But for one that other weights than the reference's were measured with; the tests of MobileNetV2 read it."""
    assert collect(GOLDEN).unknown.keys() == {"mobilenet"}


def test_one_step_values_lie_beside_the_folder_or_in_it(tmp_path, capsys):
    """Their losses are named for what they are, not for the file."""
    inner, beside = tmp_path / "golden", tmp_path / "onestep"
    for place in (inner, beside):
        place.mkdir()
    for name in ("meta.json", "image_ops.npz"):
        shutil.copy(GOLDEN / name, inner)
    shutil.copy(GOLDEN / "losses.npz", beside / "onestep_small.npz")
    wanted = ["losses:gan|sigmoid", "losses:gan|hinge", "losses:head|eval", "losses:head|train", "losses:vsd"]
    assert run(inner, "--cases", "--only", "losses*") == 0
    assert capsys.readouterr().out.split() == wanted
    assert run(inner, "--only", "losses:gan*") == 0
    assert len(lines(capsys, "losses:gan")) == 2
    change(beside / "onestep_small.npz", lambda arrays: arrays.update({"gan|fake": arrays["gan|real"]}))
    assert run(inner, "--only", "losses:gan*") == 1
    shutil.copy(GOLDEN / "losses.npz", inner / "onestep_small.npz")
    assert run(inner, "--only", "losses:gan*") == 0, "the folder's own file comes first"


def test_the_default_folder_is_the_makefiles(tmp_path, monkeypatch, capsys):
    choice = re.search(
        r"^GOLDEN .*wildcard (\S+)\) (\S+)\)$", (GOLDEN.parents[1] / "Makefile").read_text(), re.M
    )
    assert choice and choice.groups() == tuple(map(str, DEFAULTS))
    monkeypatch.chdir(GOLDEN.parents[1])
    monkeypatch.setattr("diffbir_jax.parity.__main__.DEFAULTS", (tmp_path / "absent", Path("tests/golden")))
    assert main(["--cases", "--only", "vae_small:encode"]) == 0
    assert capsys.readouterr().out == "vae_small:encode\n"


def test_list(capsys):
    for pattern in ("vae_*", "vae_small", "vae_*:*code"):
        assert run(GOLDEN, "--cases", "--only", pattern) == 0
        assert capsys.readouterr().out.splitlines() == ["vae_small:encode", "vae_small:decode"]


def test_small_leaves_out_full_size(folder, capsys):
    for name in ("small", "full"):
        shutil.copy(GOLDEN / "scunet_small.npz", folder / f"scunet_{name}.npz")
    assert run(folder, "--cases", "--only", "scunet*") == 0
    assert capsys.readouterr().out.split() == ["scunet_full:out", "scunet_small:out"]
    assert run(folder, "--cases", "--only", "scunet*", "--small") == 0
    assert capsys.readouterr().out.split() == ["scunet_small:out"]


def test_json(folder, tmp_path):
    change(folder / "image_ops.npz", lambda arrays: arrays.update(interpolate_area_x=np.zeros(1)))
    file = tmp_path / "report.json"
    assert run(folder, "--only", "image_ops:interpolate_area*", "--json", str(file)) == 0
    report = json.loads(file.read_text())
    (row,) = report["cases"]
    assert (row["case"], row["result"], row["tolerance"]) == ("image_ops:interpolate_area", "pass", 1e-5)
    assert row["errors"].keys() == set(row["outputs"]) and max(row["errors"].values()) < 1e-5
    assert report["unknown"] == {"image_ops": ["interpolate_area_x"]}


def test_json_of_what_is_no_number(folder, tmp_path):
    key, file = "interpolate_area|24x30", tmp_path / "report.json"
    change(folder / "image_ops.npz", lambda arrays: arrays.update({key: np.nan * arrays[key]}))
    assert run(folder, "--only", "image_ops:interpolate_area", "--json", str(file)) == 1
    (row,) = json.loads(file.read_text(), parse_constant=pytest.fail)["cases"]
    assert row["errors"][key] == "nan"


def refuse(folder: Path, capsys: pytest.CaptureFixture, *flags: str) -> str:
    """The one line that the command fails with."""
    assert run(folder, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_errors_are_one_line(folder, capsys):
    assert f"no folder {folder / 'no'}" in refuse(folder / "no", capsys)
    (folder / "empty").mkdir()
    assert "no golden files (*.npz)" in refuse(folder / "empty", capsys)
    assert "nothing in" in refuse(folder, capsys, "--only", "nonsense")
    assert "for --json; make it first" in refuse(folder, capsys, "--json", str(folder / "no" / "report.json"))
    (folder / "broken.npz").write_bytes(b"PK nonsense")
    assert "broken.npz cannot be read as .npz" in refuse(folder, capsys)
    (folder / "broken.npz").write_bytes(b"")
    assert "broken.npz cannot be read as .npz" in refuse(folder, capsys)
    (folder / "broken.npz").unlink()
    (folder / "meta.json").write_text("{}")
    assert "does not state the salt" in refuse(folder, capsys)
    (folder / "meta.json").unlink()
    assert "meta.json: it states the salt of the weights" in refuse(folder, capsys)


def test_damaged_values_are_a_miss(folder, capsys):
    """The archive opens; what is stored in it does not pass its checksum."""
    file = folder / "image_ops.npz"
    content = bytearray(file.read_bytes())
    with np.load(file) as stored:
        offset = stored.zip.getinfo("interpolate_area|24x30.npy").header_offset
    content[offset + 2000] ^= 255
    file.write_bytes(content)
    assert run(folder, "--only", QUICK) == 1
    assert "MISS" in lines(capsys, "image_ops:interpolate_area")[0]


def test_a_full_size_case_has_a_process_of_its_own():
    (case,) = (case for case in collect(GOLDEN).cases if case.label == "image_ops:interpolate_area")
    here, alone = run_here(case, GOLDEN), run_case(dataclasses.replace(case, full_size=True), GOLDEN)
    assert alone.errors == pytest.approx(here.errors, abs=1e-6)
    assert here.peak_bytes is None
    assert alone.peak_bytes is not None and 5e7 < alone.peak_bytes < 2e9


def test_a_computation_sees_its_inputs_only():
    seen = []
    case = Case(
        "f", "c", ["out"], ["x"], Limit(0.0), lambda golden: seen.append(set(golden)) or dict(out=golden["x"])
    )
    assert case.errors({"x": np.ones(2), "out": np.ones(2), "other": np.ones(2)}) == {"out": 0.0}
    assert seen == [{"x"}]


def test_a_computation_returns_every_output():
    case = Case("f", "c", ["a", "b"], [], Limit(0.0), lambda golden: {"a": np.ones(1)})
    with pytest.raises(ValueError, match=r"computed \['a'\], wanted \['a', 'b'\]"):
        case.errors({"a": np.ones(1), "b": np.ones(1)})


def test_measures():
    value, golden = np.array([1.0, 0.0, -4.5]), np.array([1.5, 0.0, -4.0])
    assert measures.absolute(value, golden) == 0.5
    assert measures.relative(value, golden) == 0.125
    assert measures.elementwise(value, golden) == pytest.approx(1 / 3)
    assert measures.elementwise(value, 0.0 * golden) == np.inf
    image = np.full((4, 4, 3), 100, np.uint8)
    assert measures.psnr(image, image + np.uint8(51)) == pytest.approx(-20 * np.log10(0.2))
    with pytest.raises(ValueError, match="the value is float64"):
        measures.psnr(image / 255, image)


def test_limits_reject_nan_and_point_at_the_worst():
    for limit, good, bad in ((Limit(0.1), 0.1, 0.2), (measures.PIPELINE, 45.0, 44.9)):
        assert limit.holds(good)
        assert not limit.holds(bad) and not limit.holds(float("nan"))
        case = Case("f", "c", ["a", "b"], limit=limit)
        assert case.worst({"a": good, "b": bad}) == ("b", bad)
        assert case.worst({"a": float("nan"), "b": bad})[0] == "a"


@pytest.mark.parametrize("key", ["norm.weight", "norm.bias", "conv.weight", "positional_embedding"])
@pytest.mark.parametrize("shape", [(), (7,), (5, 4), (4, 3, 3, 3)])
def test_weights_are_those_of_the_golden_values(key, shape):
    ours = fill("unet", key, shape, "b")
    theirs = reference.fill("unet", key, shape, "b")
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.float32
