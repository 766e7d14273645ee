"""`diffbir reproduce` on stand-in data, with saved networks of random weights."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diffbir_jax.cli import reproduce
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.evaluation import registry
from diffbir_jax.evaluation.metric import Metric, UnavailableError
from diffbir_jax.evaluation.paper import needs, report, run, table
from diffbir_jax.evaluation.paper.table import Number, read_table, table_names
from diffbir_jax.evaluation.registry import METRICS
from diffbir_jax.evaluation.suites import methods, restoring
from diffbir_jax.evaluation.suites.spec import Reference, read_suite
from diffbir_jax.models.presets import PRESETS, get_preset
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.names import with_stage2
from diffbir_jax.weights.safetensors import save_weights
from tests.evaluation.folders import make_result
from tests.evaluation.suites.small import write_data, write_suite
from tests.micro import FEW, GUIDED, MICRO, random_params

TABLE = """\
title = "stand-in"
source = "invented for tests"
version = "micro"
method = "diffbir_s0"
notes = ["two small images"]

[[numbers]]
suite = "small"
dataset = "pair"
metric = "psnr"
paper = 20.5

[[numbers]]
suite = "small"
dataset = "pair"
metric = "spectral"
claim = "best of all"
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table `standin`, its suite, data and weights of a small preset, in one folder."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    monkeypatch.setitem(DEFAULTS, "micro", GUIDED)
    suite = write_suite(tmp_path / "suites")
    point = dataclasses.replace(suite.versions["tiny"], steps=FEW.steps)
    suite = dataclasses.replace(suite, versions={"micro": point})
    for module in (needs, run):
        monkeypatch.setattr(module, "read_suite", lambda name: dataclasses.replace(suite, name=name))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/standin.toml").write_text(TABLE)
    monkeypatch.setattr(table, "FOLDER", tmp_path / "tables")
    write_data(tmp_path / "data")
    for name, params in random_params(MICRO).items():
        save_weights(tmp_path / f"weights/{getattr(MICRO.files, name)}.safetensors", params, {})
    return tmp_path


