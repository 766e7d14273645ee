"""diffbir finetune: its flags, and what they make of the configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.cli import finetune
from diffbir_jax.cli.main import start
from diffbir_jax.console import configurations
from diffbir_jax.console.errors import OtherRunError, UserError
from diffbir_jax.training.sources import training_batches


def save(folder: Path, count: int, side: int = 64) -> None:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.full((side, side, 3), i, np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, count in (("photos", 3), ("one", 1), ("empty", 0), ("lq", 3)):
        save(tmp_path / name, count)
    return tmp_path


@pytest.mark.parametrize(
    "command, line",
    [
        ("", "--photos and --pairs are missing; give --photos DIR, or --pairs LQ HQ"),
        ("--photos photos --pairs lq photos", "--photos and --pairs are both given"),
        ("--photos gone", "gone: no such folder; give a folder of photos, --photos DIR"),
        ("--photos one/0.png", "one/0.png: is a file, and no folder; give a folder of photos"),
        ("--photos . -o .", "-o . is in the folder of the photos, ., and the pictures of the run would count"),
        ("--photos photos -o photos/a/b", "-o photos/a/b is in the folder of the photos, photos"),
        ("--pairs lq photos -o lq/new", "-o lq/new is in the folder of the photos, lq"),
        ("--photos empty", "empty: holds no image file"),
        ("--pairs gone photos", "gone: no such folder; give a folder of photos"),
        ("--photos photos --lpips x", "--lpips is for --version one-step; tiny has a loss without it"),
        ("--photos photos --version hypir", "--version hypir has no training objective here; fine-tune one of tiny"),
        ("--photos photos --version v2 --full", "--full trains all weights, which takes too much memory for v2"),
        ("--photos photos --rank 0", "'0' given, allowed are whole numbers above 0"),
        ("--photos photos --step 5", "no option --step; did you mean --steps?"),
        ("--photos photos --config.train.lr=0", "config.train.lr is 0.0, must be above 0"),
        ("--photos photos --config.train.stepz=0", "no such setting in the config: 'stepz'"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(photos: Path, capsys, command: str, line: str) -> None:
    with pytest.raises(SystemExit) as end:
        start("finetune", command.split())
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "") and err.count("\n") == 1
    assert line in err and err.startswith("diffbir finetune: ")
    assert not Path("finetuned").exists()


@pytest.mark.parametrize(
    "error, line",
    [
        (
            OtherRunError(
                "another model; give a new `workdir`:\n  x has\n  y has", "checkpoint a/2", "model"
            ),
            "checkpoint a/2 was made with another --version, --rank or --full; give those again, or a new -o",
        ),
        (
            OtherRunError(
                "a/crops.npz was made for (1), this run needs (2): delete it", "a/crops.npz", "data"
            ),
            "a/crops.npz was made with other photos or settings; give those again, or a new -o",
        ),
        (
            UserError("a: process 7 trains there; wait for it, or give another `workdir`"),
            "a: process 7 trains there; wait for it, or give another -o",
        ),
    ],
)
def test_messages_of_training_name_flags_of_this_program(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys, error: UserError, line: str
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("diffbir_jax.training.loop.train", failing)
    with pytest.raises(SystemExit) as end:
        start("finetune", ["--photos", "photos"])
    assert end.value.code == f"diffbir finetune: {line}"


def read(command: str) -> Any:
    args, words = finetune.make_parser().parse_known_args(command.split())
    finetune.check(args)
    return args, finetune.configuration(args, words)


def test_flags_decide_the_configuration(photos: Path) -> None:
    command = "--photos photos --version v2.1 --rank 4 --steps 30 --batch 2 --seed 5 --weights w -o out"
    args, config = read(f"{command} --config.train.lr=0.5")
    assert (config.preset, config.lora.rank, config.train.steps) == ("v2.1", 4, 30)
    assert (config.data.batch_size, config.seed, config.weights.folder) == (2, 5, "w")
    assert config.data.source.path == "photos" and config.data.cache == "out/crops.npz"
    assert config.train.lr == 0.5
    assert read("--photos one")[1].data.validation.path == "one"


def test_pairs_are_a_source_without_degradation(photos: Path) -> None:
    _, config = read("--pairs lq photos")
    assert config.data.source.to_dict() == {"kind": "pairs", "lq": "lq", "hq": "photos"}
    assert config.data.degradation is None and config.train.steps == 400


def test_the_line_to_type(photos: Path) -> None:
    args, _ = read("--photos photos -o out")
    assert finetune.told(args, 400) == "not done yet: the same command goes on to step 400"
    Path("out/export").mkdir(parents=True)
    Path("out/export/lora.safetensors").touch()
    line = "diffbir restore PHOTO -o restored --version tiny --lora out/export/lora.safetensors"
    assert line in finetune.told(args, 400)
    args, _ = read("--photos photos --version v2 --weights w -o out")
    assert "--version v2 --weights w --lora out/export/lora.safetensors" in finetune.told(args, 400)
    args, config = read("--photos photos --full -o out")
    assert config.lora.rank == 0 and finetune.told(args, 400).endswith("--version tiny --weights out/export")


@pytest.mark.parametrize("name", ("tiny_rm", "tiny_one_step", "tiny_control", "bsr:tiny", "rm_swinir:tiny"))
def test_every_configuration_trains_on_pairs(photos: Path, name: str) -> None:
    """Those that cut photos by themselves get a source, and what else the loaders need."""
    config = configurations.read(
        name, ["--config.data.batch_size=2", "--config.data.crop.size=32"], pairs=("lq", "photos")
    )
    for batches in training_batches(config):
        batch = batches(0)
        assert batch["hq"].shape[1:] == batch["lq"].shape[1:] == (32, 32, 3)
        # The files differ by number only, and each partner has the number of its original.
        np.testing.assert_array_equal(batch["hq"], batch["lq"])


def test_photos_and_pairs_exclude_each_other(photos: Path) -> None:
    with pytest.raises(UserError, match="--photos and --pairs are both given; give one of them"):
        configurations.read("bsr:tiny", (), "photos", ("lq", "photos"))
