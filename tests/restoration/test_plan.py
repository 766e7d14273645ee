"""How sides become those that programs are compiled for."""

import pytest

from diffbir_jax.restoration.plan import Plan, StagePlan, bucket, canvas, fitted

SIDES = range(1, 3000)


@pytest.mark.parametrize("multiple", [1, 8, 16, 64])
def test_buckets_are_few_and_near(multiple: int) -> None:
    """Padding is below a half, above 512 pixels an eighth, of the side, or below `multiple` where that is more."""
    found = [bucket(side, multiple) for side in SIDES]
    assert found == sorted(found)
    assert all(side % multiple == 0 for side in found)
    for side, rounded in zip(SIDES, found):
        assert side <= rounded < side + max(side / (2 if side < 512 else 8), multiple) + multiple
    # 2 in each of the octaves 1 to 256, 8 in those above.
    assert len(set(found)) <= 2 * 9 + 8 * 3
    assert all(bucket(side, multiple) == side for side in set(found)), "what is padded once fits"


@pytest.mark.parametrize("tile, multiple", [(64, 8), (512, 64), (1088, 64)])
def test_sides_are_whole_below_a_tile_and_cut_above(tile: int, multiple: int) -> None:
    for side in SIDES:
        padded, size = fitted(side, tile, multiple)
        assert padded >= side and padded % multiple == 0 and size % multiple == 0
        if side <= tile:
            assert padded == size <= tile
        else:
            assert size == tile and padded - side < multiple
    assert len({fitted(side, tile, multiple)[1] for side in SIDES}) <= 40


@pytest.mark.parametrize("tile", [64, 512])
def test_canvases_are_few_and_hold_the_image(tile: int) -> None:
    sides = range(tile + 1, 40 * tile, 7)
    found = [canvas(side, tile) for side in sides]
    assert found == sorted(found)
    assert all(side <= rounded <= 1.5 * side + tile / 2 for side, rounded in zip(sides, found))
    assert sorted(set(found)) == [tile * c // 2 for c in (3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)]


def test_another_batch_for_every_stage() -> None:
    plan = Plan(*(StagePlan(side, 8, 1) for side in (32, 64, 96, 128)), remat=False, norms="tile")
    changed = plan.with_batch(4)
    stages = (changed.rm, changed.encode, changed.sample, changed.decode)
    assert stages == tuple(StagePlan(side, 8, 4) for side in (32, 64, 96, 128))
    assert (changed.remat, changed.norms) == (False, "tile")


def test_a_machine_with_fewer_devices_keeps_the_batch_of_each() -> None:
    plan = Plan(*(StagePlan(64, 8, batch) for batch in (32, 8, 8, 1)), devices=8)
    fewer = plan.on(2)
    assert [each.batch for each in (fewer.rm, fewer.encode, fewer.sample, fewer.decode)] == [8, 2, 2, 2]
    assert fewer.devices == 2 and plan.on(8) == plan.on(16) == plan
