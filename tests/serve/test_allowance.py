"""Requests per minute: a burst of a minute's requests, then an even pace, and no client at the cost of another."""

import pytest

from diffbir_jax.serve import allowance
from diffbir_jax.serve.allowance import Allowance


class Clock:
    """A clock that the test turns."""

    now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("number", [1, 2, 7, 60, 1000])
def test_a_burst_then_an_even_pace(number: int) -> None:
    """Whatever the pace of a client that never stops, it gets the number of each minute, after the burst."""
    clock = Clock()
    allowed = Allowance(number, clock)
    assert [allowed.wait("a") for _ in range(number)] == [0] * number
    wait = allowed.wait("a")
    assert wait >= 60 / number > wait - 1 and allowed.wait("b") == 0
    clock.now += wait
    assert allowed.wait("a") == 0
    clock.now += 120
    assert sum(allowed.wait("a") == 0 for _ in range(2 * number)) == number


def test_clients_that_are_quiet_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "REMEMBERED", 2)
    allowed = Allowance(1, Clock())
    assert [allowed.wait(client) for client in "abc"] == [0, 0, 0]
    assert allowed.wait("c") == 60 and allowed.wait("b") == 60 and allowed.wait("a") == 0
