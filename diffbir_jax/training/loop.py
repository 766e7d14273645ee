"""The train loop that all stages share; each stage brings its own objective."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import jax
from jax.sharding import Mesh
from jax.stages import Wrapped

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.files.locks import HeldError, held
from diffbir_jax.restoration.compiled import laid
from diffbir_jax.sharding import (
    batch_sharding,
    check_batch,
    make_mesh,
    prefetch_to_device,
    replicated,
    tree_shardings,
)
from diffbir_jax.training.best import Best
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.distributed import is_first, jointly, own_rows
from diffbir_jax.training.divergence import DivergedError
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.training.position import resume
from diffbir_jax.training.report import Report
from diffbir_jax.training.run import Run
from diffbir_jax.training.settings import check_config
from diffbir_jax.training.speed import Profiler, Stopwatch, compile_step
from diffbir_jax.training.starting import INIT, started
from diffbir_jax.training.state import Params, TrainState, init_state, make_optimizer, make_step
from diffbir_jax.training.stopping import stop_requested
from diffbir_jax.training.turns import by_group, make_turns
from diffbir_jax.training.writers import LINES, open_writers, read_lines

__all__ = ["DivergedError", "place", "train"]


def train(config: Config, workdir: str | Path) -> TrainState:
    """Train the stage that `config` describes, resuming from `workdir` if it holds a checkpoint.

    With several processes (`distributed.join`), each calls it with the same configuration and the same `workdir`, a
    shared folder. The first process prints, logs and exports.

    Args:
        config: see configs/; `config.objective` names the stage. docs/running.md lists the optional settings.
        workdir: folder for checkpoints, logs and, at the end, `export/*.safetensors` (EMA weights).

    Returns:
        The state after the last step, or after the step at which Ctrl-C stopped it.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C, without saving.
        DivergedError: if the loss or a parameter becomes NaN or infinite, or the loss rises far above its median; the
            message names the last good checkpoint, which holds only finite numbers.
        DataError: if the data cannot be used: too many examples are broken, or one failed.
        ValueError: if a setting is not allowed, or the checkpoint belongs to another model or to other data.
    """
    check_config(config)
    workdir = Path(workdir).expanduser()
    mesh = make_mesh(**config.mesh)
    check_batch(config.data.batch_size, mesh)
    objective = _objective(config, workdir)
    state, step = place(objective, mesh, config)
    # The objective's own copy goes: on a GPU its kernels lie in another order, so they do not share memory.
    objective = replace(objective, frozen=laid(jax.device_put(objective.frozen, replicated(mesh))))
    # The stack closes in reverse order: signals stay handled until the last checkpoint is on disk.
    with ExitStack() as stack:
        with jointly():
            if is_first():
                _only_run(stack, workdir)
        stop = stack.enter_context(stop_requested())
        run, state = _opened(stack, workdir, config, objective, mesh, state)
        profiler = stack.enter_context(_open_profiler(workdir, config))
        state = _steps(stack, run, step, state, profiler, stop)
        if int(state.step) >= config.train.steps:
            run.export(state, workdir)
    return state


def _objective(config: Config, workdir: Path) -> Objective:
    """Build the stage, from the weights of `config.init` if there are any; makes the work folder."""
    init = optional(config, INIT)
    # An error in one process must end all: the others would wait for it for ever.
    with jointly():
        workdir.mkdir(parents=True, exist_ok=True)
        objective = make_objective(config)
        return started(objective, init) if init else objective


def _opened(
    stack: ExitStack, workdir: Path, config: Config, objective: Objective, mesh: Mesh, state: TrainState
) -> tuple[Run, TrainState]:
    """Open what a run writes, and return it with its state, which may come from a checkpoint; says where it begins."""
    checkpoints, best = _open_checkpoints(stack, workdir, config)
    state = _resumed(state, checkpoints, objective.batches)
    first, saved = int(state.step), checkpoints.latest
    damaged = [*checkpoints.damaged, *(best.checkpoints.damaged if best else ())]
    lines = read_lines(workdir / LINES, damaged.append)
    report = stack.enter_context(_open_report(workdir, first, config))
    for told in damaged:
        report.say(told)
    run = Run(config, objective, mesh, objective.frozen, checkpoints, best, report, saved)
    report.say(_beginning(config, objective, first))
    if first:
        done = ", the last one: the run is finished" * (first >= config.train.steps)
        report.say(f"resumed at step {first}{done}")
        run.catch_up(first, state, lines)
    return run, state


def _beginning(config: Config, objective: Objective, first: int) -> str:
    """What a run trains, and from where."""
    start = f", starts from {objective.metadata[INIT]}" if optional(config, INIT) and not first else ""
    count, last = _count(objective.params), config.train.steps
    return f"{config.objective}: {count:,} trainable parameters, step {first} of {last}{start}"


def _steps(
    stack: ExitStack,
    run: Run,
    jitted: Wrapped,
    state: TrainState,
    profiler: Profiler,
    stop: Callable[[int], bool],
) -> TrainState:
    """Take the steps that are left, until the end or until the run is asked to stop; return the state."""
    config, batches, report = run.config, run.objective.batches, run.report
    first, pending = int(state.step), None
    whole = stack.enter_context(closing(batches.iterate(first, int(config.train.steps))))
    parts = prefetch_to_device((own_rows(batch, config.data.batch_size) for batch in whole), run.mesh)
    step_fn: Callable = jitted
    for step, batch in enumerate(parts, start=first + 1):
        if step == first + 1:
            # Compile ahead of the first call, so that the clock does not count it as a step.
            with report.doing("compiling the training step"):
                step_fn, flops = compile_step(jitted, state, run.frozen, batch)
            report.clock.restart(flops)
        profiler.before(step)
        state, metrics = step_fn(state, run.frozen, batch)
        # Steps run asynchronously. Waiting for the previous step keeps one step running and one queued, and the
        # clock measures the steps themselves, not their dispatch.
        jax.block_until_ready(pending)
        pending = metrics
        profiler.after(step, metrics)
        report.advance()
        report.broken(batches.broken)
        stopped = stop(step)
        run.after(step, state, metrics, stopped)
        if stopped:
            report.say(f"stopped and saved at step {step}: run the same command again to continue.")
            break
    return state


def place(objective: Objective, mesh: Mesh, config: Config) -> tuple[TrainState, Wrapped]:
    """Place a run on devices. Batches are split over all devices; parameters, EMA and moments by `sharding_rules`.

    Args:
        objective: the stage.
        mesh: the devices.
        config: `train`, `seed` and `sharding_rules`.

    Returns:
        The state before the first step, and the jitted step (state, frozen, batch) -> (state, metrics). The step
        donates the state.
    """
    optimizer = make_optimizer(config.train)
    options = config.train.ema_decay, config.train.accumulate
    if objective.turns:
        optimizer = by_group(optimizer, objective.turns)
        step = make_turns(objective.turns, optimizer, *options)
    else:
        step = make_step(objective.loss, optimizer, *options)
    state = init_state(objective.params, optimizer, config.seed)
    shardings = tree_shardings(state, mesh, config.sharding_rules)
    jitted = jax.jit(
        step,
        in_shardings=(shardings, replicated(mesh), batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        # Parameters, EMA and moments are updated in place; a second copy would double the memory of the
        # state.
        donate_argnums=0,
    )
    return jax.device_put(state, shardings), jitted


def _only_run(stack: ExitStack, workdir: Path) -> None:
    """Lock the work folder for this run; UserError if another process trains there."""
    try:
        stack.enter_context(held(workdir / ".lock"))
    except HeldError as error:
        raise UserError(
            f"{workdir}: process {error.owner} trains there; wait for it, or give another `workdir`"
        ) from None


def _open_checkpoints(stack: ExitStack, workdir: Path, config: Config) -> tuple[Checkpoints, Best | None]:
    """Open the newest checkpoints and, if the config asks for it, the best one."""
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", config.train.keep))
    rule = optional(config.train, "train.keep_best")
    return checkpoints, stack.enter_context(Best(workdir / "best", rule)) if rule else None


def _resumed(state: TrainState, checkpoints: Checkpoints, batches: Batches) -> TrainState:
    """Return `state`, or the newest checkpoint of an earlier run. That run's batches must be the same as `batches`."""
    if checkpoints.latest is None:
        return state
    position = checkpoints.position()
    with jointly():
        resume(batches, position)
    return checkpoints.restore(state)


def _open_report(workdir: Path, first: int, config: Config) -> Report:
    """Open the report; it is silent in all processes but the first."""
    options = config.train
    writers = (
        open_writers(workdir, first, options.steps, optional(options, "train.wandb")) if is_first() else []
    )
    clock = Stopwatch(config.data.batch_size, optional(options, "train.peak_tflops"))
    return Report(workdir, first, options.steps, clock, writers)


def _open_profiler(workdir: Path, config: Config) -> Profiler:
    return Profiler(workdir / "profile", optional(config.train, "train.profile") if is_first() else None)


def _count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
