"""The checkpoint of the best validation. It has its own folder, so rotation of the newest ones does not delete it."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from diffbir_jax.console.errors import UserError
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.distributed import agreed
from diffbir_jax.training.state import TrainState


class Best:
    """Keeps the state with the best value of one validation metric; a context that closes itself."""

    def __init__(self, folder: Path, rule: str):
        """Open `folder` and continue from the best value stored there.

        Args:
            folder: folder of the best checkpoint.
            rule: NAME:min or NAME:max, NAME being a validation metric.

        Raises:
            ValueError: the folder holds the best checkpoint by another rule.
        """
        self._rule, self._folder = rule, folder
        self._name, _, mode = rule.rpartition(":")
        self._sign = 1.0 if mode == "max" else -1.0
        self.checkpoints = Checkpoints(folder, keep=1)
        try:
            self._value = self._stored()
        except (OSError, ValueError):
            # __exit__ does not run when __init__ fails, and Orbax has open threads.
            self.checkpoints.close()
            raise

    def __enter__(self) -> "Best":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.checkpoints.close()

    def offer(self, state: TrainState, values: Mapping[str, float]) -> bool:
        """Save `state` if its validation `values` are the best so far; return whether they are.

        Raises:
            ValueError: the validation does not report the rule's metric.
        """
        if self._name not in values:
            raise UserError(
                f"config.train.keep_best is {self._rule!r}, the validation has {', '.join(sorted(values))}"
            )
        # All processes save together, so all must decide by the same number.
        value = agreed(values[self._name])
        better = self._value is None or self._sign * value > self._sign * self._value
        if better:
            self._value = value
            self.checkpoints.save(int(state.step), state, {"rule": self._rule, "value": value})
            self.checkpoints.flush()
        return better

    def _stored(self) -> float | None:
        """Return the value of an earlier run's best checkpoint, or None."""
        if self.checkpoints.latest is None:
            return None
        record = self.checkpoints.position() or {}
        if record.get("rule") != self._rule:
            raise UserError(
                f"{self._folder} holds the best by {record.get('rule')}, config.train.keep_best is {self._rule!r}: set "
                "it back, or move the folder away"
            )
        return float(record["value"])
