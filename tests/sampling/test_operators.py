"""Known degradations: generalised inverses, and DDNM replayed on a linear autoencoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.tiling import make_grid
from diffbir_jax.sampling.denoiser import Denoiser, DenoiserInputs
from diffbir_jax.sampling.known import Descent, Known, KnownInputs, Places, Projection, weights
from diffbir_jax.sampling.layout import make_layout
from diffbir_jax.sampling.loop import sample
from diffbir_jax.sampling.operators import Measured, Operator, Separable, Spec, matrix, parse
from diffbir_jax.sampling.samplers import SAMPLERS, make_sampler
from diffbir_jax.sampling.timesteps import Span
from tests.sampling.toy import SCHEDULES

SIDES = (8, 12)
HIDDEN = np.random.default_rng(3).random(SIDES) < 0.7
WORDS = [
    "down2",
    "down4",
    "gray",
    "blur:0.7",
    "blur:0.6,down2",
    "down2,blur:0.5",
    "gray,down4",
    "mask",
    "down2,gray,mask",
]
# An autoencoder that is a rotation of 2x2 patches: E(D(z)) = z.
ROTATION = np.linalg.qr(np.random.default_rng(7).standard_normal((12, 12)))[0].astype(np.float32)


def operator(words: str) -> Separable:
    """An operator on images of `SIDES`; "mask" stands for `HIDDEN`."""
    spec = parse(words.removesuffix("mask").strip(",") or "noise:1") if "mask" in words else parse(words)
    mask = HIDDEN[: SIDES[0] // spec.scale, : SIDES[1] // spec.scale] if "mask" in words else None
    return Separable(spec, SIDES, mask)


def dense(linear: Operator) -> np.ndarray:
    """The whole matrix of an operator, from the images of unit vectors."""
    units = np.eye(SIDES[0] * SIDES[1] * 3).reshape(-1, *SIDES, 3)
    return np.stack([linear(unit).ravel() for unit in units], axis=1)


def dense_inverse(linear: Operator, shape: tuple[int, ...]) -> np.ndarray:
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.stack([linear.inverse(unit).ravel() for unit in units], axis=1)


def encode(params: jax.Array, images: jax.Array) -> jax.Array:
    batch, height, width, _ = images.shape
    patches = images.reshape(batch, height // 2, 2, width // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(batch, height // 2, width // 2, 12) @ params


def decode(params: jax.Array, latents: jax.Array) -> jax.Array:
    batch, height, width, _ = latents.shape
    patches = (latents @ params.T).reshape(batch, height, width, 2, 2, 3)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, 3)


def toy(params: None, x: jax.Array, t: jax.Array, cond: dict) -> jax.Array:
    """A network whose output depends on latents and timestep."""
    return jnp.tanh(0.8 * x - t[:, None, None, None] / 2000)


def measured(linear: Separable, images: np.ndarray) -> Measured:
    """What the operator measures of images (B, H, W, 3)."""
    found = [linear.measure(np.asarray(linear(np.float64(image)))) for image in images]
    return jax.tree.map(lambda *arrays: jnp.asarray(np.stack(arrays)), *found)


def inputs_of(says: Measured, repeats: int = 1) -> KnownInputs:
    return KnownInputs(jnp.asarray(ROTATION), says, jnp.float32(1), jnp.int32(repeats))


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("words", WORDS)
def test_generalised_inverse(words):
    linear = operator(words)
    a = dense(linear)
    shape = linear(np.zeros((*SIDES, 3))).shape
    inverse = dense_inverse(linear, shape)
    np.testing.assert_allclose(a @ inverse @ a, a, atol=1e-9)
    np.testing.assert_allclose(a @ inverse, (a @ inverse).T, atol=1e-9)
    np.testing.assert_allclose(inverse @ a @ inverse, inverse, atol=1e-7)
    if not linear.spec.gray:  # gray is put back as equal channels, which is not the shortest answer
        np.testing.assert_allclose(inverse, np.linalg.pinv(a, rcond=1e-9), atol=1e-7)


def test_closed_forms():
    image = np.random.default_rng(0).random((*SIDES, 3))
    means = image.reshape(2, 4, 3, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(operator("down4")(image), means, atol=1e-12)
    np.testing.assert_allclose(operator("down4").inverse(means), means.repeat(4, 0).repeat(4, 1), atol=1e-12)
    gray = operator("gray")(image)
    np.testing.assert_allclose(gray[..., 0], image @ [0.299, 0.587, 0.114], atol=1e-12)
    # Mirrored at the borders, then convolved.
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 0.7**2))
    padded = np.pad(image, ((3, 3), (0, 0), (0, 0)), mode="symmetric")
    rows = sum(tap * padded[i : i + 8] for i, tap in enumerate(taps / taps.sum()))
    padded = np.pad(rows, ((0, 0), (3, 3), (0, 0)), mode="symmetric")
    both = sum(tap * padded[:, i : i + 12] for i, tap in enumerate(taps / taps.sum()))
    np.testing.assert_allclose(operator("blur:0.7")(image), both, atol=1e-12)
    order = matrix((("blur", 0.7), ("down", 2.0)), 8) - matrix((("down", 2.0), ("blur", 0.7)), 8)
    assert np.abs(order).max() > 0.01


def test_words():
    spec = parse("blur:1.5, down4,gray,noise:3")
    assert spec == Spec((("blur", 1.5), ("down", 4.0)), True, None, 3.0) and spec.scale == 4
    assert parse(spec.words) == spec
    assert parse("down2,mask:a.png").words.endswith("mask:a.png") and parse("down2,down3").scale == 6


@pytest.mark.parametrize(
    "words, told",
    [
        ("dwon4", "unknown or given twice; allowed are downN"),
        ("gray,gray", "given twice"),
        ("down1", "allowed are 2 to 64"),
        ("down65", "allowed are 2 to 64"),
        ("down9,down8", "reduces by 72; allowed are up to 64 in all"),
        ("blur:x", "allowed are 0.1 to 100"),
        ("blur:0.09", "allowed are 0.1 to 100"),
        ("blur:101", "allowed are 0.1 to 100"),
        ("noise:0.2", "allowed are 0.3 to 255"),
        ("noise:nan", "allowed are 0.3 to 255"),
        ("noise:5,down4", "down4 stands after noise, .*; put noise last"),
        ("noise:5,noise:6", "noise:6 stands after noise"),
        ("blur:1,mask:a.png", "no pseudo-inverse"),
        ("mask:a.png,down2", "put mask after it"),
        ("", "unknown"),
    ],
)
def test_wrong_words(words, told):
    with pytest.raises(UserError, match=told) as error:
        parse(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", ["down2", "gray", "mask", "blur:0.5,down2"])
def test_ddnm_replayed(words):
    """Algorithm 1 of DDNM in NumPy, on pixels, with dense matrices; ours works on latents."""
    linear, batch, count = operator(words), 2, 6
    truth = np.random.default_rng(1).uniform(-1, 1, (batch, *SIDES, 3))
    start, noise = drawn(2, batch, 4, 6, 12), drawn(4, count, batch, 4, 6, 12)
    steps = make_sampler("spaced", Span(SCHEDULES["eps"], count))
    correction = Projection(encode, decode, 2)
    inputs = DenoiserInputs(None, {}, known=inputs_of(measured(linear, truth)))
    found = sample(
        Denoiser(toy, "eps", known=correction), inputs, jnp.asarray(start), steps, jnp.asarray(noise)
    )

    a = dense(linear)
    inverse = dense_inverse(linear, linear(truth[0]).shape)
    y = truth.reshape(batch, -1) @ a.T
    bars = np.cumprod(1 - np.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=np.float64) ** 2)
    x = np.float64(decode(jnp.asarray(ROTATION), jnp.asarray(start))).reshape(batch, -1)
    for i, t in enumerate(np.asarray(steps.level.timestep, int)):
        here, after = bars[t], bars[int(steps.level.timestep[i + 1])] if i + 1 < count else 1.0
        z = np.float64(encode(ROTATION, x.reshape(batch, *SIDES, 3).astype(np.float64)))
        eps = np.float64(decode(ROTATION, np.tanh(0.8 * z - t / 2000))).reshape(batch, -1)
        x0 = (x - np.sqrt(1 - here) * eps) / np.sqrt(here)
        x0 = (y - x0 @ a.T) @ inverse.T + x0
        alpha = here / after
        mean = np.sqrt(after) * (1 - alpha) / (1 - here) * x0 + np.sqrt(alpha) * (1 - after) / (1 - here) * x
        fresh = np.float64(decode(ROTATION, noise[i])).reshape(batch, -1)
        x = mean + np.sqrt((1 - after) / (1 - here) * (1 - alpha)) * fresh
    images = np.asarray(decode(jnp.asarray(ROTATION), found)).reshape(batch, -1)
    np.testing.assert_allclose(images, x, atol=1e-5)
    np.testing.assert_allclose(images @ a.T, y, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_ends_where_y_is_met(name):
    if name in ("ddim", "dpm++_m2", "edm_lms"):
        pytest.skip("ends with noise or with earlier predictions; the last projection is on pixels")
    linear = operator("down2,gray")
    truth = np.random.default_rng(1).uniform(-1, 1, (1, *SIDES, 3))
    steps = make_sampler(name, Span(SCHEDULES["eps"], 4, spacing="karras"))
    inputs = DenoiserInputs(None, {}, known=inputs_of(measured(linear, truth)))
    denoiser = Denoiser(toy, "eps", known=Projection(encode, decode, 2))
    found = sample(denoiser, inputs, jnp.asarray(drawn(2, 1, 4, 6, 12)), steps, jax.random.key(0)[None])
    image = np.float64(decode(jnp.asarray(ROTATION), found))[0]
    np.testing.assert_allclose(linear(image), linear(truth[0]), atol=2e-4)


def test_ddrm_weights():
    """1 while the noise level is above that of y over the singular value, then their ratio."""
    linear = Separable(parse("blur:0.7,noise:51"), SIDES)
    says = measured(linear, np.zeros((1, *SIDES, 3)))
    s = np.outer(*(np.linalg.svd(matrix(linear.spec.axes, side))[1] for side in SIDES))
    for sigma in (0.05, 0.3, 2.0, 1e4):
        expected = np.where(sigma >= 0.4 / s, 1.0, sigma * s / 0.4)
        found = np.sort(np.asarray(weights(says, jnp.float32(sigma))).ravel())
        np.testing.assert_allclose(found, np.sort(expected.ravel()), rtol=1e-4)


def correct(kind: type[Known], says: KnownInputs, latents: np.ndarray, **more) -> np.ndarray:
    level = make_sampler("spaced", Span(SCHEDULES["eps"], 1)).level
    level = jax.tree.map(lambda a: jnp.float32(a[0]), level)
    call = jax.jit(lambda says, z: kind(encode, decode, 2, **more)(says, z, level))
    return np.asarray(call(says, jnp.asarray(latents)))


def test_descent_follows_the_gradient_and_meets_y():
    linear = operator("blur:0.6,down2")
    truth, z = np.random.default_rng(1).uniform(-1, 1, (2, *SIDES, 3)), drawn(5, 2, 4, 6, 12)
    says, a = measured(linear, truth), dense(linear)
    y, x = truth.reshape(2, -1) @ a.T, np.float64(decode(ROTATION, z)).reshape(2, -1)
    gradient = (x @ a.T - y) @ a
    lengths = (gradient**2).sum(1) / ((gradient @ a.T) ** 2).sum(1)
    expected = (x - lengths[:, None] * gradient).reshape(2, *SIDES, 3)
    found = decode(ROTATION, correct(Descent, inputs_of(says), z))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Conjugate directions; plain gradients leave 7e-4.
    often = decode(ROTATION, correct(Descent, inputs_of(says, repeats=12), z))
    assert np.abs(np.asarray(often).reshape(2, -1) @ a.T - y).max() < 1e-5 * np.abs(x @ a.T - y).max()


def test_descent_stops_at_the_noise():
    linear = Separable(dataclasses.replace(parse("down2"), noise=5.0), SIDES)
    truth = np.random.default_rng(1).uniform(-1, 1, (1, *SIDES, 3))
    z = np.asarray(encode(ROTATION, np.float32(truth + 0.01)))
    says = inputs_of(measured(linear, truth))
    np.testing.assert_array_equal(correct(Descent, says, z), z)
    assert np.abs(correct(Descent, says, z + 0.5) - z - 0.5).max() > 0.01


def test_tiles_agree_with_the_whole():
    linear, z = operator("blur:0.6,down2"), drawn(5, 2, 4, 6, 12)
    says = inputs_of(measured(linear, np.random.default_rng(1).uniform(-1, 1, (2, *SIDES, 3))))
    grid = make_grid((4, 6), (4, 4), (4, 2))
    layout = make_layout([grid, grid], (4, 6), 4, 2, 2)
    cut = says._replace(places=Places(layout.tiles, layout.pixels))
    for kind in (Projection, Descent):
        whole = correct(kind, says, z)
        np.testing.assert_allclose(correct(kind, cut, z, tile=layout.size, batch=2), whole, atol=2e-5)
        assert np.abs(whole - z).max() > 0.1
