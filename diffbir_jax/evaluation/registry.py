"""The metrics by name, and the groups of names in flags."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.parser import nearest
from diffbir_jax.evaluation.faces import FACES
from diffbir_jax.evaluation.identity import IDENTITY
from diffbir_jax.evaluation.learned import LEARNED
from diffbir_jax.evaluation.metric import Metric, Setup
from diffbir_jax.evaluation.pyiqa_bridge import PYIQA
from diffbir_jax.metrics.detail import local_energy_correlation, spectral_distance
from diffbir_jax.metrics.fidelity import psnr, ssim
from diffbir_jax.metrics.multiscale import ms_ssim
from diffbir_jax.metrics.niqe import niqe
from diffbir_jax.metrics.spread import local_deviation

Pairwise = Callable[[np.ndarray, np.ndarray], float]


def _psnr(setup: Setup, y_only: bool) -> Pairwise:
    def score(image: np.ndarray, reference: np.ndarray) -> float:
        value = psnr(image, reference, y_only=y_only, crop=setup.crop)
        # A mean with infinity would say nothing, so the image is reported as a problem.
        if value == float("inf"):
            raise UserError("identical images" + " in Y" * y_only)
        return value

    return score


def _ssim(setup: Setup, y_only: bool) -> Pairwise:
    return partial(ssim, y_only=y_only, crop=setup.crop)


PLAIN = (
    Metric("psnr", "PSNR", "reference", "higher", partial(_psnr, y_only=False), cropped=True),
    Metric("ssim", "SSIM", "reference", "higher", partial(_ssim, y_only=False), cropped=True),
    Metric("psnr_y", "PSNR-Y", "reference", "higher", partial(_psnr, y_only=True), cropped=True),
    Metric("ssim_y", "SSIM-Y", "reference", "higher", partial(_ssim, y_only=True), cropped=True),
    Metric("ms_ssim", "MS-SSIM", "reference", "higher", lambda _: ms_ssim),
    Metric("spectral", "Spectral", "reference", "lower", lambda _: spectral_distance),
    Metric("energy", "Energy", "reference", "higher", lambda _: local_energy_correlation),
    Metric("niqe", "NIQE", "single", "lower", lambda _: niqe),
    Metric("lstd", "L-STD", "spread", "lower", lambda _: local_deviation),
)
METRICS = {metric.name: metric for metric in (*PLAIN, *LEARNED, *PYIQA, *IDENTITY, *FACES)}
# "fast" needs neither weights nor several results per image.
GROUPS = {"fast": tuple(m.name for m in PLAIN if m.kind != "spread"), "all": tuple(METRICS)}


def select(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return metrics by their names or those of groups, each once, in the given order.

    Raises:
        ValueError: a name is neither a metric nor a group, or there is no name.
    """
    given: Sequence[str] = list(names)
    if unknown := [name for name in given if name not in METRICS and name not in GROUPS]:
        near = nearest(unknown[0], [*METRICS, *GROUPS]) if len(unknown) == 1 else None
        allowed = f"allowed are {', '.join(METRICS)}; or groups: {', '.join(GROUPS)}"
        told = f"did you mean {near}?" if near else allowed
        raise UserError(f"no such metric: {', '.join(unknown)}; {told}")
    if not given:
        raise UserError(f"no metric given; allowed are {', '.join(METRICS)}; or groups: {', '.join(GROUPS)}")
    wanted = [each for name in given for each in GROUPS.get(name, (name,))]
    # A group and one of its metrics may both be named.
    return tuple(METRICS[name] for name in dict.fromkeys(wanted))
