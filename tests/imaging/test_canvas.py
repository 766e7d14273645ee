"""Images on the host: tiles cut from them with padding, and blended row by row."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.canvas import Blender, cut_padded, from_depth, resize_float
from diffbir_jax.imaging.resize import resize
from diffbir_jax.imaging.tiling import Grid, blend, gaussian_weights, make_grid, place_tiles

# Sides, size of a tile, stride: even, a last tile that overlaps strongly, edge to edge, one row, one column, one tile.
GRIDS = [
    ((24, 32), (8, 8), (4, 4)),
    ((21, 27), (8, 12), (6, 7)),
    ((16, 24), (8, 8), (8, 8)),
    ((8, 29), (8, 8), (8, 5)),
    ((29, 8), (8, 8), (5, 8)),
    ((12, 20), (12, 20), (12, 20)),
]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def blended(grid: Grid, tiles: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The rows that a `Blender` hands over, side by side, and where each part began."""
    parts: list[tuple[int, np.ndarray]] = []
    blender = Blender(grid, lambda top, rows: parts.append((top, rows.copy())))
    for tile in tiles:
        blender.add(tile)
    return np.concatenate([rows for _, rows in parts]), [top for top, _ in parts]


def gaussian_blend(grid: Grid, tiles: np.ndarray) -> np.ndarray:
    """In float64, all sums held whole."""
    weights = gaussian_weights(*grid.size)[..., None]
    total, sums = np.zeros((*grid.sides, tiles.shape[3])), np.zeros((*grid.sides, 1))
    for (top, left), tile in zip(grid.starts, tiles):
        there = np.s_[top : top + grid.size[0], left : left + grid.size[1]]
        total[there] += weights * tile
        sums[there] += weights
    return total / sums


@pytest.mark.parametrize("axes", GRIDS)
def test_blending_row_by_row_equals_blending_at_once(axes) -> None:
    """Of tiles that do not agree where they overlap."""
    grid = make_grid(*axes)
    tiles = random(len(grid.starts), *grid.size, 3)
    found, tops = blended(grid, tiles)
    assert tops == grid.rows.tolist(), "rows are handed over as soon as no tile is to come, once, in order"
    np.testing.assert_allclose(found, gaussian_blend(grid, tiles), rtol=0, atol=1e-5)


def test_blending_on_the_host_equals_blending_in_a_program() -> None:
    sides, size, stride = GRIDS[1]
    grid, image = make_grid(sides, size, stride), random(*sides, 3)
    # Away from zero: what a tile shows depends on the tile.
    means = np.array([cut_padded(image, start, size, "edge").mean() for start in grid.starts])
    tiles = [cut_padded(image, s, size, "edge") * mean for s, mean in zip(grid.starts, means, strict=True)]
    placed = place_tiles([grid], sides, len(tiles))
    expected = blend(
        lambda x, _: x * x.mean((1, 2, 3), keepdims=True), jnp.asarray(image[None]), placed, size
    )
    np.testing.assert_allclose(blended(grid, np.stack(tiles))[0], expected[0], rtol=0, atol=1e-5)


def test_only_what_a_later_tile_may_touch_is_held() -> None:
    grid = make_grid((400, 24), (8, 8), (6, 6))
    blender = Blender(grid, lambda top, rows: None)
    for _ in grid.starts:
        blender.add(np.ones((*grid.size, 3), np.float32))
        assert blender.total.shape == (8, 24, 3)


def test_results_of_reduced_precision_are_summed_in_float32() -> None:
    grid = make_grid(*GRIDS[0])
    found, _ = blended(grid, np.full((len(grid.starts), *grid.size, 1), 0.3, np.float16))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.float32(np.float16(0.3)), rtol=1e-6)


@pytest.mark.parametrize("mode", ["edge", "constant"])
@pytest.mark.parametrize("start", [(0, 0), (3, 4), (6, 9), (9, 0), (12, 15)])
def test_cutting_equals_padding_the_whole(mode, start) -> None:
    """Also where a tile begins beside the image, as one may that is smaller than the padding."""
    image = random(10, 13, 3)
    padded = np.pad(image, ((0, 20), (0, 20), (0, 0)), mode)
    found = cut_padded(image, np.array(start), (7, 8), mode)
    np.testing.assert_array_equal(found, padded[start[0] : start[0] + 7, start[1] : start[1] + 8])


def test_a_tile_inside_is_not_copied() -> None:
    image = random(10, 13, 3)
    assert np.shares_memory(cut_padded(image, np.array([1, 2]), (5, 5), "edge"), image)


@pytest.mark.parametrize("size", [(31, 17), (9, 40), (20, 24), (3, 50)])
def test_resizing_on_the_host_equals_the_compiled_one(size) -> None:
    image = random(20, 24, 3)
    np.testing.assert_allclose(resize_float(image, size), resize(jnp.asarray(image), size), rtol=0, atol=1e-5)


def test_resizing_keeps_what_fits_and_takes_halves() -> None:
    half = random(8, 8, 3).astype(np.float16)
    assert resize_float(half, (8, 8)) is half
    expected = resize_float(half.astype(np.float32), (5, 12))
    assert expected.dtype == resize_float(half, (5, 12)).dtype == np.float32
    np.testing.assert_array_equal(resize_float(half, (5, 12)), expected)


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
def test_from_depth(dtype, top) -> None:
    values = np.array([[[0, top // 5, top]]], dtype)
    found = from_depth(values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[[0.0, 0.2, 1.0]]], rtol=1e-7)
    floats = random(2, 2, 3)
    assert from_depth(floats) is floats
