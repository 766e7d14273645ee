"""evaluate.py from its command line to its files and exit code."""

from pathlib import Path

import pytest
from PIL import Image as Pillow

from diffbir_jax.cli import evaluate
from diffbir_jax.console import process
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.evaluation import run
from diffbir_jax.evaluation.metric import Metric
from diffbir_jax.evaluation.registry import METRICS
from diffbir_jax.evaluation.result import read_result
from diffbir_jax.imaging.reading import read_image
from tests.evaluation.folders import fill_folder, save

FILES = {"result.json", "images.csv", "table.md", "table.tex", "cache.jsonl"}
PLAIN = ("--metrics", "psnr,ssim,energy", "--no-page")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds pred, seeds/1, seeds/2 and gt; JAX stays as the tests have it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "configure", lambda precision: None)
    for name, first in (("pred", 2), ("seeds/1", 3), ("seeds/2", 4), ("gt", 0)):
        fill_folder(tmp_path / name, ["a.png", "b.png"], first)
    return tmp_path


def call(*command: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit:
        evaluate.main(command)
    return exit.value.code


def refused(capsys: pytest.CaptureFixture, *command: str) -> str:
    """The one line that a command ends in, after its exit code."""
    code = call(*command)
    error = capsys.readouterr().err
    assert error.startswith("diffbir evaluate: ") and error.count("\n") == 1, error
    return f"{code}: {error}"


def test_a_pair_of_folders_gives_a_table_and_files(here: Path, capsys: pytest.CaptureFixture):
    assert call("--pred", "pred", "--gt", "gt", "--output", "out", *PLAIN) == 0
    out, error = capsys.readouterr()
    assert out == (here / "out/table.md").read_text()
    assert error == "diffbir evaluate: out has the scores; table.md there is the table\n"
    assert {path.name for path in (here / "out").iterdir()} == FILES
    result = read_result(here / "out/result.json")
    assert (result.name, list(result.columns)) == ("pred", ["psnr", "ssim", "energy"])


def test_several_folders_are_seeds_of_one_method(here: Path, capsys: pytest.CaptureFixture):
    assert call("--pred", "seeds/1", "seeds/2", "--gt", "gt", "--output", "out", *PLAIN) == 0
    result = read_result(here / "out/result.json")
    assert result.name == "seeds"
    assert list(result.columns)[3:] == ["lstd", "psnr_gstd", "ssim_gstd", "energy_gstd"]
    assert "L-STD ↓" in capsys.readouterr().out


def test_what_cannot_run_has_no_deviation_over_seeds(here: Path):
    plain = [*PLAIN[:1], "psnr,lpips", *PLAIN[2:]]
    assert call("--pred", "seeds/1", "seeds/2", "--gt", "gt", "--output", "out", *plain) == 1
    assert list(read_result(here / "out/result.json").columns) == ["psnr", "lpips", "lstd", "psnr_gstd"]


def test_without_ground_truths_only_metrics_that_need_none_are_asked_for(
    here: Path, capsys: pytest.CaptureFixture
):
    for name in ("a.png", "b.png"):
        save(here / "pred" / name, side=(200, 200))
    assert call("--pred", "pred", "--output", "out", "--name", "mine", "--no-page") == 0
    assert list(read_result(here / "out/result.json").columns) == ["niqe"]
    assert "| mine | " in capsys.readouterr().out


def test_a_metric_that_cannot_run_is_a_dash_and_exit_code_1(here: Path, capsys: pytest.CaptureFixture):
    assert call("--pred", "pred", "--output", "out", "--metrics", "psnr", "--no-page") == 1
    assert "(1) not run: needs --gt" in capsys.readouterr().out
    assert read_result(here / "out/result.json").unavailable == {"psnr": "needs --gt"}


def test_runs_are_compared_and_printed(here: Path, capsys: pytest.CaptureFixture):
    for name in ("pred", "seeds/1"):
        call("--pred", name, "--gt", "gt", "--output", f"out/{name}", *PLAIN)
    capsys.readouterr()
    assert call("--runs", "out/pred", "out/seeds/1") == 0
    printed = capsys.readouterr().out
    assert "| 1 | " in printed and "Differences to pred" in printed
    assert call("--runs", "out/pred", "out/seeds/1", "--output", "both", "--no-page") == 0
    assert {path.name for path in (here / "both").iterdir()} == {
        *("compare.md", "compare.csv", "images.csv", "table.md", "table.tex")
    }
    assert capsys.readouterr().out == printed


def test_a_comparison_does_not_overwrite_a_result(here: Path, capsys: pytest.CaptureFixture):
    call("--pred", "pred", "--gt", "gt", "--output", "out", *PLAIN)
    capsys.readouterr()
    line = refused(capsys, "--runs", "out", "out", "--output", "out")
    assert line == "1: diffbir evaluate: out holds a result of its own; give another --output\n"


def test_the_report_gets_files_that_can_be_found(here: Path, monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setattr(run, "write_report", lambda results, folder: given.append((results, folder)))
    call("--pred", "pred", "--gt", "gt", "--output", "out", "--metrics", "psnr")
    call("--pred", "pred", "--gt", "gt", "--output", "out2", "--metrics", "psnr")
    call("--runs", "out", "out2", "--output", "both")
    for results, folder in given:
        assert all(
            Path(folder, path).is_file() for r in results for x in r.images for path in x.files.values()
        )
    assert [(len(results), folder.name) for results, folder in given] == [
        (1, "out"),
        (1, "out2"),
        (2, "both"),
    ]


def test_results_a_pixel_larger_are_cut_if_asked(here: Path, capsys: pytest.CaptureFixture):
    save(here / "pred/b.png", 3, side=(17, 16))
    flags = ("--pred", "pred", "--gt", "gt", "--output", "out", *PLAIN)
    assert "b.png is 16x17, not 16x16; give images of one size" in refused(capsys, *flags)
    assert call(*flags, "--crop-to-common") == 0
    assert "; 1 image cut to the common size." in capsys.readouterr().out
    result = read_result(here / "out/result.json")
    assert (
        result.protocol["images_cut_to_common"] == 1 and result.protocol["scoring"]["crop_to_common"] is True
    )
    cut = result.images[1].scores
    Pillow.fromarray(read_image(here / "pred/b.png")[:16]).save(here / "pred/b.png")
    assert call(*flags) == 0
    plain = read_result(here / "out/result.json")
    assert plain.images[1].scores == cut and "images_cut_to_common" not in plain.protocol


def test_the_limit_of_pixels_is_a_flag(here: Path, capsys: pytest.CaptureFixture):
    flags = ("--pred", "pred", "--gt", "gt", "--output", "out", *PLAIN, "--max-pixels")
    assert "more than the limit of 255" in refused(capsys, *flags, "255")
    assert call(*flags, "256") == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "give one of --pred, --suite, --runs, not none"),
        ("--pred p --runs r --output o", "--suite, --runs, not --pred and --runs"),
        ("--pred p", "--output is missing: give the folder for the result"),
        (
            "--runs a b --crop-border 0",
            "--crop-border goes with --pred, not with --runs",
        ),
        ("--suite tiny --output o --max-pixels 9", "--max-pixels goes with --pred, not with --suite"),
        ("--runs a b --crop-to-common", "--crop-to-common goes with --pred, not with --runs"),
        ("--pred p --output o --max-pixels 0", "'0' given, allowed are whole numbers above 0"),
        ("--pred p --output o --crop-border -1", "'-1' given, allowed are whole numbers from 0"),
        ("--pred p --output o --metrics psnr,nope", "no such metric: nope; allowed are psnr, "),
        ("--pred p --output o --metrics ,", "no metric given; allowed are psnr, "),
    ],
)
def test_bad_flags_are_one_line(command: str, expected: str, here: Path, capsys: pytest.CaptureFixture):
    line = refused(capsys, *command.split())
    assert line.startswith("2: ")
    assert expected in line


