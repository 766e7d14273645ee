"""What happens between the steps of a run: numbers are looked at and logged, states saved, validated and exported."""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from diffbir_jax.models.presets import get_preset
from diffbir_jax.training.best import Best
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.config import Config, optional
from diffbir_jax.training.distributed import is_first, local
from diffbir_jax.training.divergence import LossGuard
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.position import position_of
from diffbir_jax.training.report import Report
from diffbir_jax.training.state import Params, TrainState, learning_rate
from diffbir_jax.training.writers import EXPORT
from diffbir_jax.weights.safetensors import save_weights


@dataclass
class Run:
    """A run beside its state.

    Attributes:
        config: see configs/.
        objective: the stage.
        mesh: the devices.
        frozen: the objective's frozen parameters, on all devices.
        checkpoints: the newest ones.
        best: the best one, if that is asked for.
        report: where numbers and pictures go.
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
        """Log, save and validate, as far as it is time for that.

        Args:
            step: the step that led to `state`.
            state: to save, and to validate the EMA of.
            metrics: of the step; they are waited for where they are logged.
            stopped: whether this step is the last one for now.

        Raises:
            DivergedError: the run is lost; nothing of it is saved.
        """
        options = self.config.train
        last = step == options.steps
        due = last or stopped or step % options.checkpoint_every == 0
        if due or step % options.log_every == 0:
            self._log(step, metrics)
        if due:
            self.checkpoints.save(step, state, position_of(self.objective.batches, step))
            self.saved = step
        if last or step % options.eval_every == 0:
            self._validate(step, state)

    def export(self, state: TrainState, workdir: Path) -> None:
        """Write the weights of `state`, and those of the best one, into folders of `workdir`."""
        self._write(state, workdir / EXPORT)
        if self.best is not None and self.best.checkpoints.latest is not None:
            self._write(self.best.checkpoints.restore(state), workdir / "export_best")

    def _log(self, step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        self._guard.check(values, step, self.saved)
        rate = learning_rate(self.config.train)(step - 1)
        self.report.scalars(step, values | {"lr": float(np.asarray(rate))})

    def _validate(self, step: int, state: TrainState) -> None:
        ema, frozen = (local(tree, self.mesh) for tree in (state.ema, self.frozen))
        values, grid = self.objective.validate(ema, frozen)
        self.report.scalars(step, values, "validation")
        self.report.grid(step, grid)
        self.report.say(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
        if self.best is not None:
            self.best.offer(state, values)
        self.report.clock.restart()

    def _write(self, state: TrainState, folder: Path) -> None:
        """Write the weights files of `state`; all processes must call it, the first one writes."""
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
            header = said | self.objective.metadata | preset.header(name)
            save_weights(folder / f"{name}.safetensors", params, header)
