import dataclasses
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.platform import tracing_for
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.models.restoration_unet import RestorationUNetConfig
from diffbir_jax.training import loop, rm
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.loop import DivergedError, train
from diffbir_jax.training.objective import Objective
from diffbir_jax.weights.safetensors import load_weights
from tests.models.reference import away_from_zero
from tests.training.micro import BATCH, MICRO, make_photos, make_weights, micro, micro_config

ROOT = Path(__file__).parents[2]
RUN = {"steps": 24, "checkpoint_every": 8, "log_every": 4, "eval_every": 12}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """The preset `micro`, and the type promotion that optax relies on."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    """State after 24 steps of the restoration module in one go, and the run's work folder."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setitem(PRESETS, "micro", MICRO)
        return train(config(folder), workdir), workdir


def config(folder, **changes):
    config = micro_config("rm", folder)
    config.train.update(RUN | changes)
    return config


def assert_bit_identical(state, other):
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other)):
        np.testing.assert_array_equal(a, b)


def signal_at(monkeypatch, last_step, number):
    """Let the process send itself a signal when it has done a step."""
    done = []

    def advance(report):
        done.append(report)
        if len(done) == last_step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.Report, "advance", advance)


def test_interrupted_and_resumed_run_is_bit_identical(folder, uninterrupted, tmp_path, monkeypatch, capsys):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    done = 0
    for step, number in ((7, signal.SIGTERM), (17, signal.SIGINT)):
        signal_at(monkeypatch, step - done, number)
        done = step
        assert int(train(config(folder), tmp_path).step) == step
        assert f"stopped and saved at step {step}: run the same command again" in capsys.readouterr().out
        assert not (tmp_path / "export").exists()
    monkeypatch.setattr(loop.Report, "advance", lambda report: None)
    state, workdir = uninterrupted
    assert_bit_identical(train(config(folder), tmp_path), state)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    exports = [path / "export" / "rm.safetensors" for path in (tmp_path, workdir)]
    assert_bit_identical(*(load_weights(path, state.ema) for path in exports))


