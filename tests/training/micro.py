"""The shipped configurations at a size that trains in a moment; also a config file for train.py.

`--config tests/training/micro.py:rm` is the stage `rm`; `micro.py:rm@47` dies by SIGKILL when it asks for the batch of
step 47, `micro.py:rm@47@SIGTERM` sends itself another signal then.
"""

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from jax._src import distributed
from ml_collections import ConfigDict
from PIL import Image

from diffbir_jax.data.photos import PairBatches
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.presets import PRESETS, Preset
from diffbir_jax.models.restoration_unet import RestorationUNetConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import save_weights
from tests.models.reference import away_from_zero

MICRO = Preset(
    name="micro",
    rm=RestorationUNetConfig(channels=(8, 12), blocks=(1, 1, 1)),
    vae=VAEConfig(
        ch=8,
        ch_mult=(1,),
        num_res_blocks=1,
        z_channels=4,
        embed_dim=4,
        patch_size=4,
        mid_attention=False,
        shortcut=True,
    ),
    unet=UNetConfig(
        model_channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_levels=(),
        num_head_channels=8,
        context_dim=None,
    ),
    parameterization="v",
    zero_terminal_snr=True,
)
# Batches are split over the four devices of the tests.
BATCH = 4
SMALL = {"steps": 2, "warmup": 1, "log_every": 1, "eval_every": 100, "checkpoint_every": 100, "keep": 9}


@contextlib.contextmanager
def surrounded(preset: Preset = MICRO, stage: ModuleType | None = None) -> Iterator[pytest.MonkeyPatch]:
    """`preset` is the preset `micro`, and types are promoted as optax relies on.

    With `stage`, initial weights of that module of training need no compiling.
    """
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(PRESETS, "micro", preset)
        if stage is not None:
            patch.setattr(stage, "init", lambda module, key, *x: away_from_zero(abstract(module, *x)))
        yield patch


def micro_config(stage: str, folder: str | Path = ".") -> ConfigDict:
    """The shipped configuration of `stage` for the preset `micro`; photos and weights are in `folder`."""
    config = importlib.import_module(f"configs.tiny_{stage}").get_config()
    config.preset = "micro"
    config.data.update(folder=f"{folder}/photos", held_out=None, batch_size=BATCH, validation_size=BATCH)
    config.data.crop.update(size=16, scale=(0.5, 1.0))
    config.train.update(SMALL)
    for name, path in config.get("weights", {}).items():
        if path is not None:
            config.weights[name] = f"{folder}/{name}.safetensors"
    if "teacher" in config.data:
        config.data.teacher = f"{folder}/teacher"
    if "pool" in config.data:
        config.data.update(pool=3 * BATCH, cache=f"{folder}/latents_{stage}.npz")
    return config


def make_photos(folder: Path, count: int = 13, side: int = 40) -> Path:
    """Write `count` different pictures with edges and noise to `folder`/photos; returns `folder`."""
    (folder / "photos").mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        blocks = np.kron(rng.integers(40, 200, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
        picture = blocks + rng.integers(-20, 20, blocks.shape)
        Image.fromarray(picture.astype(np.uint8)).save(folder / "photos" / f"{i:02}.png")
    return folder


def make_samples(folder: Path, count: int = 6) -> Path:
    """Write `count` samples of a teacher, of 32 pixels from 8, to `folder`/teacher, in two files; returns `folder`."""
    (folder / "teacher").mkdir()
    rng = np.random.default_rng(0)
    for first in (0, count // 2):
        hq, teacher = (rng.integers(0, 256, (count // 2, 32, 32, 3), np.uint8) for _ in range(2))
        lq = hq[:, ::4, ::4]
        np.savez(folder / "teacher" / f"{first:06}.npz", hq=hq, lq=lq, teacher=teacher)
    return folder


def make_weights(folder: Path) -> Path:
    """Write weights of the networks that stage 2 of `micro` leaves frozen to `folder`; returns it."""
    for name, like in abstract_params(MICRO, ["rm", "vae", "unet"]).items():
        save_weights(folder / f"{name}.safetensors", away_from_zero(like), MICRO.header(name))
    return folder


def micro(folder: Path, name: str = "bsr") -> ConfigDict:
    """The tiny variant of a configuration of stage 2 for the preset `micro`; photos and weights are in `folder`.

    Validation restores nothing: tests of that ask for it.
    """
    config = importlib.import_module(f"configs.{name}").get_config("tiny")
    config.preset = "micro"
    config.weights.folder = str(folder)
    config.data.source.path = f"{folder}/photos"
    config.data.update(batch_size=BATCH, validation_size=BATCH, held_out_every=6)
    config.data.crop.size = 16
    config.train.update(SMALL | {"warmup": 0})
    config.sampling.images = 0
    return config


def get_config(spec: str) -> ConfigDict:
    """What train.py calls; `spec` is a stage, or `stage@step` to die there, or `stage@step@signal`."""
    stage, step, name = [*spec.split("@"), "", ""][:3]
    PRESETS["micro"] = MICRO
    if step:
        _die_at(int(step), signal.Signals[name or "SIGKILL"])
    return micro_config(stage)


def _die_at(last: int, number: signal.Signals) -> None:
    call = PairBatches.__call__

    def mortal(self: PairBatches, step: int) -> dict[str, np.ndarray]:
        if step == last:
            os.kill(os.getpid(), number)
            _wait_until_all_are_told()
        return call(self, step)

    PairBatches.__call__ = mortal


def _wait_until_all_are_told() -> None:
    """Of several processes, let each have got the word that one is to stop: otherwise they train on for a second or so.

    JAX says nothing of that; these are the keys of its service by which the processes choose the step to stop after.
    """
    client = distributed.global_state.client
    if client is not None:
        client.blocking_key_value_get("RECEIVED_PREEMPTION_NOTICE", 300_000)
        while (
            len(client.key_value_dir_get("PREEMPTION_CURRENT_COUNTER/"))
            < distributed.global_state.num_processes
        ):
            time.sleep(0.05)
