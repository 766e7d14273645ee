"""Statistics of an image that show how it was degraded. They have no parameters; `degradation.py` reads them.

JPEG rounds the coefficients of 8x8 blocks to multiples of a table's steps: histograms of coefficients have a comb, and
the table of each quality is known. Noise is what a high-pass leaves in the flattest blocks. Blur and enlarging cut the
spectrum, and enlarging leaves a period in second differences (Gallagher 2005).
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

BLOCK = 8
# The table of luma of the JPEG standard (ITU-T T.81, Annex K), which libjpeg scales by the quality.
LUMA = np.array(
    (
        (16, 11, 10, 16, 24, 40, 51, 61),
        (12, 12, 14, 19, 26, 58, 60, 55),
        (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62),
        (18, 22, 37, 56, 68, 109, 103, 77),
        (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101),
        (72, 92, 95, 98, 112, 100, 103, 99),
    )
)
QUALITIES = tuple(range(22, 101, 2))
# Coefficients (row + column) that combs are looked for in: higher ones are mostly 0. The split into two groups.
HIGHEST, LOW = 6, 2
PERCENTILES = (2.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0)
EDGES = (2.0, 5.0, 12.0, 25.0, 50.0, 90.0)
DISTANCES = (1, 2, 4, 8)
WINDOW, BINS = 32, 16
FREQUENCIES = np.linspace(0.02, 0.5, 49)


def features(image: Array) -> Array:
    """Return the statistics of images: (B, H, W, 3) RGB of 0 to 255 -> (B, F) float32.

    The sides are multiples of 16 and at least 64. The first pixel is the corner of a JPEG block, as in a file.
    """
    planes = ycc(image.astype(jnp.float32))
    luma = planes[..., 0]
    parts = (
        comb_scores(dct(luma)),
        coefficient_sizes(dct(luma)),
        block_borders(luma),
        *(flattest(halved(planes, times)) for times in range(3)),
        spectrum(luma),
        edges(luma),
        periods(luma),
        brightness(planes),
    )
    return jnp.concatenate(parts, axis=-1)


def ycc(image: Array) -> Array:
    """RGB -> luma and two chroma channels, all of the scale of the input: (..., 3)."""
    matrix = np.array(((0.299, -0.168736, 0.5), (0.587, -0.331264, -0.418688), (0.114, 0.5, -0.081312)))
    return image @ matrix.astype(np.float32)


def table(quality: int) -> np.ndarray:
    """The steps of luma that libjpeg takes for a quality (1 to 100): (8, 8)."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return np.clip((LUMA * int(percent) + 50) // 100, 1, 255)


def dct(luma: Array) -> Array:
    """The coefficients of 8x8 blocks, as JPEG's: (B, H, W) -> (B, blocks, 8, 8)."""
    k, n = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    basis = np.cos((2 * n + 1) * k * np.pi / 16) * np.sqrt(np.where(k == 0, 1, 2) / BLOCK)
    basis = basis.astype(np.float32)
    batch, height, width = luma.shape
    blocks = (luma - 128.0).reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    found = jnp.einsum("ki,bhiwj,lj->bhwkl", basis, blocks, basis)
    return found.reshape(batch, -1, BLOCK, BLOCK)


def comb_scores(coefficients: Array) -> Array:
    """How well coefficients fit the comb of each quality, low and other frequencies apart: (B, 2 qualities).

    Zeros fit every comb, so only coefficients beyond half a step count.
    """
    order = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
    found = []
    for least, most in ((0, LOW), (LOW + 1, HIGHEST)):
        rows, columns = np.nonzero((order >= least) & (order <= most))
        c = coefficients[:, :, rows, columns][:, None]
        steps = np.stack([table(quality)[rows, columns] for quality in QUALITIES]).astype(np.float32)
        steps = steps[None, :, None]
        ratio = c / steps
        # 1 at multiples, -1 in the middle between them: cheaper than a cosine.
        fit = 1.0 - 4.0 * jnp.abs(ratio - jnp.round(ratio))
        weight = (jnp.abs(ratio) > 0.6).astype(jnp.float32)
        found.append((weight * fit).sum((2, 3)) / (weight.sum((2, 3)) + 2.0))
    return jnp.concatenate(found, axis=-1)


def coefficient_sizes(coefficients: Array) -> Array:
    """For each coefficient the logarithm of its mean size, and how often it is about 0: (B, 128)."""
    size = jnp.abs(coefficients)
    means, zeros = jnp.log(size.mean(1) + 0.05), (size < 0.9).mean(1)
    return jnp.concatenate([means.reshape(len(size), -1), zeros.reshape(len(size), -1)], axis=-1)


def block_borders(luma: Array) -> Array:
    """Mean second differences by position in a block of 16 pixels, relative to all: (B, 32)."""
    found = []
    for x in (luma, luma.swapaxes(1, 2)):
        second = jnp.abs(x[:, :, :-3] - 3 * x[:, :, 1:-2] + 3 * x[:, :, 2:-1] - x[:, :, 3:])
        second = jnp.pad(jnp.minimum(second, 40.0).mean(1), ((0, 0), (1, 2)), mode="edge")
        phases = second.reshape(len(x), -1, 2 * BLOCK).mean(1)
        found.append(jnp.log((phases + 0.02) / (phases.mean(-1, keepdims=True) + 0.02)))
    return jnp.concatenate(found, axis=-1)


