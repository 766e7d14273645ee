import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.training import checkpoints, distributed, intact
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.distributed import gathered, own_rows
from diffbir_jax.training.loop import train
from diffbir_jax.training.report import Report
from diffbir_jax.training.speed import Stopwatch
from diffbir_jax.training.writers import read_lines
from tests.training.micro import BATCH, MICRO, make_photos, micro_config

ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    with jax.numpy_dtype_promotion("standard"):  # which optax relies on
        yield make_photos(tmp_path)


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("diffbir_jax.cli.train")


def config(folder):
    config = micro_config("rm", folder)
    config.mesh.fsdp = 2
    config.train.update(steps=STEPS, log_every=4, eval_every=STEPS)
    return config


def start(folder, spec, *flags):
    """train.py on two devices."""
    devices = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {devices}",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    settings = [
        f"--config.train.{name}={config(folder).train[name]}" for name in ("steps", "log_every", "eval_every")
    ]
    command = [
        *(sys.executable, "train.py", "--config", f"tests/training/micro.py:{spec}", "--config.mesh.fsdp=2"),
        *("--workdir", str(folder / "run"), f"--config.data.folder={folder}/photos", *settings, *flags),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


@pytest.mark.slow
def test_two_processes_stop_together_and_agree_with_one(folder):
    """One of two is told to stop; one process with four devices goes on, and ends as if it had been alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = ("--distributed", "--coordinator", address, "--hosts", "2", "--host-index")
    processes = [start(folder, spec, *flags, str(i)) for i, spec in enumerate(("rm", "rm@8@SIGTERM"))]
    (said, error), (silence, other) = (process.communicate(timeout=600) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], error + other
    assert "stopped and saved at step" in said
    assert "step" not in silence, "only the first process speaks"
    (saved,) = [int(p.name) for p in (folder / "run" / "checkpoints").iterdir()]
    assert 0 < saved < STEPS and read_lines(folder / "run" / "metrics.jsonl")[-1]["step"] == saved
    together, alone = (train(config(folder), folder / name) for name in ("run", "alone"))
    assert int(together.step) == STEPS
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert read_lines(folder / "run" / "metrics.jsonl")[-1]["step"] == STEPS


def test_processes_share_whole_batches_and_keep_parts(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    batch = {"hq": np.arange(BATCH), "lq": np.arange(BATCH) + 10}
    assert own_rows(batch, 4)["lq"].tolist() == [12, 13]
    assert own_rows(batch, 8) is batch
    with pytest.raises(ValueError, match=r"a batch of 4, config\.data\.batch_size is 6"):
        own_rows(batch, 6)
    with pytest.raises(ValueError, match="must be a multiple of 2 processes"):
        own_rows({"hq": np.zeros(3)}, 3)


def test_every_process_has_the_texts_of_all(monkeypatch):
    """They differ in length, which what JAX gathers must not."""
    data = [np.frombuffer(text.encode(), np.uint8) for text in ("Brücke", "", "a long one")]

    def allgather(x):
        if np.ndim(x) == 0:
            return np.array([len(text) for text in data])
        return np.stack([np.pad(text, (0, len(x) - len(text))) for text in data])

    assert gathered("alone") == ["alone"]
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(distributed, "process_allgather", allgather)
    assert gathered("Brücke") == ["Brücke", "", "a long one"]


@pytest.mark.parametrize("error", [None, OSError(28, "No space left", "a\nb"), KeyboardInterrupt()])
def test_a_failure_of_one_process_is_one_of_all(monkeypatch, error):
    """Nobody waits for a process that has ended: it tells the others before."""
    told = []

    def gather(text):
        told.append(text)
        return [text, "", "disk: is gone"]

    monkeypatch.setattr(distributed, "gathered", gather)
    kind = UserError if error is None else type(error)
    with pytest.raises(kind) as caught, distributed.jointly():
        if error is not None:
            raise error
    assert told == [
        {None: "", KeyboardInterrupt: "KeyboardInterrupt"}.get(error and type(error), r"a\nb: No space left")
    ]
    if error is None:
        assert str(caught.value) == "process 2 failed, and all others end with it: disk: is gone"


def test_one_process_alone_asks_nobody():
    with distributed.jointly():
        pass
    with pytest.raises(KeyError), distributed.jointly():
        raise KeyError


@pytest.mark.parametrize("first", [True, False])
def test_checkpoints_that_one_process_cannot_open(tmp_path, monkeypatch, first):
    """The first one looks for damage. The others learn what it found before they wait for Orbax."""
    told = []
    monkeypatch.setattr(checkpoints, "is_first", lambda: first)
    monkeypatch.setattr(
        distributed, "gathered", lambda text: told.append(text) or [text or "x: is no folder"]
    )
    (tmp_path / "run_checksums").touch()
    with pytest.raises(
        UserError, match="is no folder, but" if first else "^process 0 failed, .*: x: is no folder$"
    ):
        Checkpoints(tmp_path / "run")
    assert len(told) == 1 and bool(told[0]) == first


def test_processes_that_see_other_checkpoints_are_told(tmp_path, monkeypatch):
    """Such as in a work folder on the disk of each machine."""
    (tmp_path / "run" / "7").mkdir(parents=True)
    monkeypatch.setattr(intact, "gathered", lambda text: [text, "no checkpoint"])
    message = "run: process 0 sees checkpoint 7, process 1 sees no checkpoint; give a `workdir` in a folder that all"
    with pytest.raises(UserError, match=message):
        intact.check_shared(tmp_path / "run")


def test_a_checkpoint_that_one_process_cannot_read_is_told_before(tmp_path, monkeypatch):
    (tmp_path / "run" / "7" / "default").mkdir(parents=True)
    (tmp_path / "run" / "7" / "default" / "d").touch()
    intact.check_shared(tmp_path / "run")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError):
        intact.check_shared(tmp_path / "run")


@pytest.mark.parametrize(("index", "name"), [(0, "broken.txt"), (2, "broken_2.txt")])
def test_each_process_names_its_broken_examples(tmp_path, monkeypatch, capsys, index, name):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    with Report(tmp_path, 0, 9, Stopwatch(1), []) as report:
        report.broken({})
        assert not list(tmp_path.iterdir())
        report.broken({4: "4.png: is cut off"})
        report.broken({4: "4.png: is cut off", 1: "1.png: is empty"})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "4.png: is cut off\n1.png: is empty\n"
    assert not capsys.readouterr().out, "without writers it is silent"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((2, None), "--hosts and --host-index belong together"),
        ((2, 2), "--host-index is 2; allowed with --hosts 2 are 0 to 1"),
        (
            (None, None),
            r"^--distributed: nobody is there; give --coordinator HOST:PORT, --hosts and --host-index$",
        ),
    ],
)
def test_processes_that_cannot_find_together(monkeypatch, numbers, message):
    def fail(*_):
        raise RuntimeError("nobody is there\nat all")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match=message):
        distributed.join(None, *numbers)


def test_an_address_is_for_distributed_runs(script):
    args = SimpleNamespace(distributed=False, coordinator="a:1", hosts=None, host_index=None)
    with pytest.raises(ValueError, match="--host-index are for --distributed: give it, or none of them"):
        script.meet(args)
