"""What a run tells of itself, what it keeps, and when it gives up: the loop with one parameter."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from diffbir_jax.training import loop, speed
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.divergence import ENOUGH, DivergedError, LossGuard
from diffbir_jax.training.loop import train
from diffbir_jax.training.run import Run
from diffbir_jax.training.speed import Stopwatch, compile_step
from diffbir_jax.training.state import init_state, make_optimizer, make_step
from diffbir_jax.training.writers import JsonLines, read_lines
from tests.training.micro import micro_config
from tests.training.test_loop import toy

PICTURE = np.zeros((8, 8, 3), np.uint8)
PSNR = {2: 20.0, 4: 25.0, 6: 22.0, 8: 25.0, 10: 21.0}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """An objective whose validation rises and falls, and the type promotion that optax relies on."""

    def make(config):
        # Validation k of this run is that of step 2k.
        steps = iter(list(PSNR)[config.get("skipped", 0) :])
        return dataclasses.replace(
            toy(("nothing", 0)),
            validate=lambda *_: ({"psnr": PSNR[next(steps)]}, PICTURE),
            export=lambda ema: {"rm": ema},
        )

    monkeypatch.setattr(loop, "make_objective", make)
    with jax.numpy_dtype_promotion("standard"):
        yield


def config(**changes):
    config = micro_config("rm")
    config.preset = "tiny"
    config.train.update(
        {"steps": 10, "eval_every": 2, "checkpoint_every": 2, "keep": 1, "lr": 0.01} | changes
    )
    return config


def left(folder):
    return sorted(int(p.name) for p in folder.iterdir())


def test_lines_tell_of_every_step(tmp_path):
    train(config(peak_tflops=1e-6), tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    for line in steps:
        assert {"time", "train/grad_norm", "train/lr", "train/images_per_second"} <= line.keys()
        assert (
            0
            < line["train/step_seconds_p50"]
            <= line["train/step_seconds_p90"]
            <= line["train/step_seconds_p99"]
        )
        assert line["train/mfu"] == 0.0  # the step of this model multiplies no matrices
    assert [steps[i]["train/lr"] for i in (0, 1)] == [0.0, pytest.approx(0.01)]  # one step of warm-up
    assert {line["step"]: line["validation/psnr"] for line in lines if "validation/psnr" in line} == PSNR


@pytest.mark.parametrize(("mode", "best"), [("max", 4), ("min", 2)])
def test_the_best_is_kept_beside_the_newest(tmp_path, mode, best):
    state = train(config(keep_best=f"psnr:{mode}"), tmp_path)
    assert left(tmp_path / "checkpoints") == [10] and left(tmp_path / "best") == [best]
    with Checkpoints(tmp_path / "best") as checkpoints:
        assert int(checkpoints.restore(state).step) == best
    names = [(tmp_path / folder / "rm.safetensors").read_bytes() for folder in ("export", "export_best")]
    assert names[0] != names[1]


def test_a_resumed_run_knows_its_best(tmp_path):
    settings = config(keep_best="psnr:max", steps=4)
    train(settings, tmp_path)
    settings = config(keep_best="psnr:max", steps=10)
    settings.skipped = 2
    assert int(train(settings, tmp_path).step) == 10  # from 4, the newest
    assert left(tmp_path / "best") == [4]  # 8 is as good, no better
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl") if "train/loss" in line] == [
        *range(1, 11)
    ]
    with pytest.raises(
        ValueError, match=r"holds the best by psnr:max, config\.train\.keep_best is 'psnr:min'"
    ):
        train(config(keep_best="psnr:min"), tmp_path)


def test_a_validation_that_a_kill_prevented_is_made_up_for(tmp_path, monkeypatch):
    """And the best state is kept, as without the kill; what was done is not done again."""
    validate, calls = Run._validate, []

    def killed(run, step, state):
        if step == 4:
            raise RuntimeError("killed")
        validate(run, step, state)

    monkeypatch.setattr(Run, "_validate", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(config(keep_best="psnr:max"), tmp_path)
    assert left(tmp_path / "checkpoints")[-1] == 4 and left(tmp_path / "best") == [2]
    monkeypatch.setattr(
        Run, "_validate", lambda run, step, state: calls.append(step) or validate(run, step, state)
    )
    settings = config(keep_best="psnr:max")
    settings.skipped = 1
    train(settings, tmp_path)
    assert calls[0] == 4 and len(calls) == len(set(calls))
    assert left(tmp_path / "best") == [4]
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert {line["step"]: line["validation/psnr"] for line in lines if "validation/psnr" in line} == PSNR
    calls.clear()
    train(settings, tmp_path)
    assert not calls


def test_a_metric_that_validation_lacks(tmp_path):
    with pytest.raises(ValueError, match=r"keep_best is 'ssim:max', the validation has psnr"):
        train(config(keep_best="ssim:max"), tmp_path)


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path):
    writer = JsonLines(tmp_path, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"train/loss": float(step), "train/psnr": np.inf})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    assert json.loads(path.read_text().splitlines()[0])["train/psnr"] is None
    with path.open("a") as file:
        file.write('{"step": 4, "ti')  # a run that was killed
    writer = JsonLines(tmp_path, 2)
    writer.scalars(3, {"train/loss": 7.0})
    writer.close()
    assert [(line["step"], line["train/loss"]) for line in read_lines(path)] == [(1, 1.0), (2, 2.0), (3, 7.0)]


def test_wandb_is_told_too_and_knows_a_resumed_run(tmp_path, monkeypatch):
    calls, logged = [], []
    run = SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: calls.append("end")
    )
    fake = SimpleNamespace(
        init=lambda **settings: calls.append(settings) or run, Image=lambda image: image.shape
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(config(wandb="diffbir", steps=2), tmp_path)
    train(config(wandb="diffbir", steps=2), tmp_path)
    assert calls[0] == calls[2] and calls[1] == calls[3] == "end"
    assert calls[0]["project"] == "diffbir" and calls[0]["resume"] == "allow"
    assert (2, {"validation/psnr": 20.0}) in logged and (2, {"validation": PICTURE.shape}) in logged
    assert logged[0][0] == 1 and "train/loss" in logged[0][1]


def test_wandb_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb is 'x', but wandb is not installed: pip install wandb"):
        train(config(wandb="x"), tmp_path)


def test_steps_are_traced(tmp_path):
    train(config(profile=(3, 4)), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_the_trace_is_of_the_steps_asked_for(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(speed.jax.profiler, "start_trace", lambda folder: events.append("start"))
    monkeypatch.setattr(speed.jax.profiler, "stop_trace", lambda: events.append("stop"))
    for first, last in (
        (1, 6),
        (4, 5),
        (6, 9),
    ):  # the second resumes within the steps, the third is past them
        events.clear()
        with speed.Profiler(tmp_path, (3, 4)) as profiler:
            for step in range(first, last + 1):
                profiler.before(step)
                events.append(step)
                profiler.after(step, ())
        wanted = {1: [1, 2, "start", 3, 4, "stop", 5, 6], 4: ["start", 4, "stop", 5], 6: [6, 7, 8, 9]}
        assert events == wanted[first]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("turns", [1, 4])
def test_flops_of_a_step_are_those_of_its_products(accumulate, turns):
    """A product of (64, 64) matrices is 2 * 64^3; its gradient in one of them is as much again.

    So are those of its parts, one after the other in a loop of the loss, of the batch, or in both.
    """
    optimizer = make_optimizer(config().train)
    state = init_state({"w": jax.numpy.ones((64, 64))}, optimizer, 0)

    def loss(params, frozen, batch, key):
        parts = batch["x"].reshape(turns, -1, 64)
        return jax.lax.scan(lambda sum, x: (sum + jax.numpy.sum(x @ params["w"]), None), 0.0, parts)[0], {}

    step = jax.jit(make_step(loss, optimizer, 0.9, accumulate))
    program, flops = compile_step(step, state, {}, {"x": jax.numpy.ones((64, 64))})
    assert flops == 4 * 64**3
    assert int(program(state, {}, {"x": jax.numpy.ones((64, 64))})[0].step) == 1


def test_a_stopwatch_counts_from_reading_to_reading(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    watch = Stopwatch(batch_size=8, peak_tflops=2.0)
    assert watch.read() == {}
    now[0] = 50.0
    watch.restart(flops=1e12)  # compiling does not count
    for seconds in (1, 1, 1, 5):
        now[0] += seconds
        watch.step()
    values = watch.read()
    assert values["images_per_second"] == 4.0 and values["mfu"] == 0.25
    assert (values["step_seconds_p50"], values["step_seconds_p99"]) == (1.0, pytest.approx(4.88))
    assert watch.read() == {}


def test_utilisation_needs_a_known_peak(monkeypatch):
    monkeypatch.setattr(speed.jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    found = {}
    for kind in ("TPU v5 lite", "cpu"):
        watch = Stopwatch(1)
        watch.restart(1e9)
        watch.step()
        found[kind] = "mfu" in watch.read()
    assert found == {"TPU v5 lite": True, "cpu": False}


NORMS = {"grad_norm": 1.0, "param_norm": 1.0}


def test_a_loss_far_above_its_median_ends_the_run():
    guard = LossGuard(3.0)
    for step, loss in enumerate([1.0] * ENOUGH + [2.9, 2.0]):
        guard.check(NORMS | {"loss": loss}, step, None)
    with pytest.raises(
        DivergedError,
        match=r"loss is 3\.5, above 3 times its median 1 at step 9: the last good .* is step 7\.",
    ):
        guard.check(NORMS | {"loss": 3.5}, 9, 7)


def test_few_losses_and_no_limit_let_losses_rise():
    for limit, count in ((3.0, ENOUGH), (None, 20)):
        guard = LossGuard(limit)
        for step in range(count):
            guard.check(NORMS | {"loss": 10.0**step}, step, None)


def test_a_limit_for_losses_below_zero_is_refused():
    guard = LossGuard(3.0)
    for step in range(ENOUGH):
        guard.check(NORMS | {"loss": -1.0}, step, None)
    with pytest.raises(ValueError, match=r"3 times the median loss, which is -1: this needs losses above 0"):
        guard.check(NORMS | {"loss": -1.0}, 9, None)


def test_a_run_that_diverges_names_its_last_checkpoint(tmp_path):
    with pytest.raises(
        DivergedError, match=r"above 1\.1 times its median .* the last good checkpoint is step \d+\."
    ):
        train(config(diverged_above=1.1, lr=10.0, steps=50, eval_every=50), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diverged_above": 1.0}, r"config\.train\.diverged_above is 1\.0, must be above 1, or None"),
        ({"peak_tflops": 0.0}, r"config\.train\.peak_tflops is 0\.0, must be above 0"),
        ({"profile": (5, 3)}, r"config\.train\.profile is \(5, 3\), must be the first and the last step"),
        (
            {"keep_best": "psnr"},
            r"config\.train\.keep_best is 'psnr', must be a validation metric with :min or",
        ),
    ],
)
def test_settings_of_watching_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(config(**changes), tmp_path)
