"""Detection of divergence: numbers that are not finite, and losses far above their median."""

from collections import deque

import numpy as np

from diffbir_jax.console.errors import UserError

# The median is that of the last WINDOW losses at log lines; it is used once there are ENOUGH of them.
WINDOW, ENOUGH = 100, 5


class DivergedError(RuntimeError):
    """The loss is no longer finite, or it is far above its median."""


class LossGuard:
    """Checks the metrics of a run before they are logged and before a checkpoint is saved."""

    def __init__(self, above: float | None):
        """Allow losses up to `above` times the running median; None allows any finite loss."""
        self._above, self._losses = above, deque[float](maxlen=WINDOW)

    def check(self, values: dict[str, float], step: int, saved: int | None) -> None:
        """Check the metrics of `step`.

        The loss belongs to the parameters before the step. Only the norms tell whether those after it are finite.

        Args:
            values: metrics with at least `loss`, `grad_norm` and `param_norm`.
            step: the step, for the message.
            saved: step of the last checkpoint.

        Raises:
            DivergedError: the run is lost; the message names the last good checkpoint.
            ValueError: the median is not positive, so a multiple of it is not a limit.
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
        """Return a message if a finite loss is above the limit; then add the loss to the window of the median."""
        # The median ignores single spikes, which a mean would follow.
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