@pytest.fixture
def call(standin: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Exit code, output and error stream of a line about the stand-in table."""

    def do(*more: str) -> tuple[int, str, str]:
        places = [f"--{name}={standin / name}" for name in ("data", "weights", "output")]
        code = reproduce.main(["standin", *places, "--no-page", *more])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return do


def test_a_table_is_run_and_compared(call: Call, standin: Path) -> None:
    code, out, _ = call()
    record = json.loads((standin / "output/reproduce.json").read_text())
    psnr, spectral = record["numbers"]
    stored = json.loads((standin / "output/small/pair/diffbir_s0/result.json").read_text())["summary"]
    assert code == 0 and psnr["ours"] == stored["psnr"]["mean"] and psnr["images"] == 2
    assert psnr["difference"] == psnr["ours"] - 20.5
    assert (spectral["paper"], spectral["difference"]) == (None, None)
    text = (standin / "output/reproduce.md").read_text()
    assert out.endswith(text) and f"| 20.5 | {psnr['ours']:.2f} [" in text and "| best of all |" in text
    assert f"| {psnr['difference']:+.2f} | 2 |" in text
    for told in ("Paper: invented for tests", "- two small images", "row DiffBIR micro", "SHA-256 control "):
        assert told in text
    assert not (standin / "output/small/alone").exists()


def test_an_interrupted_run_continues(call: Call, standin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as the uninterrupted one, and restores only what is missing."""
    write, written = restoring.write_png, []

    def breaking(path: Path, image: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, image)

    def noting(path: Path, image: object) -> None:
        written.append(path)
        write(path, image)

    monkeypatch.setattr(restoring, "write_png", breaking)
    code, _, err = call()
    assert code == INTERRUPTED and "the same command goes on" in err and len(written) == 1
    assert not list((standin / "output").glob("reproduce.*"))
    monkeypatch.setattr(restoring, "write_png", noting)
    assert call()[0] == 0 and len(written) == len(set(written)) == 2
    first = (standin / "output/reproduce.json").read_bytes()
    shutil.rmtree(standin / "output")
    assert call()[0] == 0 and (standin / "output/reproduce.json").read_bytes() == first


def nothing_ran(standin: Path) -> bool:
    return not (standin / "output").exists()


def test_all_that_is_missing_is_one_list_and_nothing_runs(call: Call, standin: Path) -> None:
    (standin / "data/pair/lq/a.png").unlink()
    shutil.rmtree(standin / "data/pair/gt")
    stem = MICRO.files.unet
    (standin / f"weights/{stem}.safetensors").unlink()
    for more in ((), ("--check",)):
        code, out, err = call(*more)
        assert code == 1 and nothing_ran(standin)
        assert f"{standin}/data/pair/lq: 1 of 2 images\n    put them there (--data DIR), from a drawer" in err
        assert f"{standin}/data/pair/gt: 0 of 2 images" in err and f"\n  {stem}\n" in err
        assert f"here     {MICRO.files.vae}\n" in out and err.count("put them there") == 2


def test_check_with_all_there_runs_nothing(call: Call, standin: Path) -> None:
    code, out, err = call("--check")
    assert (code, err) == (0, "") and "missing" not in out and nothing_ran(standin)
    assert f"images   here  {standin}/data/pair/lq: 2 of 2 images" in out


def use_metric(standin: Path, monkeypatch: pytest.MonkeyPatch, metric: Metric) -> None:
    """Let the table's first number be of a metric."""
    monkeypatch.setitem(METRICS, metric.name, metric)
    (standin / "tables/standin.toml").write_text(TABLE.replace('"psnr"', f'"{metric.name}"'))


def test_a_metric_that_is_not_installed_is_missing(
    call: Call, standin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_metric(standin, monkeypatch, registry.METRICS["maniqa"])
    monkeypatch.setattr(needs, "is_installed", lambda name: name == "torch")
    (standin / "metrics").mkdir()
    code, out, err = call(f"--metric-weights={standin / 'metrics'}")
    assert code == 1 and nothing_ran(standin)
    assert "pip install pyiqa" in err and "pip install timm" in err and "pip install torch" not in err
    assert f"missing  {standin}/metrics/maniqa.pt (MANIQA)" in out and "package  here     torch" in out


def test_a_metric_whose_file_is_damaged_is_missing(
    call: Call, standin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> object:
        raise UnavailableError("net.pth is not the file that is needed")

    use_metric(standin, monkeypatch, Metric("broken", "BROKEN", "single", "higher", load))
    code, _, err = call()
    assert code == 1 and nothing_ran(standin) and "net.pth is not the file that is needed" in err


def test_a_number_without_a_score_is_told(call: Call, standin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> object:
        return lambda image: float("nan")

    use_metric(standin, monkeypatch, Metric("empty", "EMPTY", "single", "higher", load))
    code, out, _ = call()
    number = json.loads((standin / "output/reproduce.json").read_text())["numbers"][0]
    assert code == 1 and number["ours"] is None and number["difference"] is None
    assert "| pair | EMPTY ↑ | 20.5 | - | - | 0 |" in out and "- no score, pair: the score is nan" in out


def test_suites_run_one_after_the_other_once_all_are_checked(call: Call, standin: Path) -> None:
    """Images of unknown origin in the output of the second suite stop the first one, too."""
    text = TABLE.replace('suite = "small"', 'suite = "second"', 2).replace('"second"', '"small"', 1)
    (standin / "tables/standin.toml").write_text(text)
    unknown = standin / "output/second/pair/diffbir_s0"
    shutil.copytree(standin / "data/pair/gt", unknown)
    with pytest.raises(ValueError, match="give a new --output"):
        call()
    assert not (standin / "output/small").exists()
    shutil.rmtree(unknown)
    assert call()[0] == 0
    record = json.loads((standin / "output/reproduce.json").read_text())
    assert record["results"].keys() == {"small/pair", "second/pair"}


def test_the_reference_set_of_fid_is_needed(standin: Path) -> None:
    suite = needs.read_suite("small")
    real = Reference("real", 3, "a shelf")
    alone = dataclasses.replace(suite.datasets[1], reference="real")
    suite = dataclasses.replace(suite, datasets=(suite.datasets[0], alone), references=(real,))
    (need,) = needs.reference_needs(suite, {"alone"}, standin / "data")
    assert need.what == f"{standin}/data/real: 0 of 3 images" and "a shelf" in need.todo
    shutil.copytree(standin / "data/alone/lq", standin / "data/real")
    assert "1 of 3" in next(needs.reference_needs(suite, {"alone"}, standin / "data")).what
    assert not list(needs.reference_needs(suite, {"pair"}, standin / "data"))


def test_published_weights_have_size_licence_and_commands(tmp_path: Path) -> None:
    found = list(needs.weight_needs(get_preset("v2", "denoise"), read_suite("bid"), tmp_path))
    told = {need.what: need.todo for need in found}
    scunet = "scunet: scunet_color_real_psnr.pth (71,982,841 bytes, Apache-2.0)"
    assert len(found) == 3 and "v2.pth (size not published" in "".join(told)
    assert told[scunet].startswith("diffbir weights fetch scunet_color_real_psnr.pth && diffbir convert")
    assert told[scunet].endswith(f"--output {tmp_path}")


def test_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["denoising", "faces", "real-sr"]


@pytest.mark.parametrize("name", table_names())
def test_tables_of_the_paper_fit_their_suites(name: str) -> None:
    """Data sets, metrics and rows exist, so that no run fails late."""
    found = read_table(name)
    assert found.version in with_stage2() and "2308.15070" in found.source
    for number in found.numbers:
        suite = read_suite(number.suite)
        dataset = next(each for each in suite.datasets if each.name == number.dataset)
        assert number.metric in suite.metrics and (number.paper is not None or number.claim)
        assert number.metric != "fid" or dataset.truths or dataset.reference
        rows = methods.diffbir_methods(suite, methods.Networks(found.version, suite.task))
        assert found.method in [row.name for row in rows]


def test_the_numbers_are_those_that_the_paper_claims() -> None:
    numbers = [number for name in table_names() for number in read_table(name).numbers]
    values = {(each.suite, each.metric, each.paper) for each in numbers if each.paper is not None}
    assert values == {("bfr", "fid", 40.9), ("bid", "maniqa", 0.34), ("bid", "clipiqa", 0.74)}


def test_a_mean_of_an_incomplete_metric_says_why() -> None:
    line = report.make_line(Number("s", "d", "psnr", 1.0), make_result("x", {"psnr": [None, None]}))
    assert (line.ours, line.difference, line.reason) == (None, None, "no number")


@pytest.mark.parametrize(
    "words, message",
    [
        ("--check", "--check needs a table: name one of denoising, faces, real-sr"),
        ("-o out", "--output needs a table: name one of"),
        ("faces --check --data nowhere", "nowhere: no such folder; give one as --data DIR"),
        ("faces --check --datasets RNI15", "'RNI15' given, allowed with table faces are LFW-Test"),
    ],
)
def test_mistakes_are_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(words.split())
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_datasets_choose_a_part(call: Call, standin: Path) -> None:
    text = TABLE + '\n[[numbers]]\nsuite = "small"\ndataset = "alone"\nmetric = "psnr"\npaper = 1.0\n'
    (standin / "tables/standin.toml").write_text(text)
    shutil.rmtree(standin / "data/alone")
    assert call("--check")[0] == 1 and call("--check", "--datasets=pair")[0] == 0