def halved(planes: Array, times: int) -> Array:
    """Means over 2x2 pixels, repeated: (B, H, W, C) -> (B, H / 2^times, W / 2^times, C)."""
    side = 2**times
    batch, height, width, channels = planes.shape
    return planes.reshape(batch, height // side, side, width // side, side, channels).mean((2, 4))


def flattest(planes: Array) -> Array:
    """Percentiles over blocks of 4x4 pixels of what a high-pass leaves, of each channel: (B, 21), logarithms.

    The filter is Immerkaer's (1996), scaled so that white noise of deviation 1 keeps it.
    """
    x = planes[:, :-2] - 2 * planes[:, 1:-1] + planes[:, 2:]
    x = (x[:, :, :-2] - 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 6.0
    x = jnp.pad(jnp.abs(x), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 4, 4, width // 4, 4, channels).mean((2, 4))
    levels = jnp.percentile(x.reshape(batch, -1, channels), jnp.array(PERCENTILES), axis=1)
    return jnp.log(levels.transpose(1, 0, 2).reshape(batch, -1) + 0.05)


def spectrum(luma: Array) -> Array:
    """Logarithms of the power by frequency: over all directions, along rows and columns; means and quiet windows."""
    hop = WINDOW // 2
    starts = [range(0, side - WINDOW + 1, hop) for side in luma.shape[1:]]
    patches = jnp.stack([luma[:, i : i + WINDOW, j : j + WINDOW] for i in starts[0] for j in starts[1]], 1)
    hann = np.hanning(WINDOW + 1)[:-1]
    window = np.outer(hann, hann).astype(np.float32)[None, None]
    patches = (patches - patches.mean((2, 3), keepdims=True)) * window
    power = jnp.abs(jnp.fft.rfft2(patches)) ** 2 / np.square(window).sum()
    bands = power.reshape(*power.shape[:2], -1) @ _bands()
    levels = jnp.stack([bands.mean(1), *jnp.percentile(bands, jnp.array((20.0, 60.0)), axis=1)], 1)
    return jnp.log(levels + 0.01).reshape(len(luma), -1)


def _bands() -> np.ndarray:
    """Weights of frequencies in each band: (32 * 17, 48) float32; columns sum to 1."""
    fy, fx = np.meshgrid(np.fft.fftfreq(WINDOW), np.fft.rfftfreq(WINDOW), indexing="ij")
    radius, step = np.hypot(fy, fx), 0.5 / BINS
    near = np.abs
    masks = [(radius > i * step) & (radius <= (i + 1) * step * 1.0001) for i in range(BINS)]
    for along, across in ((fx, fy), (fy, fx)):
        masks += [
            (near(along) > i * step)
            & (near(along) <= (i + 1) * step * 1.0001)
            & (near(across) < 2.5 / WINDOW)
            for i in range(BINS)
        ]
    weights = np.stack([mask.reshape(-1) / mask.sum() for mask in masks], axis=-1)
    return weights.astype(np.float32)


def edges(luma: Array) -> Array:
    """How often pixels differ by more than some levels, over some distances, logarithms: (B, 80).

    These are the edges: their height over 8 pixels, and how much of it lies between neighbours.
    """
    found = []
    for distance in DISTANCES:
        for x in (luma, luma.swapaxes(1, 2)):
            change = jnp.abs(x[:, :, distance:] - x[:, :, :-distance])
            shares = [(change > level).mean((1, 2)) for level in EDGES]
            found.append(jnp.log(jnp.stack(shares, axis=-1) + 1e-3))
    return jnp.concatenate(found, axis=-1)


def periods(luma: Array) -> Array:
    """How second differences repeat along rows and columns, by frequency: (B, 98), logarithms."""
    found = []
    for x in (luma, luma.swapaxes(1, 2)):
        second = jnp.minimum(jnp.abs(x[:, :, :-2] - 2 * x[:, :, 1:-1] + x[:, :, 2:]), 30.0).mean(1)
        profile = second / (second.mean(-1, keepdims=True) + 0.05) - 1.0
        angles = 2 * np.pi * np.arange(second.shape[-1])[:, None] * FREQUENCIES
        window = np.hanning(second.shape[-1])[:, None] / second.shape[-1] * 2
        waves = [(wave(angles) * window).astype(np.float32) for wave in (np.cos, np.sin)]
        both = jnp.stack([profile @ wave for wave in waves])
        found.append(jnp.log(jnp.sqrt(jnp.square(both).sum(0)) + 0.003))
    return jnp.concatenate(found, axis=-1)


def brightness(planes: Array) -> Array:
    """Mean, deviation and clipped shares of luma, deviations of chroma, and the size: (B, 7)."""
    flat = planes.reshape(len(planes), -1, 3)
    luma = flat[..., 0]
    numbers = [luma.mean(1) / 128, jnp.log(luma.std(1) + 1), (luma < 3).mean(1), (luma > 252).mean(1)]
    size = jnp.full(len(flat), np.log(flat.shape[1]) / 10)
    return jnp.stack([*numbers, *jnp.log(flat[..., 1:].std(1) + 0.3).T, size], axis=-1)
