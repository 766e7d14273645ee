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
    assert meter.left() == 8.0 + 10.0, "before it is known, the rate of the other stands in"
    clock.now = 12.0
    meter.step("slow", 1.0)
    assert meter.left() == 8.0 + 90.0
    assert meter.share() == pytest.approx(12 / (12 + 98))
    meter.expect({"fast": 10.0, "slow": 1.0, "later": 10.0})
    assert meter.left() == 8.0 + 10.0, "the fastest of several"


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


def test_the_time_runs_on_during_a_long_step(clock: Clock) -> None:
    meter = Meter("restoring")
    meter.expect({"first": 1.0, "second": 10.0})
    meter.begin("first", "first")
    clock.now = 2.0
    meter.step("first", 1.0)
    meter.begin("second", "second")
    clock.now = 7.0
    assert meter.left() == 20.0 - 5.0
    with meter.apart("compiling"):
        clock.now = 17.0
        assert meter.left() == 20.0, "what is apart is no part of the step"
    assert meter.left() == 20.0 - 5.0
    clock.now = 90.0
    assert meter.left() == 0.0, "it takes longer than expected, and no time back"


def test_programs_that_are_still_to_be_compiled_count(clock: Clock) -> None:
    meter = Meter("restoring")
    meter.foresee({"decoder": 3})
    with meter.compiling("decoder"):
        clock.now = 10.0
        assert meter.text() == "compiling: decoder, program 1 of 3, 10 s"
    meter.expect({"work": 4.0})
    meter.begin("working")
    clock.now = 12.0
    meter.step("work", 1.0)
    assert meter.left() == 3 * 2.0 + 2 * 10.0
    with meter.compiling("decoder"):
        clock.now = 16.0
        assert meter.left() == 6.0 + 20.0 - 4.0, "the seconds of this one are over"
        clock.now = 42.0
        assert meter.left() == 6.0 + 10.0, "that it takes longer is no gain"
    assert meter.left() == 6.0 + 20.0, "the latest weighs as much as all before: (10 + 30) / 2"
    assert meter.share() == pytest.approx(42 / (42 + 26))
    with meter.compiling("decoder", again=True):
        clock.now = 50.0
    assert meter.left() == 6.0 + 20.0, "it was counted before"


def test_a_program_of_an_unknown_kind_takes_the_mean(clock: Clock) -> None:
    meter = Meter("restoring")
    meter.expect({"work": 2.0})
    meter.foresee({"encoder": 1, "decoder": 1})
    with meter.compiling("encoder"):
        clock.now = 4.0
    meter.step("work", 1.0)
    assert meter.left() == 4.0
    with meter.compiling("sampling"):
        assert meter.text() == "compiling: sampling, program 2 of 2, 4 s left"


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
