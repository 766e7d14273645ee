"""A case: some arrays of a golden file, their computation in this package, and the tolerance."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.metrics.fidelity import psnr as image_psnr

Arrays = Mapping[str, np.ndarray]
Values = Mapping[str, jax.Array | np.ndarray]


def absolute(value: np.ndarray, golden: np.ndarray) -> float:
    """Largest difference."""
    return float(_difference(value, golden).max(initial=0.0))


def relative(value: np.ndarray, golden: np.ndarray) -> float:
    """Largest difference in units of the golden's largest value."""
    return absolute(value, golden) / float(np.abs(golden).max())


def elementwise(value: np.ndarray, golden: np.ndarray) -> float:
    """Largest relative difference of an element; where the golden is 0, the value must be 0."""
    difference = _difference(value, golden)
    with np.errstate(divide="ignore"):
        return float(np.divide(difference, np.abs(golden), where=difference != 0, out=difference).max())


def absolute_in_reach(value: np.ndarray, golden: np.ndarray) -> float:
    """Largest difference; relative to the largest value if that exceeds 1,000, where float32 has steps of 6e-5."""
    return relative(value, golden) if np.abs(golden).max() > 1000 else absolute(value, golden)


def psnr(value: np.ndarray, golden: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of images, uint8 or floats with black and white 1 apart."""
    if np.shape(value) != golden.shape or value.dtype != golden.dtype:
        raise ValueError(_misfit(value, golden))
    return image_psnr(value, golden)


@dataclass(frozen=True)
class Limit:
    """The tolerance of a value.

    Attributes:
        value: largest error, or smallest similarity.
        measure: (value, golden) -> error or similarity.
        at_least: whether `measure` is a similarity in dB.
    """

    value: float
    measure: Callable[[np.ndarray, np.ndarray], float] = relative
    at_least: bool = False

    def holds(self, error: float) -> bool:
        """Whether an error is within the limit; NaN is not."""
        return error >= self.value if self.at_least else error <= self.value

    def show(self, error: float) -> str:
        """An error, or the limit itself, for the table."""
        return f"{error:.1f} dB" if self.at_least else f"{error:.1e}"


# The tolerances stated with the golden values. Explain a miss; never relax a tolerance for it.
NETWORK = Limit(1e-4)
FULL_SIZE = Limit(1e-3)
# With eps prediction the samplers on sigma reach values of 27,000, where float32 has steps of 2e-3.
SAMPLER = Limit(1e-4, absolute_in_reach)
SCHEDULE = Limit(1e-6, absolute)
IMAGE = Limit(1e-5, absolute)
EXACT = Limit(0.0, absolute)
PIPELINE = Limit(45.0, psnr, at_least=True)


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        file: stem of the golden file.
        name: name of the case within the file.
        outputs: keys to check.
        inputs: keys that the computation reads; it gets no others.
        limit: tolerance of every output.
        compute: inputs -> {output: array in the golden's layout}; None if the package does not implement it yet.
        full_size: whether it may need gigabytes; such a case runs in its own process.
        group: replaces the file in `label`; by default the file's stem.
    """

    file: str
    name: str
    outputs: Sequence[str]
    inputs: Sequence[str] = ()
    limit: Limit = NETWORK
    compute: Callable[[Arrays], Values] | None = None
    full_size: bool = False
    group: str | None = None

    @property
    def label(self) -> str:
        """File (or group) and name; patterns select by this label."""
        return f"{self.group or self.file}:{self.name}"

    def errors(self, golden: Arrays) -> dict[str, float]:
        """Compute and compare.

        Args:
            golden: the arrays of the file.

        Returns:
            the error of each output.

        Raises:
            ValueError: the file lacks a key, the case is not implemented, or a shape is wrong.
        """
        lacking = [key for key in (*self.inputs, *self.outputs) if key not in golden]
        if lacking:
            raise ValueError(f"{self.file}.npz lacks {', '.join(lacking)}")
        if self.compute is None:
            raise ValueError(f"{self.label} is not implemented")
        # By default accelerators multiply float32 with fewer bits, which no tolerance here allows.
        with jax.default_matmul_precision("highest"):
            # Only the declared inputs are passed, so a computation cannot read its own golden.
            values = self.compute({key: golden[key] for key in self.inputs})
        if values.keys() != set(self.outputs):
            raise ValueError(f"computed {sorted(values)}, wanted {sorted(self.outputs)}")
        return {key: self.limit.measure(np.asarray(values[key]), golden[key]) for key in self.outputs}

    def worst(self, errors: Mapping[str, float]) -> tuple[str, float]:
        """Return the output with the largest error, and that error; NaN counts as the largest."""
        sign = 1.0 if self.limit.at_least else -1.0
        return min(errors.items(), key=lambda item: -np.inf if np.isnan(item[1]) else sign * item[1])


def nhwc(x: np.ndarray) -> jax.Array:
    """(..., C, H, W), PyTorch's layout, to (..., H, W, C) on the device."""
    return jnp.asarray(np.moveaxis(x, -3, -1))


def nchw(x: jax.Array | np.ndarray) -> np.ndarray:
    """(..., H, W, C) to (..., C, H, W), PyTorch's layout."""
    return np.moveaxis(np.asarray(x), -1, -3)


def matching(keys: Sequence[str], *patterns: str) -> list[str]:
    """The keys that match any of the patterns (`fnmatch`), in order."""
    return [key for key in keys if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)]


def _difference(value: np.ndarray, golden: np.ndarray) -> np.ndarray:
    if np.shape(value) != golden.shape:
        raise ValueError(_misfit(value, golden))
    # float64, so that the comparison itself does not round.
    return np.abs(np.asarray(value, np.float64) - golden)


def _misfit(value: np.ndarray, golden: np.ndarray) -> str:
    return f"the value is {value.dtype} {value.shape}, the golden {golden.dtype} {golden.shape}"
