"""Tiles, their weights, and functions applied tile by tile."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from diffbir_jax.imaging.tiling import (
    Grid,
    blend,
    gaussian_weights,
    make_grid,
    place_tiles,
    tile_starts,
)
from diffbir_jax.parity.tiles import tile_windows, tiled

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "image_ops.npz")


def nhwc(array: np.ndarray) -> Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def contrast(tile: Array) -> Array:
    """Depends on the whole tile; the function of the golden values."""
    return jnp.tanh(tile) * jnp.mean(tile)


def enlarge(tile: Array) -> Array:
    return jnp.repeat(jnp.repeat(tile, 4, axis=1), 4, axis=2) + jnp.mean(tile)


def picture(height: int, width: int, channels: int = 3) -> Array:
    return jnp.asarray(
        np.random.default_rng(height).standard_normal((2, height, width, channels)), jnp.float32
    )


def test_windows_parity():
    np.testing.assert_array_equal(tile_windows(70, 90, 32, 16), GOLDEN["windows|70|90|32|16"])


@pytest.mark.parametrize("side", [32, 64])
def test_weights_parity(side):
    np.testing.assert_allclose(gaussian_weights(side, side), GOLDEN[f"gaussian_weights|{side}"], rtol=1e-12)


@pytest.mark.parametrize("function, key", [(contrast, "tiled|32|16"), (enlarge, "tiled_up4|32|24")])
def test_tiled_parity(function, key):
    size, stride = (int(part) for part in key.split("|")[1:])
    out = jax.jit(lambda x: tiled(function, x, size, stride))(nhwc(GOLDEN["content"]))
    np.testing.assert_allclose(out, nhwc(GOLDEN[key]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("height, width, stride", [(32, 32, 8), (40, 67, 16), (33, 64, 5)])
def test_a_pointwise_function_may_be_tiled(height, width, stride):
    x = picture(height, width)
    np.testing.assert_allclose(tiled(jnp.sin, x, 32, stride), jnp.sin(x), rtol=0, atol=1e-6)


def test_arrays_are_cut_alike():
    x = {"z": picture(40, 48, 4), "hint": picture(40, 48, 2)}
    out = tiled(lambda tile: tile["z"][..., :2] * tile["hint"], x, 16, 8)
    np.testing.assert_allclose(out, x["z"][..., :2] * x["hint"], rtol=0, atol=1e-6)


def test_result_may_be_smaller():
    x = picture(32, 48)

    def means(tile: Array) -> Array:
        return tile.reshape(2, tile.shape[1] // 8, 8, tile.shape[2] // 8, 8, 3).mean((2, 4))

    np.testing.assert_allclose(tiled(means, x, 16, 8), means(x), rtol=0, atol=1e-6)


def test_gradient():
    """Of a pointwise function, the gradient is pointwise as well."""
    x = picture(24, 40)
    weight = picture(24, 40)
    gradient = jax.grad(lambda x: jnp.sum(weight * tiled(jnp.sin, x, 16, 8)))(x)
    np.testing.assert_allclose(gradient, weight * jnp.cos(x), rtol=0, atol=1e-5)


def test_reduced_precision_stays():
    out = tiled(lambda tile: tile, picture(24, 24).astype(jnp.bfloat16), 16, 8)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, picture(24, 24).astype(jnp.bfloat16))


def test_tiles_are_not_unrolled():
    """The function occurs once in the program for shapes, and once in the loop, however many tiles there are."""
    calls = []

    def function(tile: Array) -> Array:
        calls.append(tile.shape)
        return tile

    jax.jit(lambda x: tiled(function, x, 16, 8))(picture(64, 64))
    assert calls == [(2, 16, 16, 3)] * 2


def test_errors():
    with pytest.raises(ValueError, match="tiles of 32 do not fit into 24; use smaller tiles or none"):
        tiled(contrast, picture(40, 24), 32, 16)
    with pytest.raises(ValueError, match="tiles of 32 given a stride of 33; allowed are 1 to 32"):
        tile_starts(64, 32, 33)
    with pytest.raises(ValueError, match=r"\[\(24, 24\), \(24, 32\)\] cannot be cut alike"):
        tiled(lambda pair: pair[0], (picture(24, 24), picture(24, 32)), 16, 8)


# Grids, and canvases that hold images of different sizes


def batch_sensitive(tile: Array) -> Array:
    """Depends on the whole of each tile, on no other tile of the batch."""
    return jnp.tanh(tile) * tile.mean((1, 2, 3), keepdims=True)


def on_canvases(images: list[Array]) -> tuple[Array, list[Grid]]:
    """Images on canvases of 40x48 full of what must not be seen, and their grids of tiles of 16x24."""
    canvases = jnp.full((len(images), 40, 48, 3), jnp.nan)
    for i, image in enumerate(images):
        canvases = canvases.at[i, : image.shape[0], : image.shape[1]].set(image)
    return canvases, [make_grid(image.shape[:2], (16, 24), (12, 14)) for image in images]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_images_of_different_sizes_share_batches(batch):
    """Each comes out as alone, and 0 beside; tiles that fill up the number do nothing, nor does an empty canvas."""
    images = [picture(40, 31)[0], picture(16, 48)[0], picture(29, 24)[0]]
    canvases, grids = on_canvases(images)
    canvases = jnp.concatenate([canvases, canvases[:1]])
    count = -(-(sum(len(grid.starts) for grid in grids) + 5) // batch) * batch
    tiles = place_tiles(grids, (40, 48), count, canvases=4)
    assert tiles.image.shape == tiles.used.shape == (count,)
    found = jax.jit(lambda x: blend(lambda t, _: batch_sensitive(t), x, tiles, (16, 24), batch))(canvases)
    for image, grid, result in zip(images, grids, found):
        alone = blend(
            lambda t, _: batch_sensitive(t),
            image[None],
            place_tiles([grid], grid.sides, len(grid.starts)),
            (16, 24),
        )[0]
        height, width = grid.sides
        np.testing.assert_allclose(result[:height, :width], alone, rtol=0, atol=1e-6)
        assert not result[height:].any() and not result[:, width:].any()
    assert not found[3].any()


def test_a_function_knows_the_canvas():
    images = [picture(16, 31)[0], picture(29, 24)[0]]
    canvases, grids = on_canvases(images)
    tiles = place_tiles(grids, (40, 48), 12)

    def number(tile: Array, image: Array) -> Array:
        return jnp.broadcast_to(image[:, None, None, None].astype(jnp.float32), tile.shape)

    found = blend(number, canvases, tiles, (16, 24), 3)
    for index, grid in enumerate(grids):
        height, width = grid.sides
        np.testing.assert_allclose(found[index, :height, :width], index, rtol=1e-6)


def test_a_batch_without_a_tile_is_not_computed():
    """Seen by the function's own effect: it is called as often as there are batches with a tile."""
    calls = []

    def function(tile: Array, _: Array) -> Array:
        jax.debug.callback(lambda: calls.append(1))
        return tile

    grid = make_grid((16, 38), (16, 24), (12, 14))
    blend(
        function, picture(16, 38), place_tiles([grid], (16, 38), 10, canvases=2), (16, 24), 2
    ).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 1


