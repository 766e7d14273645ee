"""The work between training steps: check and log metrics, save checkpoints, validate and export."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.best import Best
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.distributed import agreed, is_first, local
from diffbir_jax.training.divergence import LossGuard
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.position import position_of
from diffbir_jax.training.report import Report
from diffbir_jax.training.state import Params, TrainState, learning_rate
from diffbir_jax.training.writers import EXPORT, Line
from diffbir_jax.weights.safetensors import save_weights


@dataclass
class Run:
    """A run, without its state.

    Attributes:
        config: see configs/.
        objective: the stage.
        mesh: the devices.
        frozen: the objective's frozen parameters, on all devices.
        checkpoints: the newest ones.
        best: the best checkpoint, if the config asks for it.
        report: receives metrics and pictures.
        saved: step of the last checkpoint.
    """

    config: Config
    objective: Objective
    mesh: Mesh
    frozen: Params
    checkpoints: Checkpoints
    best: Best | None
    report: Report
    saved: int | None
    _guard: LossGuard = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._guard = LossGuard(optional(self.config.train, "train.diverged_above"))

    def after(self, step: int, state: TrainState, metrics: dict[str, jax.Array], stopped: bool) -> None:
        """Log, save and validate at the steps where each is due.

        Args:
            step: the number of steps that led to `state`.
            state: the state; it is saved, and its EMA is validated.
            metrics: metrics of the step; on a log line this waits for their values.
            stopped: whether the run stops after this step.

        Raises:
            DivergedError: the run has diverged; its state is not saved.
        """
        options = self.config.train
        last = step == options.steps
        due = last or stopped or step % options.checkpoint_every == 0
        # Log before saving: the check of the metrics keeps a diverged state out of the checkpoints.
        if due or step % options.log_every == 0:
            self._log(step, metrics)
        if due:
            self.checkpoints.save(step, state, position_of(self.objective.batches, step))
            self.saved = step
        if last or step % options.eval_every == 0:
            self._validate(step, state)

    def catch_up(self, step: int, state: TrainState, lines: Sequence[Line]) -> None:
        """Validate the state that a run resumes from, if it was killed between saving and validating it.

        Args:
            step: of the state.
            state: the state.
            lines: of metrics.jsonl so far.
        """
        options = self.config.train
        due = step == options.steps or (step and step % options.eval_every == 0)
        named = [name for line in lines if line["step"] == step for name in line]
        done = any(name.startswith("validation/") for name in named)
        if agreed(float(due and not done)):
            self._validate(step, state)

    def export(self, state: TrainState, workdir: Path) -> None:
        """Write the weights of `state` to `workdir`/export, and of the best checkpoint to `workdir`/export_best."""
        self._write(state, workdir / EXPORT)
        if self.best is not None and self.best.checkpoints.latest is not None:
            self._write(self.best.checkpoints.restore(state), workdir / "export_best")

    def _log(self, step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        self._guard.check(values, step, self.saved)
        # optax counts from 0: the first update uses the rate at 0.
        rate = learning_rate(self.config.train)(step - 1)
        self.report.scalars(step, values | {"lr": float(np.asarray(rate))})

    def _validate(self, step: int, state: TrainState) -> None:
        ema, frozen = (local(tree, self.mesh) for tree in (state.ema, self.frozen))
        # The EMA, because it is what the run exports.
        with self.report.doing("validating"):
            values, grid = self.objective.validate(ema, frozen)
        # The best state is on the disk before the line that says that this validation was done, see `catch_up`.
        if self.best is not None:
            self.best.offer(state, values)
        self.report.scalars(step, values, "validation")
        self.report.grid(step, grid)
        self.report.say(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
        # Validation takes longer than a step and must not count as one.
        self.report.clock.restart()

    def _write(self, state: TrainState, folder: Path) -> None:
        """Write the weights files of `state`; all processes must call it, but only the first one writes."""
        ema = local(state.ema, self.mesh)
        if not is_first():
            return
        preset = get_preset(self.config.preset)
        said = {
            "preset": self.config.preset,
            "objective": self.config.objective,
            "step": str(int(state.step)),
        }
        for name, params in self.objective.export(ema).items():
            header = (
                said | self.objective.metadata | self.objective.headers.get(name, {}) | preset.header(name)
            )
            save_weights(folder / f"{name}.safetensors", params, header)
