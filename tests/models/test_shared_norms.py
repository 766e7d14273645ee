"""Tiles normalised by the statistics of the image that they were cut from."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.canvas import cut_padded
from diffbir_jax.imaging.tiling import make_grid
from diffbir_jax.models.apply import apply
from diffbir_jax.models.shared_norms import KnownNorms, Norms, apply_normed, measure_norms, merge_norms
from tests.micro import MICRO, random_params

VAE = MICRO.make_vae()
PARAMS = random_params(MICRO, modules=["vae"])["vae"]
F = MICRO.vae.downsample
# Group normalisations of each half: two in each residual block and one at the end.
LAYERS = {"encode": 9, "decode": 13}
# Pixels that the padding at a tile's border reaches: of the decoder, 9 convolutions see 4 pixels around, 6 see 2.
HALO = 48


def first(result: Any) -> jax.Array:
    """The mean where there are two moments, or the image."""
    return result[0] if isinstance(result, tuple) else result


apply_whole = jax.jit(functools.partial(apply, VAE), static_argnames="method")


@functools.partial(jax.jit, static_argnames="method")
def whole_norms(x: jax.Array, method: str) -> Norms:
    """Statistics of the whole image in every layer."""
    step = F if method == "encode" else 1
    owned = jnp.ones((1, x.shape[1] // step, x.shape[2] // step, 1))
    return measure_norms(VAE, PARAMS, x, owned, method=method)


@functools.partial(jax.jit, static_argnames="method")
def tile_norms(x: jax.Array, owned: jax.Array, norms: Norms, exact: jax.Array, method: str) -> Norms:
    return measure_norms(VAE, PARAMS, x, owned, KnownNorms(norms, exact), method)


apply_tile = jax.jit(functools.partial(apply_normed, VAE, PARAMS), static_argnames="method")


class Case:
    """An image, or its latents, in two tiles whose overlap is wider than what a border can reach."""

    def __init__(self, method: str):
        self.method, self.scale = method, 1 if method == "encode" else F
        side = 160 // self.scale
        rng = np.random.default_rng(0)
        # Brighter and rougher to the right, so that tiles differ in their statistics.
        slope = np.linspace(0.2, 2.0, side + side // 2, dtype=np.float32)[:, None]
        channels = 3 if method == "encode" else 4
        self.x = slope * (0.5 + rng.standard_normal((side, side + side // 2, channels), np.float32))
        self.grid = make_grid(self.x.shape[:2], (side, side), (side, side // 2))
        self.latent = self.grid.scaled(1, F) if method == "encode" else self.grid
        self.tiles = [
            jnp.asarray(cut_padded(self.x, s, (side, side), "edge"))[None] for s in self.grid.starts
        ]

    def measured(self, norms: Norms, exact: int) -> Norms:
        owned = self.latent.owned()[..., None].astype(np.float32)
        batched = jax.tree.map(lambda a: a[None], norms)
        parts = [
            tile_norms(x, jnp.asarray(o)[None], batched, jnp.array([exact], jnp.int32), self.method)
            for x, o in zip(self.tiles, owned)
        ]
        share = owned.sum(axis=(1, 2, 3))
        return merge_norms(
            [jax.tree.map(lambda a: np.asarray(a[0]), part) for part in parts], share / share.sum()
        )


@pytest.fixture(scope="module", params=["encode", "decode"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def passes(case: Case) -> list[Norms]:
    """Statistics after each pass."""
    x = jnp.asarray(case.x)[None]
    norms = jax.tree.map(lambda a: np.zeros_like(a[0]), whole_norms(x, case.method))
    found = []
    for number in range(LAYERS[case.method]):
        norms = case.measured(norms, number)
        found.append(norms)
    return found


def difference(one: Norms, other: Norms, key: str) -> float:
    return max(float(np.abs(a - np.asarray(b).reshape(a.shape)).max()) for a, b in zip(one[key], other[key]))


def test_a_pass_settles_a_layer(case: Case, passes: list[Norms]) -> None:
    """After the n-th pass, n layers have the statistics of the whole image; before, the last of them has others."""
    whole = whole_norms(jnp.asarray(case.x)[None], case.method)
    assert len(whole) == LAYERS[case.method]
    keys = sorted(whole)
    for number, norms in enumerate(passes):
        for key in keys[: number + 1]:
            assert difference(norms, whole, key) < 1e-5 * np.abs(whole[key][1]).max(), (number, key)
        if number + 1 < len(keys):
            assert difference(norms, whole, keys[-1]) > 1e-2


def test_tiles_are_those_of_the_whole_image(case: Case, passes: list[Norms]) -> None:
    """Where a tile owns a pixel, beyond the reach of what lies at its borders."""
    whole = first(apply_whole(PARAMS, jnp.asarray(case.x)[None], method=case.method))[0]
    norms = jax.tree.map(lambda a: a[None], passes[-1])
    up, down, halo = (1, F, HALO // F) if case.method == "encode" else (F, 1, HALO)
    for start, x in zip(case.grid.starts, case.tiles):
        tile, own = (first(apply_tile(x, known, method=case.method))[0] for known in (norms, None))
        left = start[1] * up // down
        there = whole[:, left : left + tile.shape[1]]
        seen = slice(halo, None) if left else slice(0, -halo)
        scale = float(jnp.abs(there).max())
        np.testing.assert_allclose(tile[:, seen], there[:, seen], rtol=0, atol=1e-5 * scale)
        assert jnp.abs(own - there)[:, seen].max() > 1e-2 * scale


def test_without_statistics_nothing_changes() -> None:
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 16, 24, 3), np.float32))
    plain, normed = apply(VAE, PARAMS, x, method="encode"), apply_normed(VAE, PARAMS, x, None, "encode")
    jax.tree.map(np.testing.assert_array_equal, plain, normed)


def test_merging_equals_measuring_the_whole() -> None:
    """Of parts of different sizes, whose means lie far apart."""
    rng = np.random.default_rng(2)
    x = (10.0 * rng.standard_normal(5) + rng.standard_normal((120, 5))).astype(np.float32)
    x[:30] += 100.0
    parts = [x[:30], x[30:37], x[37:]]
    norms = [{"000": (part.mean(axis=0), part.var(axis=0))} for part in parts]
    mean, variance = merge_norms(norms, np.array([len(part) / len(x) for part in parts]))["000"]
    assert mean.dtype == variance.dtype == np.float32
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(axis=0, dtype=np.float64), rtol=1e-5)
