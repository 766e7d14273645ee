"""The one train loop: every stage runs through it, with an objective of its own."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from diffbir_jax.checkpoint import Checkpoints, save_weights
from diffbir_jax.models.presets import get_preset
from diffbir_jax.sharding import batch_sharding, make_mesh, prefetch_to_device, replicated, tree_shardings
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.training.position import position_of, resume
from diffbir_jax.training.report import Report
from diffbir_jax.training.state import Config, TrainState, init_state, make_optimizer, make_step


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


@contextmanager
def stop_requested() -> Iterator[list[bool]]:
    """Turn SIGINT and SIGTERM into a flag that the loop looks at between two steps."""
    flag = [False]

    def request(signum: int, frame: object) -> None:
        flag[0] = True

    before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def train(config: Config, workdir: str | Path) -> TrainState:
    """Train the stage that `config` describes, resuming from `workdir` if it holds a checkpoint.

    Args:
        config: see configs/; `config.objective` names the stage.
        workdir: folder of checkpoints, logs and, at the end, `export/*.safetensors` (EMA weights).

    Returns:
        The state after the last step, or after the step at which Ctrl-C stopped it.

    Raises:
        DivergedError: if the loss or a parameter becomes NaN or infinite; the message names the last good checkpoint,
            which holds finite numbers only.
        DataError: if the data cannot be used: too many examples are broken, or one failed.
        ValueError: if a setting is not allowed, or the checkpoint is of another model or of other data.
    """
    _check_config(config)
    workdir, opts = Path(workdir).expanduser(), config.train
    workdir.mkdir(parents=True, exist_ok=True)
    objective = make_objective(config)
    data = objective.batches
    mesh = make_mesh(**config.mesh)
    state, step_fn = place(objective, mesh, config)
    frozen = jax.device_put(objective.frozen, replicated(mesh))
    last, size = int(opts.steps), _count(objective.params)

    with stop_requested() as stop, Checkpoints(workdir / "checkpoints", opts.keep) as checkpoints:
        saved = checkpoints.latest
        if saved is not None:
            resume(data, checkpoints.position())
            state = checkpoints.restore(state)
        first = int(state.step)
        report = Report(workdir, first, last, config.data.batch_size)
        with report, closing(data.iterate(first, last)) as batches:
            report.say(f"{config.objective}: {size:,} trainable parameters, step {first} of {last}")
            for step, batch in enumerate(prefetch_to_device(batches, mesh), start=first + 1):
                state, metrics = step_fn(state, frozen, batch)
                report.advance()
                report.broken(data.broken)
                due = step % opts.checkpoint_every == 0 or step == last or stop[0]
                if step % opts.log_every == 0 or due:
                    values = {name: float(value) for name, value in metrics.items()}
                    _check_finite(values, step, saved)
                    report.scalars(step, values)
                if due:
                    checkpoints.save(step, state, position_of(data, step))
                    saved = step
                if step % opts.eval_every == 0 or step == last:
                    _validate(objective, state, frozen, report)
                if due and stop[0]:
                    report.say(f"stopped and saved at step {step}: run the same command again to go on.")
                    break
    if int(state.step) >= last:
        _export(objective, state, workdir, config)
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


def _validate(objective: Objective, state: TrainState, frozen: dict, report: Report) -> None:
    values, grid = objective.validate(state.ema, frozen)
    report.scalars(int(state.step), values, "validation")
    report.grid(int(state.step), grid)
    report.say(f"step {int(state.step)}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))


def _check_finite(values: dict[str, float], step: int, saved: int | None) -> None:
    """Beside the loss, the norms tell whether the parameters after the step are finite, which the loss cannot."""
    bad = [f"{k} is {values[k]}" for k in ("loss", "grad_norm", "param_norm") if not np.isfinite(values[k])]
    if bad:
        good = "no checkpoint was saved" if saved is None else f"the last good checkpoint is step {saved}"
        raise DivergedError(
            f"{', '.join(bad)} at step {step}: {good}. Lower config.train.lr or config.train.clip."
        )


def _check_config(config: Config) -> None:
    """Refuse what no run can work with, all at once."""
    if "objective" not in config:
        raise ValueError(
            "this configuration describes data alone, as it names no config.objective: look at it with "
            "python -m diffbir_jax.data.preview"
        )
    options, data = config.train, config.data
    counts = {
        f"train.{k}": options[k] for k in ("steps", "log_every", "eval_every", "checkpoint_every", "keep")
    }
    counts |= {f"data.{k}": data[k] for k in ("batch_size", "validation_size")}
    shares = {"ema_decay": (options.ema_decay,), "betas": options.betas}
    problems = [f"config.{k} is {v}, must be at least 1" for k, v in counts.items() if v < 1]
    problems += [
        f"config.train.{k} is {options[k]}, must be above 0" for k in ("lr", "clip") if not options[k] > 0
    ]
    problems += [
        f"config.train.{k} is {v}, must be in [0, 1)"
        for k, v in shares.items()
        if not all(0 <= x < 1 for x in v)
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _export(objective: Objective, state: TrainState, workdir: Path, config: Config) -> None:
    metadata = {"preset": config.preset, "objective": config.objective, "step": str(int(state.step))}
    preset = get_preset(config.preset)
    for name, params in objective.export(state.ema).items():
        save_weights(workdir / "export" / f"{name}.safetensors", params, metadata | preset.header(name))


def _count(params: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
