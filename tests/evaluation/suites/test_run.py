import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from diffbir_jax.evaluation import flags
from diffbir_jax.evaluation.run import run
from diffbir_jax.evaluation.suites import run as suites
from diffbir_jax.evaluation.suites.methods import Method, Networks, realesrgan_method
from diffbir_jax.evaluation.suites.run import SuiteRun, run_suite
from tests.evaluation.suites.small import SUITE, Painter, write_data, write_suite

Methods = Callable[[Sequence[Method]], SuiteRun]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Methods:
    """A run of the small suite by other methods."""
    suite = write_suite(tmp_path / "suites")
    data = write_data(tmp_path / "data")

    def make(methods: Sequence[Method]) -> SuiteRun:
        monkeypatch.setattr(suites, "make_methods", lambda *_: methods)
        return SuiteRun(suite, Networks("tiny", "sr"), tmp_path / "out", data)

    return make


def test_there_is_a_result_per_dataset_and_method(given: Methods, tmp_path: Path) -> None:
    one = Painter().method()
    several = dataclasses.replace(Painter().method(seeds=(5, 6)), name="several")
    found = run_suite(given([one, several]))
    assert list(found) == [tmp_path / "out" / "pair", tmp_path / "out" / "alone"]
    single, spread = found[tmp_path / "out" / "pair"].values()
    assert [image.name for image in single.images] == ["a", "sub/b"]
    assert single.summary.keys() == {"psnr", "spectral"}
    assert "lstd" in spread.summary and spread.protocol["restoring"]["seeds"] == [5, 6]
    assert (tmp_path / "out" / "pair" / "several" / spread.images[1].files["pred"]).is_file()


def test_results_say_what_they_depend_on(given: Methods, tmp_path: Path) -> None:
    result = run_suite(given([Painter().method()]))[tmp_path / "out" / "pair"]["painter"]
    suite, restoring = result.protocol["suite"], result.protocol["restoring"]
    assert (suite["name"], suite["version"], suite["crop"]) == ("small", 3, 2)
    assert suite["dataset"]["published"] == "a drawer" and suite["dataset"]["found"] == 2
    assert restoring["settings"] == {"strength": 1} and restoring["upscale"] == 2
    assert result.protocol["scoring"]["crop"] == 2


def test_without_ground_truths_metrics_that_need_them_are_reported(given: Methods, tmp_path: Path) -> None:
    result = run_suite(given([Painter().method()]))[tmp_path / "out" / "alone"]["painter"]
    assert result.unavailable == {"psnr": "needs --gt", "spectral": "needs --gt"} and not result.summary


def test_a_method_that_cannot_run_has_no_number(given: Methods, tmp_path: Path) -> None:
    result = run_suite(given([realesrgan_method(2)]))[tmp_path / "out" / "pair"]["realesrgan"]
    assert not (result.images or result.summary)
    assert result.unavailable["psnr"] == "it enlarges by 4, the suite by 2"


def test_two_runs_give_the_same_bytes(given: Methods, tmp_path: Path) -> None:
    first = given([Painter().method(seeds=(5, 6))])
    written = []
    for output in (tmp_path / "one", tmp_path / "two"):
        run_suite(dataclasses.replace(first, output=output))
        written.append((output / "pair" / "painter" / "result.json").read_bytes())
    assert written[0] == written[1]


def test_nothing_runs_before_everything_is_checked(given: Methods, tmp_path: Path) -> None:
    painter, other = Painter(), dataclasses.replace(Painter().method(), name="other")
    run_suite(given([other]))
    changed = dataclasses.replace(other, settings={"strength": 2})
    with pytest.raises(ValueError, match="give a new --output"):
        run_suite(given([painter.method(), changed]))
    with pytest.raises(ValueError, match="suite small lacks images"):
        run_suite(dataclasses.replace(given([painter.method()]), data=tmp_path))
    assert not painter.asked


def test_the_command_line_runs_tiny(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without weights of Real-ESRGAN its row says so; the exit code, too, where it was asked for."""
    line = ["--suite", "tiny", "--output", str(tmp_path), "--metrics", "psnr", "--realesrgan", "none.param"]
    code = run(flags.parse([*line, "--methods", "bicubic,realesrgan", "--no-page"]))
    lines = capsys.readouterr().out.splitlines()
    assert code == 1 and lines[0] == "pictures"
    assert any(line.startswith("| bicubic | 23.90 [") for line in lines)
    assert "| Real-ESRGAN x4plus | - (1) |" in lines
    assert "(1) not run: no file none.param, as --realesrgan says" in lines
    assert "Means over 8 images, in brackets 95 % bootstrap intervals; border crop 4." in lines
    assert (tmp_path / "pictures" / "table.md").is_file()
    assert run(flags.parse([*line, "--methods", "bicubic", "--no-page"])) == 0


def test_the_command_line_runs_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--suite", "photos", "--output", str(tmp_path), "--metrics", "psnr", "--methods", "bicubic"]
    assert run(flags.parse([*line, "--no-page"])) == 0
    out = capsys.readouterr().out
    assert "| bicubic | **22.06** [" in out or "| bicubic | 22.06 [" in out
    assert "Means over 40 images" in out


@pytest.mark.parametrize(
    "line, message",
    [
        ("--suite tiny", "--output is missing"),
        ("--suite huge --output out", "'huge' given; allowed are"),
        ("--suite tiny --gt x --output out", "--gt goes with --pred, not with --suite"),
        ("--suite tiny --crop-border 2 --output out", "--crop-border goes with --pred, not with --suite"),
        ("--pred x --data y --output out", "--data goes with --suite, not with --pred"),
        ("--runs x y --metrics psnr", "--metrics goes with --pred or --suite, not with --runs"),
        (
            "--suite tiny --pred x --output out",
            "give one of --pred, --suite, --runs, not --pred and --suite",
        ),
        ("--suite tiny --methods , --output out", "no name given; separate several with commas"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        flags.parse(line.split())
    assert message in capsys.readouterr().err


def test_whole_photos_have_methods_and_metrics_of_their_own(tmp_path: Path, monkeypatch) -> None:
    """They are the user's: without the folder they are left out."""
    entry = """
[[datasets]]
name = "whole"
images = 1
truths = true
published = "your own photos"
whole = true
own = true
metrics = ["ssim"]
"""
    suite = write_suite(tmp_path / "suites", SUITE.replace("[versions.tiny]", f"{entry}\n[versions.tiny]"))
    data = write_data(tmp_path / "data")
    asked = []

    def make(_: object, networks: Networks, *more: object) -> list[Method]:
        asked.append((networks.named_task, networks.task))
        return [Painter().method()]

    monkeypatch.setattr(suites, "make_methods", make)
    given = SuiteRun(suite, Networks("tiny", "face"), tmp_path / "out", data)
    assert len(run_suite(given)) == 2 and asked == [("face", "face")]
    shutil.copytree(data / "pair", data / "whole")
    found = run_suite(given)
    assert asked[1:] == [("face", "face"), ("faces", "sr")]
    assert found[tmp_path / "out" / "whole"]["painter"].summary.keys() == {"ssim"}
    assert found[tmp_path / "out" / "pair"]["painter"].summary.keys() == {"psnr", "spectral"}
