import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffbir_jax.cli import sweep as script
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.training import sweep as sweeping
from diffbir_jax.training.grid import LONGEST, parse_grid, run_name
from diffbir_jax.training.sweep import make_runs, sweep
from tests.training.micro import make_photos

ROOT = Path(__file__).parents[2]
# Stands for train.py: notes that it was called, and trains 4 steps unless its settings say otherwise.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
folder, lr = Path(sys.argv[2]), float(sys.argv[3].split("=")[1])
with (folder / "calls").open("a") as file:
    file.write("x")
def stop(*_):
    print("saved at step 2")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
if lr == 3:
    os.kill(os.getpid(), signal.SIGKILL)
if lr == 6:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
if lr == 4:
    sys.exit("diffbir train: loss is nan at step 2")
if lr == 5 and not (folder / "metrics.jsonl").exists():
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "train/loss": 1.0}) + "\\n")
    time.sleep(600)
values = [{"step": s, "validation/psnr": p, "validation/loss": lr / s} for s, p in ((2, 30.25), (4, 20.0))]
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in values))
(folder / "export").mkdir(exist_ok=True)
print("the prompt was: stopped and saved at step 1")
"""


def run(workdir, grid, arguments=("a",)):
    runs = make_runs(parse_grid(grid), workdir, arguments)
    sweep(runs, workdir, [sys.executable, "-c", FAKE])
    return runs


def rows(workdir):
    with (workdir / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_grid_is_every_combination():
    grid = parse_grid(" train.lr=1e-3,1e-4  data.batch_size=4,8 ")
    assert [tuple(g.values()) for g in grid] == [("1e-3", "4"), ("1e-3", "8"), ("1e-4", "4"), ("1e-4", "8")]
    assert parse_grid("a.b=(0.9, 0.99),[1,2] c='x y',None") == [
        {"a.b": "(0.9, 0.99)", "c": "'x y'"},
        {"a.b": "(0.9, 0.99)", "c": "None"},
        {"a.b": "[1,2]", "c": "'x y'"},
        {"a.b": "[1,2]", "c": "None"},
    ]


@pytest.mark.parametrize("text", ["", "lr", "lr=", "lr=1,,2", "=1", "lr=1;2 =3", "a=1 a=2", "a=1,1", "a=(1"])
def test_no_grid(text):
    with pytest.raises(ValueError, match="^--grid: "):
        parse_grid(text)


def test_names_of_runs_are_those_of_files():
    assert run_name({"train.lr": "1e-3", "data.batch_size": "4"}) == "train.lr=1e-3,data.batch_size=4"
    paths = [run_name({"data.folder": path}) for path in ("a/b", "a:b", "x" * 300, "x" * 301)]
    assert len(set(paths)) == 4 and all("/" not in p and len(p) <= LONGEST + 9 for p in paths)


def test_failed_runs_are_rows_and_the_others_go_on(tmp_path):
    run(tmp_path, "train.lr=3,4,2")
    killed, failed, done = rows(tmp_path)
    assert (killed["state"], killed["reason"], killed["step"]) == ("failed", "killed by SIGKILL", "0")
    assert (failed["state"], failed["reason"]) == ("failed", "diffbir train: loss is nan at step 2")
    assert (done["train.lr"], done["state"], done["step"], done["reason"]) == ("2", "done", "4", "")
    metrics = [done[f"{name} {which}"] for name in ("psnr", "loss") for which in ("last", "best")]
    assert metrics == ["20.0", "30.25", "0.5", "0.5"]
    table = (tmp_path / "results.md").read_text().splitlines()
    assert table[0].startswith("| train.lr | state | step |") and len(table) == 5
    run(tmp_path, "train.lr=3,4,2")  # what is done is done, what failed is tried again
    assert [len((tmp_path / f"train.lr={lr}" / "calls").read_text()) for lr in (3, 4, 2)] == [2, 2, 1]


def test_an_interrupted_sweep_goes_on(tmp_path):
    code = f"from tests.training.test_sweep import *; run(Path({str(tmp_path)!r}), 'lr=2,5,1')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    begun = tmp_path / "lr=5" / "metrics.jsonl"
    while not begun.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) != 0
    assert [row["state"] for row in rows(tmp_path)] == ["done", "stopped", "waiting"]
    run(tmp_path, "lr=2,5,1")
    assert [(row["state"], row["step"]) for row in rows(tmp_path)] == [("done", "4")] * 3


def test_a_run_that_stops_by_itself_is_not_done(tmp_path):
    """A cluster may tell train.py alone to stop; weights are exported after the last step only, whatever logs say."""
    run(tmp_path, "lr=6,2")
    assert [row["state"] for row in rows(tmp_path)] == ["stopped", "done"]


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    run(tmp_path, "lr=1")
    with pytest.raises(
        ValueError, match=r"a sweep with the arguments \['a'\], given are \['b'\]: give a new --work"
    ):
        run(tmp_path, "lr=1", ["b"])


CONFIG = ("--config", "tests/training/micro.py:rm")


@pytest.mark.parametrize(
    ("grid", "flags", "message"),
    [
        ("train.lrr=1", CONFIG, "no such setting in the config: 'lrr' Did you mean \"lr\""),
        ("train.lr=1,x", CONFIG, "flag --config.train.lr=x: could not convert string to float"),
        ("train.lr", CONFIG, "--grid: cannot read 'train.lr'"),
        ("train.lr=1", (*CONFIG, "--steps=1"), "no option --steps; did you mean --config.train.steps=VALUE?"),
        ("train.lr=1", ("--config", "absent.py"), "absent.py"),
        ("train.lr=1", (), "config"),
    ],
)
def test_bad_settings_end_in_a_line_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, grid, flags, message
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        script.main(["--workdir", str(tmp_path / "s"), "--grid", grid, *flags])
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.startswith("diffbir sweep: ")
    assert message in line and line.count("\n") == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_command_trains(tmp_path, monkeypatch, capsys):
    """A run that trains, and one whose loss only the training itself looks for."""
    monkeypatch.chdir(ROOT)
    photos = f"--config.data.folder={make_photos(tmp_path)}/photos"
    command = ["--workdir", str(tmp_path / "s"), "--grid", "loss=mse,nothing", *CONFIG, photos]
    with pytest.raises(SystemExit) as end:
        script.main(command)
    assert end.value.code == 1  # a run failed
    done, failed = rows(tmp_path / "s")
    assert (done["state"], done["step"], failed["state"]) == ("done", "2", "failed")
    assert float(done["psnr best"]) > 10
    assert failed["reason"].startswith("diffbir train: config.loss is 'nothing', allowed are mse")
    assert (tmp_path / "s" / "loss=mse" / "export" / "rm.safetensors").exists()
    assert "| nothing | failed |" in capsys.readouterr().out


def test_the_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweeping, "sweep", interrupted)
    photos = f"--config.data.folder={make_photos(tmp_path)}/photos"
    with pytest.raises(SystemExit) as end:
        script.main(["--workdir", str(tmp_path / "s"), "--grid", "train.lr=1", *CONFIG, photos])
    assert end.value.code == INTERRUPTED
    assert capsys.readouterr().err == "diffbir sweep: stopped; run the same command again to go on.\n"
