import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data.example import DataError
from diffbir_jax.data.preview import __main__ as preview
from diffbir_jax.data.preview import pairs
from diffbir_jax.data.setup import make_loaders

ROOT = Path(__file__).parents[2]
SIZE = 24


@pytest.fixture
def settings(tmp_path: Path) -> dict:
    """Six photos, one of them cut off, and captions."""
    rng, rows = np.random.default_rng(0), ["image_path,short"]
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(path)
        rows.append(f"{path.name},photo {i}")
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return {
        "source": {"kind": "table", "path": str(tmp_path / "photos.csv")},
        "held_out_every": 3,
        "crop": {"kind": "random", "size": SIZE},
        "degradation": {"kind": "second_order"},
        "captions": {"p_long": 0.0, "p_empty": 0.0},
        "batch_size": 2,
        "validation_size": 2,
        "max_broken": 1.0,
    }


def test_the_picture_shows_what_batches_hold(settings, tmp_path, capsys):
    loader, held_out = make_loaders(settings, 0)
    pairs.show(loader.items, 2, 3, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as file:
        picture = np.asarray(file)
    wide, high = 2 * SIZE + pairs.MARGIN, SIZE + pairs.MARGIN
    assert picture.shape == (3 * high, wide, 3)
    batches = [loader(step) for step in (1, 2)]
    hq, lq = (np.concatenate([batch[name] for batch in batches]) for name in ("hq", "lq"))
    for i in range(3):
        cell = picture[i * high : i * high + SIZE]
        free = slice(18, None)  # below the number
        np.testing.assert_array_equal(cell[free, :SIZE], hq[i][free])
        np.testing.assert_array_equal(cell[free, SIZE : 2 * SIZE], lq[i][free])


def test_a_small_folder_holds_out_one_example(settings, tmp_path):
    del settings["held_out_every"]
    train, held_out = make_loaders(settings | {"validation_size": 64}, 0)
    assert (len(train.items.source), len(held_out.items.source)) == (5, 1)
    assert held_out.batch_size == 8, "eight crops of it"
    only = {"kind": "folder", "path": str(tmp_path / "one")}
    (tmp_path / "one").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "one" / "0.png")
    with pytest.raises(DataError, match="holds one example; give at least 2"):
        make_loaders(settings | {"source": only, "captions": None}, 0)


def test_what_was_drawn_is_printed(settings, tmp_path, capsys):
    loader, _ = make_loaders(settings, 0)
    pairs.show(loader.items, 0, 4, tmp_path / "grid.png")
    lines = capsys.readouterr().out.splitlines()
    names = [line for line in lines if re.match(r"\d: .*\.png$", line)]
    assert len(names) == 4
    for name, prompt, drawn in zip(names, *(grep(lines, key) for key in ("prompt", "blur.kind"))):
        assert Path(name).stem in prompt
        assert re.search(r"jpeg2\.quality \d+", drawn)
    assert lines[-1].endswith("grid.png: 4 pairs, target left and input right")


def grep(lines: list[str], text: str) -> list[str]:
    return [line for line in lines if text in line]


def test_a_broken_example_is_named(settings, tmp_path, capsys):
    _, held_out = make_loaders(settings, 0)
    pairs.show(held_out.items, 0, 2, tmp_path / "grid.png")
    assert any("in place of" in line and "5.png" in line for line in capsys.readouterr().out.splitlines())


def test_stages_add_up(settings, capsys):
    loader, _ = make_loaders(settings, 0)
    pairs.time_stages(loader.items, 4)
    pairs.time_loader(loader, 4)
    out = capsys.readouterr().out
    times = dict(re.findall(r"^ *(\w[\w, ]*\w) +([\d.]+) ms per image", out, re.MULTILINE))
    assert times.keys() == {"read", "crop", "degrade", "decode, round", "all"}
    parts = [float(seconds) for stage, seconds in times.items() if stage != "all"]
    assert sum(parts) == pytest.approx(float(times["all"]), abs=0.3)
    assert float(times["degrade"]) > 0
    assert re.search(r"loader +[\d.]+ images per second \(no workers, 2 threads\)", out)


def test_the_command_shows_a_configuration_and_names_what_is_wrong(settings, tmp_path):
    def call(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "diffbir_jax.data.preview",
            "--config",
            f"{ROOT}/configs/bsr.py:tiny",
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *flags], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    (tmp_path / "5.png").unlink()
    shown = call(
        f"--config.data.source.path={tmp_path}",
        "--config.data.held_out_every=2",
        "--number=2",
        "--stats",
        "--timed=1",
    )
    assert "images per second" in shown.stdout
    assert (shown.returncode, Path(tmp_path, "grid.png").is_file()) == (0, True), shown.stderr
    wrong = call("--config.data.source.path=absent")
    assert wrong.returncode == 1
    assert re.fullmatch(r"diffbir data preview: .*absent.*\n", wrong.stderr)


def test_any_folder_of_photos_is_shown(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Of any size, from any working folder, with the captions beside them, into a folder that is not there."""
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    for i in range(3):
        (tmp_path / f"{i}.png").rename(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a cat")
    monkeypatch.chdir(elsewhere)
    data = settings | {
        "source": {"kind": "folder", "path": "../photos"},
        "crop": {"kind": "none", "size": SIZE},
    }
    flags = argparse.Namespace(
        photos="../photos", held_out=False, first=0, number=2, output="new/grid.png", stats=False
    )
    preview.run({"data": data, "seed": 0}, flags)
    shown = capsys.readouterr()
    assert (elsewhere / "new/grid.png").is_file() and shown.out.count("prompt 'a cat'") == 2
    assert "data.crop.kind is none" in shown.err and shown.err.count("\n") == 1


def test_a_configuration_without_a_source_is_told():
    with pytest.raises(DataError, match="cuts photos by itself .data.folder. and has no data.source"):
        preview.shown({"folder": "photos"}, True)
