import numpy as np
import pytest

from diffbir_jax.data import order
from diffbir_jax.data.crops import Crop
from diffbir_jax.data.items import Items
from diffbir_jax.data.loader import Loader
from diffbir_jax.data.order import FEW, index_at
from diffbir_jax.training.position import position_of, resume


class Listed:
    """A source that is only counted."""

    fingerprint = "0"

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise AssertionError("is only counted")


@pytest.mark.parametrize("count", [1, 2, 7, 300, FEW])
def test_an_epoch_has_every_example_once(count):
    for epoch in (0, 1, 5):
        places = [index_at(epoch * count + place, count, 3) for place in range(count)]
        assert sorted(places) == list(range(count))


def test_more_examples_than_are_drawn_as_a_whole_are_not(monkeypatch):
    """Grain's order, whose draws cost the same for any number of examples."""
    monkeypatch.setattr(order, "_epoch", None)
    count = FEW + 1
    places = {index_at(position, count, 0) for position in range(count, count + 5000)}
    assert len(places) == 5000 and places <= set(range(count))


def test_any_order_of_three_comes_up_about_as_often_as_the_others():
    """Chi-squared of 6 kinds in 1200 epochs: 20.5 is passed once in a thousand; the seed is fixed."""
    epochs = [tuple(index_at(3 * epoch + place, 3, 0) for place in range(3)) for epoch in range(1200)]
    _, counts = np.unique(epochs, axis=0, return_counts=True)
    assert len(counts) == 6 and ((counts - 200) ** 2 / 200).sum() < 20.5


def test_seeds_and_epochs_have_orders_of_their_own():
    count = 500
    orders = [
        np.array([index_at(epoch * count + place, count, seed) for place in range(count)])
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    for i, first in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(first == other) < 0.05


def test_the_draws_of_an_epoch_are_none_of_an_item():
    """NumPy pads seeds with zeros: (seed, position) would be (seed, position, attempt 0)."""
    orders = [[index_at(epoch * 50 + place, 50, 3) for place in range(50)] for epoch in range(4)]
    for epoch, places in enumerate(orders):
        for attempt in range(2):
            assert places != np.random.default_rng((3, epoch, attempt)).permutation(50).tolist()


def test_a_position_depends_on_nothing_else():
    forwards = [index_at(position, 11, 4) for position in range(100)]
    assert forwards == [index_at(position, 11, 4) for position in reversed(range(100))][::-1]


def test_a_run_from_before_orders_were_drawn_by_epochs_is_told():
    def position(count):
        loader = Loader(Items(Listed(count), Crop("none", 16)), 4)
        return loader, position_of(loader, 10)

    loader, before = position(FEW)
    del before["data"]["order"]
    with pytest.raises(ValueError, match="order was None, is by-epoch"):
        resume(loader, before)
    loader, before = position(FEW + 1)
    assert "order" not in before["data"]
    resume(loader, before)