GRIDS = [
    ((40, 67), (16, 24), (12, 14)),
    ((32, 33), (16, 16), (16, 1)),
    ((16, 90), (16, 8), (16, 8)),
    ((9, 9), (9, 9), (9, 9)),
]


@pytest.mark.parametrize("axes", GRIDS)
def test_every_pixel_belongs_to_one_tile(axes):
    grid = make_grid(*axes)
    owners = np.zeros(grid.sides, int)
    for (top, left), owned in zip(grid.starts, grid.owned()):
        owners[top : top + grid.size[0], left : left + grid.size[1]] += owned
    np.testing.assert_array_equal(owners, 1)


def test_the_owner_is_the_nearest_tile():
    grid = make_grid((20, 31), (8, 12), (5, 7))
    middles = grid.starts + (np.array(grid.size) - 1) / 2
    for (top, left), middle, owned in zip(grid.starts, middles, grid.owned()):
        for pixel in np.argwhere(owned) + (top, left):
            for axis in (0, 1):
                nearest = np.abs(middles[:, axis] - pixel[axis]).min()
                assert abs(middle[axis] - pixel[axis]) <= nearest + 1


@pytest.mark.parametrize("axes", GRIDS)
def test_sums_of_weights(axes):
    grid = make_grid(*axes)
    assert grid.sides == axes[0]
    total = np.zeros(grid.sides)
    for top, left in grid.starts:
        total[top : top + grid.size[0], left : left + grid.size[1]] += gaussian_weights(*grid.size)
    rows, columns = grid.sums()
    np.testing.assert_allclose(np.outer(rows, columns), total, rtol=1e-12)


def test_grids_at_another_scale():
    grid = make_grid((40, 64), (16, 24), (12, 20))
    up, down = grid.scaled(4), grid.scaled(1, 4)
    assert (up.size, up.sides) == ((64, 96), (160, 256))
    assert (down.size, down.sides) == ((4, 6), (10, 16))
    np.testing.assert_array_equal(up.starts, 4 * grid.starts)
    np.testing.assert_array_equal(4 * down.starts, grid.starts)
    for axis in range(2):
        np.testing.assert_array_equal(up.scaled(1, 4)[axis], grid[axis])
