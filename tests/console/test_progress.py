"""Loops that show how far they are."""

import pytest

from diffbir_jax.console import progress
from diffbir_jax.console.meter import Meter


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> list[Meter]:
    """The meters of a test."""
    made: list[Meter] = []

    def meter(title: str) -> Meter:
        made.append(Meter(title))
        return made[-1]

    monkeypatch.setattr(progress, "Meter", meter)
    return made


def test_items_are_counted(meters: list[Meter]) -> None:
    shown = []
    for item in progress.tallied("ab", "scoring", total=3, done=1):
        shown.append((item, meters[0].text().split(", ")[0]))
    assert shown == [("a", "1 of 3 images"), ("b", "2 of 3 images")]
    assert meters[0].text().startswith("3 of 3 images") and meters[0].left() == 0.0
    assert not meters[0]._thread.is_alive()


def test_a_loop_that_ends_early_shows_no_more(meters: list[Meter]) -> None:
    items = progress.tallied("ab", "scoring", total=2)
    next(items)
    assert meters[0]._thread.is_alive()
    items.close()
    assert not meters[0]._thread.is_alive()


def test_batches_are_batches(meters: list[Meter]) -> None:
    list(progress.tallied("ab", "encoding", total=2, thing="batch"))
    assert meters[0].text().startswith("2 of 2 batches")


def test_what_cannot_be_counted_has_words(meters: list[Meter]) -> None:
    with progress.waiting("restoring", "loading"):
        assert meters[0].text() == "loading" and meters[0].left() is None
    assert not meters[0]._thread.is_alive()