def test_folders_that_do_not_match_are_one_line_and_nothing_is_scored(
    here: Path, capsys: pytest.CaptureFixture
):
    (here / "gt/b.png").unlink()
    flags = ("--gt", "gt", "--output", "out", *PLAIN)
    line = refused(capsys, "--pred", "pred", *flags)
    assert line.startswith(
        "1: diffbir evaluate: the folders do not match: 1 image has no ground truth in gt (b);"
    )
    (here / "gt/b.png").write_bytes(b"")
    assert "1 file cannot be read: gt/b.png (is empty" in refused(capsys, "--pred", "pred", *flags)
    assert "gt/b.png" not in refused(capsys, "--pred", "nowhere", *flags)
    assert not (here / "out/cache.jsonl").exists()
    (here / "file").touch()
    assert "cannot be made a folder" in refused(capsys, "--pred", "pred", "--gt", "gt", "--output", "file")


def test_ctrl_c_says_how_to_go_on(here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def stop(*images: object) -> float:
        raise KeyboardInterrupt

    stopping = Metric("energy", "E", "reference", "higher", lambda setup: stop)
    monkeypatch.setitem(METRICS, "energy", stopping)
    command = ("--pred", "pred", "--gt", "gt", "--output", "out", *PLAIN)
    assert call(*command) == INTERRUPTED
    assert "interrupted; the same command goes on where it stopped" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(process, "configure", lambda precision: None)
    assert call(*command) == 0


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as exit:
        evaluate.main(["--help"])
    assert exit.value.code == 0 and "95 % bootstrap" in " ".join(capsys.readouterr().out.split())


def test_names_cannot_command_a_terminal(here: Path, capsys: pytest.CaptureFixture):
    """Neither that of the result nor those of images in notes."""
    Path("pred").rename("p\x1b[2J\n")
    for folder in ("p\x1b[2J\n", "gt"):
        Path(folder, "a.png").rename(Path(folder, "a\x1b[1m\n.png"))
    assert call("--pred", "p\x1b[2J\n", "--gt", "gt", "--output", "out", "--metrics", "psnr,ms_ssim") == 1
    out, error = capsys.readouterr()
    assert r"| p\x1b[2J\n |" in out and r"a\x1b[1m\n: " in out
    assert out.replace("\n", "").isprintable() and "\x1b[1m" not in error
    assert "\x1b" not in Path("out/table.tex").read_text()
