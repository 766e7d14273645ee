"""The file that takes training to another machine, and the plan of a training that has a given time."""

import json
import sys
import tarfile
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import one_step_rm
from diffbir_jax.console.errors import UserError
from diffbir_jax.data.photos import load_photos
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.restoration_families import describe_restoration
from diffbir_jax.training.taught import load_samples
from diffbir_jax.weights.safetensors import save_weights
from scripts import pack_training, start_decoder, train_one_step

SIDE = pack_training.CROP.size
SAMPLES, HELD_OUT, SIZE = 2, 3, 330_000


def picture(seed: int, side: int) -> np.ndarray:
    """A smooth picture, which WebP keeps."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the other scripts prepare it, with small networks."""
    work = tmp_path_factory.mktemp("prepared")
    for place in (pack_training.TRAIN, pack_training.HELD_OUT, "metrics", "teacher"):
        (work / place).mkdir(parents=True)
    for name, seed in ((pack_training.TRAIN, 1), (pack_training.HELD_OUT, 2)):
        cv2.imwrite(str(work / name / "photo.png"), picture(seed, 300))
    for name in pack_training.LOSSES:
        save_file({"a/kernel": np.linspace(-3, 3, 12, dtype=np.float32)}, work / name)
    config = BSRNetConfig(num_feat=4, growth=2)
    like = abstract(BSRNet(config), jnp.zeros((1, 8, 8, 3)))
    network = jax.tree.map(lambda x: np.arange(x.size, dtype=np.float32).reshape(x.shape) % 7, like)
    save_weights(work / pack_training.REALESRGAN, network, describe_restoration(config))
    hq, teacher = (np.stack([picture(10 * k + i, SIDE) for i in range(SAMPLES)]) for k in (1, 2))
    lq = np.random.default_rng(0).integers(0, 256, (SAMPLES, SIDE // 4, SIDE // 4, 3), np.uint8)
    np.savez(work / "teacher" / "000000.npz", hq=hq, teacher=teacher, lq=lq)
    return work


@pytest.fixture(scope="module")
def packed(prepared: Path) -> tuple[Path, dict[str, int]]:
    path = prepared / "pack.tar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_training, "HELD_OUT_CROPS", HELD_OUT)
        return path, pack_training.pack(prepared, path, SIZE)


@pytest.fixture(scope="module")
def unpacked(packed: tuple[Path, dict[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("unpacked")
    pack_training.unpack(packed[0], work)
    return work


def test_a_pack_is_filled_with_crops_up_to_its_size(packed: tuple[Path, dict[str, int]]) -> None:
    path, counts = packed
    assert path.stat().st_size <= SIZE
    assert counts == {
        "teacher's samples": SAMPLES,
        "more crops": counts["more crops"],
        "held-out crops": HELD_OUT,
    }
    assert counts["more crops"] > 0
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)) == 3 + 3 * SAMPLES + counts["more crops"] + HELD_OUT


def test_unpacked_samples_are_those_of_the_teacher(prepared: Path, unpacked: Path) -> None:
    """Inputs to the bit, since the teacher saw them; the others as WebP keeps them."""
    before, after = load_samples(prepared / "teacher"), load_samples(unpacked / "teacher")
    np.testing.assert_array_equal(after["lq"], before["lq"])
    for name in ("hq", "teacher"):
        for one, other in zip(before[name], after[name], strict=True):
            assert np.abs(one.astype(int) - other).mean() < 3.0
        assert np.abs(before[name][0].astype(int) - after[name][1]).mean() > 20.0


def test_unpacked_crops_are_of_the_photos(
    packed: tuple[Path, dict[str, int]], prepared: Path, unpacked: Path
) -> None:
    """The truths of the samples come first, then crops that differ from each other."""
    crops = load_photos(unpacked / pack_training.TRAIN)
    assert len(crops) == SAMPLES + packed[1]["more crops"]
    assert all(crop.shape == (SIDE, SIDE, 3) for crop in crops)
    np.testing.assert_array_equal(np.stack(crops[:SAMPLES]), load_samples(unpacked / "teacher")["hq"])
    photos = load_photos(prepared / pack_training.TRAIN)
    expected = pack_training.crop(photos, 0, SAMPLES)
    assert np.abs(expected.astype(int) - crops[SAMPLES]).mean() < 3.0
    assert len(load_photos(unpacked / pack_training.HELD_OUT)) == HELD_OUT


def test_networks_are_packed_as_float16_with_the_blocks_that_the_decoder_starts_from(
    prepared: Path, unpacked: Path
) -> None:
    for name in (*pack_training.LOSSES, pack_training.REALESRGAN):
        assert all(value.dtype == np.float16 for value in load_file(unpacked / name).values())
    before, after = (
        start_decoder.few_blocks(work / pack_training.REALESRGAN) for work in (prepared, unpacked)
    )
    assert jax.tree.leaves(after["blocks"])[0].shape[0] == len(start_decoder.BLOCKS)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_pack_that_is_too_small_leaves_no_file(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_training, "HELD_OUT_CROPS", HELD_OUT)
    path = prepared / "small.tar"
    with pytest.raises(UserError, match="--megabytes 0.2: .* allow more"):
        pack_training.pack(prepared, path, 200_000)
    assert not list(prepared.glob("small*"))


def test_a_pack_is_not_unpacked_beside_photos(packed: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    (tmp_path / pack_training.TRAIN).mkdir(parents=True)
    (tmp_path / pack_training.TRAIN / "mine.jpg").touch()
    with pytest.raises(UserError, match="another folder"):
        pack_training.unpack(packed[0], tmp_path)


def test_crops_of_a_pack_keep_their_scale(prepared: Path, unpacked: Path) -> None:
    assert train_one_step.overrides("rm", unpacked)["data.crop.scale"] == (1.0, 1.0)
    assert "data.crop.scale" not in train_one_step.overrides("rm", prepared)
    assert train_one_step.overrides("rm", prepared, 32)["data.batch_size"] == 32


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[tuple[str, int]]:
    """Run the program with a `train` that takes 0.5 s per step; return the stages with their steps."""
    calls: list[tuple[str, int]] = []

    def train(stage: str, target: Path, settings: dict[str, object]) -> int:
        calls.append((target.name, int(str(settings["train.steps"]))))
        target.mkdir(parents=True, exist_ok=True)
        times = [9.0] * 12 + [0.5] * 12 if target.name.endswith("_probe") else []
        lines = [json.dumps({"step": i, "train/step_seconds_p50": s}) for i, s in enumerate(times)]
        (target / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 9, "validation/psnr": 1.0}']))
        return 0

    monkeypatch.setattr(train_one_step, "train", train)
    monkeypatch.setattr(train_one_step, "start_decoder", lambda work: 0)
    monkeypatch.setattr(sys, "argv", ["train_one_step.py", *words])
    assert train_one_step.main() == 0
    return calls


def test_minutes_are_shared_among_the_stages_and_planned_once(
    monkeypatch: pytest.MonkeyPatch, packed: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    words = (str(tmp_path), "--pack", str(packed[0]), "--minutes", "10")
    steps = {"rm": 360, "vae": 24, "one_step": 600}
    probes = [(f"{stage}_probe", train_one_step.PROBE) for stage in steps]
    first = run(monkeypatch, *words)
    assert first == [call for pair in zip(probes, steps.items(), strict=True) for call in pair]
    assert run(monkeypatch, *words) == list(steps.items())  # as after a stop


def test_a_share_takes_that_part_of_the_configured_steps(
    monkeypatch: pytest.MonkeyPatch, prepared: Path
) -> None:
    calls = run(monkeypatch, str(prepared), "--share", "0.1")
    assert calls[0] == ("rm", one_step_rm.get_config().train.steps // 10)
    assert [name for name, _ in calls] == ["rm", "vae", "one_step"]


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_a_pack_writes_below_its_folder_alone(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "pack.tar", "w") as tar:
        pack_training.add(tar, name, b"x")
    with pytest.raises(UserError, match="files below its folder alone"):
        pack_training.unpack(tmp_path / "pack.tar", tmp_path / "work")
    assert not (tmp_path / "outside").exists()
