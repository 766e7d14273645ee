"""Known degradations as linear operators: y = A(x), with a pseudo-inverse in a known basis.

Each acts on rows, columns and colours by themselves, so a small matrix per axis describes it. The singular value
decomposition of these gives that of A (as in DDRM, Kawar et al. 2022, for separable blur). Only NumPy is imported.
"""

import functools
import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from diffbir_jax.console.errors import UserError

# Brightness (ITU-R BT.601), the gray that image programs make of RGB.
LUMA = (0.299, 0.587, 0.114)
WORDS = (
    "downN (mean of NxN pixels), gray, blur:S (Gaussian), mask:FILE (white is known), noise:S (levels of 255)"
)
# Narrower blur changes nothing, and noise below rounding to 8 bits (0.29 levels) is no noise.
ALLOWED = {"down": (2.0, 64.0), "blur": (0.1, 100.0), "noise": (0.3, 255.0)}
# Of all reductions together; more is a slip of the hand.
LARGEST_SCALE = 64
# Taps of the Gaussian reach this many standard deviations.
REACH = 4
# Steps along an axis in order: ("down", N) or ("blur", S).
Steps = tuple[tuple[str, float], ...]


class Operator(Protocol):
    """A linear degradation of images of one size, with a generalised inverse: A A+ A = A, and A A+ is symmetric."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A(x): (H, W, 3) -> (h, w, 3), for gray (h, w, 1)."""
        ...

    def inverse(self, measured: np.ndarray) -> np.ndarray:
        """A+(y): from the shape of A(x) to (H, W, 3)."""
        ...


@dataclass(frozen=True)
class Spec:
    """What the words of an operator say.

    Attributes:
        axes: steps along rows and columns.
        gray: whether only brightness is known.
        mask: path of the image of known pixels, or None.
        noise: standard deviation of the noise in y, in levels of 255.
    """

    axes: Steps = ()
    gray: bool = False
    mask: str | None = None
    noise: float = 0.0

    @property
    def scale(self) -> int:
        """Sides of x divided by those of y."""
        return int(np.prod([size for name, size in self.axes if name == "down"], dtype=int))

    @property
    def words(self) -> str:
        """The same as text that `parse` reads."""
        axes = [f"{name}{size:g}" if name == "down" else f"{name}:{size:g}" for name, size in self.axes]
        more = [("gray", self.gray), (f"mask:{self.mask}", self.mask), (f"noise:{self.noise:g}", self.noise)]
        return ",".join([*axes, *(word for word, there in more if there)])


def parse(text: str) -> Spec:
    """Read words such as "blur:1.5,down4,noise:3", in the order in which they degrade; UserError for others.

    A mask hides pixels of y, so it stands after blur and downN. noise:S tells the noise that y has, so it stands last.
    """
    spec = Spec()
    for word in text.split(","):
        if spec.noise and word.strip():
            raise UserError(
                f"operator {word.strip()} stands after noise, but noise:S is that of the photo as it is given; put "
                "noise last, with the level that is left"
            )
        spec = _with_word(spec, word.strip())
    if spec.scale > LARGEST_SCALE:
        raise UserError(f"operator {text} reduces by {spec.scale}; allowed are up to {LARGEST_SCALE} in all")
    return spec


def _with_word(spec: Spec, word: str) -> Spec:
    name, _, value = word.partition(":")
    axes = spec.axes
    if found := re.fullmatch(r"down([0-9]+)", word):
        axes = (*axes, ("down", _number(word, "down", found[1])))
    elif name == "blur" and value:
        axes = (*axes, ("blur", _number(word, "blur", value)))
    elif word == "gray" and not spec.gray:
        return Spec(axes, True, spec.mask, spec.noise)
    elif name == "noise" and value and not spec.noise:
        return Spec(axes, spec.gray, spec.mask, _number(word, "noise", value))
    elif name == "mask" and value and spec.mask is None:
        if any(step == "blur" for step, _ in axes):
            raise UserError(
                "operator mask after blur has no pseudo-inverse in closed form; leave one of them out"
            )
        return Spec(axes, spec.gray, os.path.expanduser(value), spec.noise)
    else:
        raise UserError(
            f"operator word {word!r} is unknown or given twice; allowed are {WORDS}, with commas between them"
        )
    if spec.mask is not None:
        raise UserError(f"operator {word} stands after mask, which hides pixels of y; put mask after it")
    return Spec(axes, spec.gray, spec.mask, spec.noise)


