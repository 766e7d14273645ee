"""What a long run shows, with a clock that the test sets."""

import time

import pytest

from diffbir_jax.console import meter as module
from diffbir_jax.console.meter import Meter, duration

# Seconds that a busy machine may take.
PATIENCE = 300


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    monkeypatch.setattr(module, "LINE", 5.0)
    return clock


def test_each_kind_of_work_has_its_own_rate(clock: Clock) -> None:
    meter = Meter("restoring")
    meter.expect({"fast": 10.0, "slow": 10.0})
    assert meter.left() is None and meter.share() == 0.0
    meter.begin("fast")
    clock.now = 2.0
    meter.step("fast", 2.0)
    assert meter.left() == 8.0 + 10.0, "before it is known, the mean rate stands in"
    clock.now = 12.0
    meter.step("slow", 1.0)
    assert meter.left() == 8.0 + 90.0
    assert meter.share() == pytest.approx(12 / (12 + 98))


def test_time_apart_is_not_that_of_the_work(clock: Clock) -> None:
    meter = Meter("restoring")
    meter.expect({"work": 2.0})
    meter.begin("working")
    clock.now = 1.0
    with meter.apart("compiling"):
        clock.now = 100.0
        assert meter.text() == "compiling, 99 s"
    clock.now = 102.0
    meter.step("work", 1.0)
    assert meter.left() == 3.0 and meter.text() == "working, 3 s left"


def test_without_a_terminal_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module, "LINE", 0.01)
    with Meter("restoring") as meter:
        meter.begin("loading")
        limit, shown = time.monotonic() + PATIENCE, ""
        while "restoring 0%, loading" not in shown:
            assert time.monotonic() < limit, "nothing is shown"
            shown += capsys.readouterr().err
            time.sleep(0.01)
    meter.close()


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (99, "99 s"), (130, "2 min"), (7500, "2 h 5 min"), (5900, "98 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