def train_py(*arguments):
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = [sys.executable, "train.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_and_resumed_run_is_bit_identical(folder, uninterrupted, tmp_path):
    settings = [f"--config.train.{key}={value}" for key, value in RUN.items()]
    arguments = ["--workdir", tmp_path, f"--config.data.folder={folder}/photos", *settings]
    killed = train_py("--config", "tests/training/micro.py:rm@23", *arguments)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    # Batches are asked for five steps ahead, thus step 16 was done. Its checkpoint may not have been whole; the one
    # before was, since a checkpoint waits for the last one.
    assert left in (["8"], ["8", "16"])
    resumed = train_py("--config", "tests/training/micro.py:rm", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert f"trainable parameters, step {left[-1]} of 24" in resumed.stdout
    assert f"resumed at step {left[-1]}" in resumed.stdout
    state = uninterrupted[0]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest == 24
        assert_bit_identical(checkpoints.restore(jax.tree.map(jnp.zeros_like, state)), state)


def test_a_finished_run_is_exported_again_and_not_trained_on(folder, uninterrupted):
    state, workdir = uninterrupted
    export = workdir / "export" / "rm.safetensors"
    export.unlink()
    assert_bit_identical(train(config(folder, steps=20), workdir), state)  # fewer than were done
    assert_bit_identical(load_weights(export, state.ema), state.ema)


def test_what_a_run_leaves(folder, uninterrupted):
    workdir = uninterrupted[1]
    assert Image.open(workdir / "grid.png").size == (3 * 16, BATCH * 16)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["16", "24", "8"]
    events = b"".join(p.read_bytes() for p in (workdir / "tensorboard").iterdir())
    for name in ("train/loss", "train/psnr", "train/images_per_second", "validation/psnr_input"):
        assert name.encode() in events


def test_a_checkpoint_of_another_model_is_refused(folder, uninterrupted, monkeypatch):
    wider = dataclasses.replace(MICRO, rm=RestorationUNetConfig(channels=(8, 16), blocks=(1, 1, 1)))
    monkeypatch.setitem(PRESETS, "micro", wider)
    monkeypatch.setattr(rm, "init", lambda module, key, lq: away_from_zero(abstract(module, lq)))
    with pytest.raises(
        ValueError, match=r"(?s)24 is of another model .*give a new `workdir`.*params/down/kernel has"
    ):
        train(config(folder), uninterrupted[1])


def toy(spoil):
    """An objective of one parameter; `spoil`, (what, batch), breaks it from that batch on."""
    what, first = spoil

    class Spoiled(Batches):
        def __call__(self, step):
            if what == "photo" and step >= first:
                raise OSError("the disk is gone")
            return {
                key: np.full(4, key == what and step >= first, np.float32) for key in ("loss", "gradient")
            }

    def loss(params, frozen, batch, key):
        factor = jnp.where(batch["loss"][0] > 0, jnp.nan, 1.0)
        # The value of the root is finite at zero, its gradient is not.
        root = jnp.sqrt(0.0 * params["w"][0] + 1.0 - batch["gradient"][0])
        return factor * jnp.sum(jnp.square(params["w"])) + root, {}

    picture = np.zeros((8, 8, 3), np.uint8)
    return Objective({"w": jnp.ones(3)}, {}, loss, Spoiled(), lambda *_: ({}, picture), lambda ema: {})


@pytest.mark.parametrize(
    ("spoil", "error", "message", "saved"),
    [
        # At a step that is not looked at, between two checkpoints; at a step whose own loss is finite still.
        (
            ("loss", 16),
            DivergedError,
            r"loss is nan, .* at step 20: the last good checkpoint is step 10\. Lower",
            10,
        ),
        (
            ("gradient", 19),
            DivergedError,
            r"^grad_norm is nan, param_norm is nan at step 20: .* is step 10\.",
            10,
        ),
        (("gradient", 9), DivergedError, "at step 10: no checkpoint was saved", None),
        (("photo", 25), OSError, "the disk is gone", 20),
    ],
)
def test_what_goes_wrong_ends_the_run_and_leaves_good_checkpoints(
    tmp_path, monkeypatch, spoil, error, message, saved
):
    monkeypatch.setattr(loop, "make_objective", lambda config: toy(spoil))
    settings = config(tmp_path, steps=40, checkpoint_every=10, log_every=100, eval_every=100)
    with pytest.raises(error, match=message):
        train(settings, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest == saved


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(loop, "make_objective", lambda config: toy(("nothing", 0)))
    train(config(tmp_path, steps=1), "~/run")
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"steps": 0, "log_every": -1},
            r"train\.steps is 0, must be at least 1; config\.train\.log_every is -1",
        ),
        ({"lr": 0.0}, r"config\.train\.lr is 0\.0, must be above 0"),
        ({"clip": float("nan")}, "clip is nan, must be above 0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0\.9, 1\.0\), must be in \[0, 1\)"),
        ({"ema_decay": 1.5}, "ema_decay"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_that_do_not_divide(folder, tmp_path):
    settings = config(folder)
    settings.data.batch_size = 6
    with pytest.raises(
        ValueError, match=r"batch of 6 on 4 devices: config\.data\.batch_size must be a multiple of 4"
    ):
        train(settings, tmp_path)


def test_the_command_names_an_unknown_setting(tmp_path):
    done = train_py("--config", "configs/tiny_rm.py", "--workdir", tmp_path, "--config.train.stepz=4")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        'diffbir train: no such setting in the config: \'stepz\' Did you mean "steps" instead of "stepz"?'
    )


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("diffbir_jax.cli.train")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyboardInterrupt(), "diffbir train: stopped before the first step, so there is nothing to save."),
        (DivergedError("loss is nan"), "diffbir train: loss is nan"),
        (OSError("no\n space"), "diffbir train: no space"),
        (UserError("2 problems:\n  a\n  b"), "diffbir train: 2 problems:\n  a\n  b"),
    ],
)
def test_the_command_ends_in_a_message(script, monkeypatch, error, line):
    def fail(*_):
        raise error

    monkeypatch.setattr(script, "meet", lambda args: None)
    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(SystemExit) as end:
        script.run(None, SimpleNamespace(workdir="run"))
    assert end.value.code == line  # printed to stderr, with exit status 1


def test_a_bug_of_the_loop_keeps_its_traceback(script, monkeypatch):
    def fail(*_):
        raise ValueError("shapes (2,) and (3,)")

    monkeypatch.setattr(script, "meet", lambda args: None)
    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(ValueError, match="shapes"):
        script.run(None, SimpleNamespace(workdir="run"))


def test_the_command_says_where_photos_come_from(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "meet", lambda args: None)
    with pytest.raises(
        SystemExit,
        match=r"^diffbir train: no photo .*photos: give a folder .*build_photos\.py of the source code$",
    ):
        script.run(config(tmp_path), SimpleNamespace(workdir=str(tmp_path / "run")))


def test_frozen_kernels_lie_as_a_gpu_reads_them(folder, tmp_path, monkeypatch):
    """Only there; and the objective does not keep them in another order beside."""

    class Reached(Exception):
        """The step would be compiled next."""

    def run(_, objective, mesh, frozen, *more):
        assert objective.frozen is frozen
        raise Reached(frozen)

    monkeypatch.setattr(loop, "Run", run)
    make_weights(folder)
    orders = {}
    for platform in ("cpu", "gpu"):
        with tracing_for(platform), pytest.raises(Reached) as reached:
            train(micro(folder), tmp_path / platform)
        (frozen,) = reached.value.args
        orders[platform] = {x.format.layout.major_to_minor for x in jax.tree.leaves(frozen) if x.ndim == 4}
    assert orders == {"cpu": {(0, 1, 2, 3)}, "gpu": {(3, 2, 0, 1)}}
