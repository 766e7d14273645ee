"""When a run is lost: numbers that are not finite, and losses far above what they were."""

from collections import deque

import numpy as np

from diffbir_jax.console.errors import UserError

# Losses at log lines: the median is of the last so many, and says something from so many on.
WINDOW, ENOUGH = 100, 5


class DivergedError(RuntimeError):
    """The loss is not finite any more, or far above what it was."""


class LossGuard:
    """Looks at the metrics of a run before they are logged or saved."""

    def __init__(self, above: float | None):
        """Allow losses up to `above` times the running median; None allows all that are finite."""
        self._above, self._losses = above, deque[float](maxlen=WINDOW)

    def check(self, values: dict[str, float], step: int, saved: int | None) -> None:
        """Check the metrics of `step`.

        Beside the loss, the norms tell whether the parameters after the step are finite, which the loss cannot.

        Args:
            values: `loss`, `grad_norm` and `param_norm` among them.
            step: for the message.
            saved: step of the last checkpoint.

        Raises:
            DivergedError: the run is lost; the message names the last good checkpoint.
            ValueError: the median is not positive, so that a multiple of it is no limit.
        """
        bad = [
            f"{k} is {values[k]}" for k in ("loss", "grad_norm", "param_norm") if not np.isfinite(values[k])
        ]
        bad = bad or self._too_high(values["loss"])
        if bad:
            good = "no checkpoint was saved" if saved is None else f"the last good checkpoint is step {saved}"
            raise DivergedError(
                f"{', '.join(bad)} at step {step}: {good}. Lower config.train.lr or config.train.clip."
            )

    def _too_high(self, loss: float) -> list[str]:
        """What is wrong with a finite loss, which then counts towards the median."""
        if self._above is None:
            return []
        median = float(np.median(self._losses)) if len(self._losses) >= ENOUGH else None
        self._losses.append(loss)
        if median is None:
            return []
        if median <= 0:
            raise UserError(
                f"config.train.diverged_above is {self._above:g} times the median loss, which is {median:.4g}: this "
                "needs losses above 0, set it to None"
            )
        limit = self._above * median
        return (
            [f"loss is {loss:.4g}, above {self._above:g} times its median {median:.4g}"]
            if loss > limit
            else []
        )
