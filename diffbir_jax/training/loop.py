"""The one train loop: every stage runs through it, with an objective of its own."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from diffbir_jax.checkpoint import Checkpoints, save_weights
from diffbir_jax.models.presets import get_preset
from diffbir_jax.sharding import batch_sharding, make_mesh, prefetch_to_device, replicated, tree_shardings
from diffbir_jax.training.best import Best
from diffbir_jax.training.distributed import is_first, local, own_rows
from diffbir_jax.training.divergence import DivergedError, LossGuard
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.training.position import position_of, resume
from diffbir_jax.training.report import Report
from diffbir_jax.training.settings import check_config
from diffbir_jax.training.speed import Profiler, Stopwatch, compile_step
from diffbir_jax.training.state import (
    Config,
    Params,
    TrainState,
    init_state,
    learning_rate,
    make_optimizer,
    make_step,
)
from diffbir_jax.training.stopping import stop_requested
from diffbir_jax.training.writers import open_writers

__all__ = ["DivergedError", "place", "train"]


def train(config: Config, workdir: str | Path) -> TrainState:
    """Train the stage that `config` describes, resuming from `workdir` if it holds a checkpoint.

    Several processes (`distributed.join`) each call it with the same configuration and `workdir`, a folder that they
    share; the first one says, logs and exports.

    Args:
        config: see configs/; `config.objective` names the stage. docs/running.md tells of settings that may be missing.
        workdir: folder of checkpoints, logs and, at the end, `export/*.safetensors` (EMA weights).

    Returns:
        The state after the last step, or after the step at which Ctrl-C stopped it.

    Raises:
        DivergedError: if the loss or a parameter becomes NaN or infinite, or the loss rises far above its median; the
            message names the last good checkpoint, which holds finite numbers only.
        DataError: if the data cannot be used: too many examples are broken, or one failed.
        ValueError: if a setting is not allowed, or the checkpoint is of another model or of other data.
    """
    check_config(config)
    workdir, opts = Path(workdir).expanduser(), config.train
    workdir.mkdir(parents=True, exist_ok=True)
    objective = make_objective(config)
    data = objective.batches
    mesh = make_mesh(**config.mesh)
    state, step_fn = place(objective, mesh, config)
    frozen = jax.device_put(objective.frozen, replicated(mesh))
    last, size = int(opts.steps), _count(objective.params)
    rate, guard, pending = learning_rate(opts), LossGuard(opts.get("diverged_above")), None

    with ExitStack() as stack:
        stop = stack.enter_context(stop_requested())
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", opts.keep))
        rule = opts.get("keep_best")
        best = stack.enter_context(Best(workdir / "best", rule)) if rule else None
        saved = checkpoints.latest
        if saved is not None:
            resume(data, checkpoints.position())
            state = checkpoints.restore(state)
        first = int(state.step)
        report = stack.enter_context(_open_report(workdir, first, config))
        profiler = stack.enter_context(
            Profiler(workdir / "profile", opts.get("profile") if is_first() else None)
        )
        batches = stack.enter_context(closing(data.iterate(first, last)))
        report.say(f"{config.objective}: {size:,} trainable parameters, step {first} of {last}")
        parts = (own_rows(batch, config.data.batch_size) for batch in batches)
        for step, batch in enumerate(prefetch_to_device(parts, mesh), start=first + 1):
            if step == first + 1:
                step_fn, flops = compile_step(step_fn, state, frozen, batch)
                report.clock.restart(flops)
            profiler.before(step)
            state, metrics = step_fn(state, frozen, batch)
            # One step is worked on and the next one waits: what the clock sees are steps, not their dispatch.
            jax.block_until_ready(pending)
            pending = metrics
            profiler.after(step, metrics)
            report.advance()
            report.broken(data.broken)
            stopped = stop(step)
            due = step % opts.checkpoint_every == 0 or step == last or stopped
            if step % opts.log_every == 0 or due:
                values = {name: float(value) for name, value in metrics.items()}
                guard.check(values, step, saved)
                report.scalars(step, values | {"lr": float(np.asarray(rate(step - 1)))})
            if due:
                checkpoints.save(step, state, position_of(data, step))
                saved = step
            if step % opts.eval_every == 0 or step == last:
                values = _validate(objective, local(state.ema, mesh), local(frozen, mesh), step, report)
                if best is not None:
                    best.offer(state, values)
                report.clock.restart()
            if stopped:
                report.say(f"stopped and saved at step {step}: run the same command again to go on.")
                break
        if int(state.step) >= last:
            _export(objective, local(state.ema, mesh), int(state.step), workdir / "export", config)
            if best is not None and best.checkpoints.latest is not None:
                kept = best.checkpoints.restore(state)
                _export(objective, local(kept.ema, mesh), int(kept.step), workdir / "export_best", config)
    return state


def place(objective: Objective, mesh: Mesh, config: Config) -> tuple[TrainState, Callable]:
    """Place a run on devices: batches over all of them, parameters and what is shaped like them by the rules.

    Args:
        objective: the stage.
        mesh: the devices.
        config: `train`, `seed` and `sharding_rules`.

    Returns:
        The state before the first step, and the jitted step (state, frozen, batch) -> (state, metrics). It donates the
        state.
    """
    optimizer = make_optimizer(config.train)
    state = init_state(objective.params, optimizer, config.seed)
    shardings = tree_shardings(state, mesh, config.sharding_rules)
    step = jax.jit(
        make_step(objective.loss, optimizer, config.train.ema_decay, config.train.accumulate),
        in_shardings=(shardings, replicated(mesh), batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return jax.device_put(state, shardings), step


def _open_report(workdir: Path, first: int, config: Config) -> Report:
    """The report of the first process; the others' are silent."""
    options = config.train
    writers = open_writers(workdir, first, options.get("wandb")) if is_first() else []
    clock = Stopwatch(config.data.batch_size, options.get("peak_tflops"))
    return Report(workdir, first, options.steps, clock, writers)


def _validate(
    objective: Objective, ema: Params, frozen: Params, step: int, report: Report
) -> dict[str, float]:
    values, grid = objective.validate(ema, frozen)
    report.scalars(step, values, "validation")
    report.grid(step, grid)
    report.say(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
    return values


def _export(objective: Objective, ema: Params, step: int, folder: Path, config: Config) -> None:
    """Write the weights files of `step`."""
    if not is_first():
        return
    metadata = {
        "preset": config.preset,
        "objective": config.objective,
        "step": str(step),
    } | objective.metadata
    preset = get_preset(config.preset)
    for name, params in objective.export(ema).items():
        save_weights(folder / f"{name}.safetensors", params, metadata | preset.header(name))


def _count(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