def _number(word: str, name: str, value: str) -> float:
    least, most = ALLOWED[name]
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not least <= number <= most:
        raise UserError(f"operator {word!r} has {value!r}; allowed are {least:g} to {most:g}")
    return number


class Axis(NamedTuple):
    """The singular value decomposition of a matrix along one axis, left diag(values) right^T, float64.

    Attributes:
        left: (m, k).
        values: (k,), falling for no axis in particular, at least 0.
        right: (n, k), orthonormal columns.
    """

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


@functools.lru_cache(maxsize=16)
def decompose(steps: Steps, n: int) -> Axis | None:
    """The steps on an axis of n pixels of x; None for no step. n is a multiple of all `down` together."""
    if not steps:
        return None
    if [name for name, _ in steps] == ["down"]:
        down = int(steps[0][1])
        # Rows of means do not overlap, so they are orthogonal.
        right = np.repeat(np.eye(n // down), down, axis=0) / np.sqrt(down)
        return Axis(np.eye(n // down), np.full(n // down, down**-0.5), right)
    if [name for name, _ in steps] == ["blur"]:
        basis = cosines(n)
        return Axis(basis, _gains(steps[0][1], n), basis)
    left, values, right = np.linalg.svd(matrix(steps, n), full_matrices=False)
    return Axis(left, values, right.T)


def matrix(steps: Steps, n: int) -> np.ndarray:
    """The steps as one matrix (m, n), float64."""
    whole = np.eye(n)
    for name, size in steps:
        side = len(whole)
        if name == "down":
            whole = whole.reshape(side // int(size), int(size), n).mean(axis=1)
        else:
            whole = cosines(side) * _gains(size, side) @ cosines(side).T @ whole
    return whole


@functools.lru_cache(maxsize=16)
def cosines(n: int) -> np.ndarray:
    """The orthonormal cosine basis (DCT-II), (n, n), a function per column.

    A symmetric blur of an image that is mirrored at its borders is diagonal in it. A circular blur would be diagonal in
    Fourier's basis, but mixes opposite borders of a photo.
    """
    angles = np.pi * (np.arange(n)[:, None] + 0.5) * np.arange(n) / n
    scale = np.where(np.arange(n) == 0, 1.0, np.sqrt(2.0)) / np.sqrt(n)
    return np.cos(angles) * scale


def _gains(deviation: float, n: int) -> np.ndarray:
    """What a Gaussian of this standard deviation leaves of each function of `cosines`, (n,); at least 0."""
    taps = np.arange(-int(np.ceil(REACH * deviation)), int(np.ceil(REACH * deviation)) + 1)
    kernel = np.exp(-(taps**2) / (2 * deviation**2))
    gains = np.cos(np.pi * np.arange(n)[:, None] / n * taps) @ kernel / kernel.sum()
    return np.where(gains > 0, gains, 0.0)


class Basis(NamedTuple):
    """The directions of x that y knows; arrays of NumPy or JAX.

    Attributes:
        rows: (H, K) orthonormal, or None: all rows.
        columns: (W, L) orthonormal, or None: all columns.
        colours: (3, C) that measures a colour and (C, 3) that puts it back, or None: all colours.
    """

    rows: Any
    columns: Any
    colours: tuple[Any, Any] | None


def analyse(basis: Basis, image: Any) -> Any:
    """The coefficients (K, L, C) of an image (H, W, 3)."""
    if basis.colours is not None:
        image = image @ basis.colours[0]
    return _along(_along(image, basis.rows, 0), basis.columns, 1)


def synthesise(basis: Basis, coefficients: Any) -> Any:
    """The image (H, W, 3) of coefficients (K, L, C)."""
    rows, columns = (None if axis is None else axis.T for axis in (basis.rows, basis.columns))
    image = _along(_along(coefficients, rows, 0), columns, 1)
    return image if basis.colours is None else image @ basis.colours[1]


def _along(image: Any, axis: Any, place: int) -> Any:
    """Multiply the transposed matrix (n, k) into an axis of (H, W, C)."""
    if axis is None:
        return image
    height, width, channels = image.shape
    if place == 0:
        return (axis.T @ image.reshape(height, -1)).reshape(-1, width, channels)
    return axis.T @ image


class Measured(NamedTuple):
    """What y says of x, in the basis of the operator; float32, of NumPy for one image, of JAX with an axis B before.

    Attributes:
        basis: the directions that y knows.
        data: (K, L, C), their coefficients.
        known: (K, L, 1), 1 for coefficients that y holds, 0 for those that are lost in rounding or hidden.
        values: (K, L, 1), singular values.
        deviation: (), of the noise in y, in units of x.
    """

    basis: Basis
    data: Any
    known: Any
    values: Any
    deviation: Any


def project(measured: Measured, image: Any, weight: Any) -> Any:
    """A+ y + (I - A+ A) x for weight 1 (DDNM, Wang et al. 2022, equation 13), each coefficient by its weight.

    Args:
        measured: y.
        image: x, (H, W, 3).
        weight: (K, L, 1) in [0, 1].
    """
    return image + synthesise(measured.basis, weight * (measured.data - analyse(measured.basis, image)))


@dataclass(frozen=True, eq=False)
class Separable:
    """An `Operator` on images of one size.

    Attributes:
        spec: what it does.
        sides: height and width of x, multiples of `spec.scale`.
        mask: (h, w) bool of y, where it is known; None: everywhere.
        least: singular values up to this share of the largest count as 0 in the inverse.
    """

    spec: Spec
    sides: tuple[int, int]
    mask: np.ndarray | None = None
    least: float = 1e-10

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """See `Operator`."""
        left, values, right = self._parts()
        measured = synthesise(left, values * analyse(right, image))
        return measured if self.mask is None else measured * self.mask[..., None]

    def inverse(self, measured: np.ndarray) -> np.ndarray:
        """See `Operator`."""
        return synthesise(self._parts()[2], self.known * self.coefficients(measured))

    @property
    def known(self) -> np.ndarray:
        """Which coefficients y holds, (K, L, 1) of 0 and 1."""
        values = self._parts()[1]
        known = values > self.least * values.max()
        # Without blur a coefficient is a pixel of y.
        return (known if self.mask is None else known & self.mask[..., None]).astype(np.float64)

    def coefficients(self, measured: np.ndarray) -> np.ndarray:
        """The coefficients of x that y (h, w, C) tells, (K, L, C); 0 where the singular value is."""
        left, values, _ = self._parts()
        found = analyse(left, measured)
        return np.divide(found, values, out=np.zeros(found.shape), where=values > 0)

    def measure(self, measured: np.ndarray) -> Measured:
        """What y (h, w, C), in [-1, 1], says of x in [-1, 1]."""
        _, values, right = self._parts()
        known = self.known
        data = _single(known * self.coefficients(measured))
        deviation = _single(np.array(2 * self.spec.noise / 255))
        colours = None if right.colours is None else (_single(right.colours[0]), _single(right.colours[1]))
        rows, columns = (None if axis is None else _single(axis) for axis in right[:2])
        return Measured(Basis(rows, columns, colours), data, _single(known), _single(values), deviation)

    def _parts(self) -> tuple[Basis, np.ndarray, Basis]:
        """The basis of y, the singular values (K, L, 1), and the basis of x."""
        rows, columns = (decompose(self.spec.axes, side) for side in self.sides)
        # A gray of luma that is put back as equal channels keeps the colours that x has (its Cb and Cr).
        colours = (np.array(LUMA)[:, None], np.ones((1, 3))) if self.spec.gray else None
        if rows is None or columns is None:
            return Basis(None, None, None), np.ones((*self.sides, 1)), Basis(None, None, colours)
        values = np.outer(rows.values, columns.values)[..., None]
        return Basis(rows.left, columns.left, None), values, Basis(rows.right, columns.right, colours)


def _single(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)
