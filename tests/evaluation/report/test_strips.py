import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from diffbir_jax.evaluation.report.sheet import Sheet
from diffbir_jax.evaluation.report.strips import DOT, WIDTH, stacked, strip_plot, ticks


def draw(results, cases):
    """The plot of PSNR, parsed."""
    return ET.fromstring(strip_plot(Sheet(tuple(results)), "psnr", cases))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (19.7, 30.2, [20, 22, 24, 26, 28, 30]),
        (0.11, 0.52, [0.2, 0.3, 0.4, 0.5]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_dots_of_one_place_are_stacked_around_the_line():
    moves = stacked(np.array([1.0, 1.0, 20.0, 1.0]), 30)
    np.testing.assert_allclose(moves, [0, DOT, 0, -DOT])
    many = stacked(np.zeros(101), 10)
    assert np.abs(many).max() == pytest.approx(10) and len(np.unique(many)) == 101


def test_every_score_is_a_dot_where_its_value_stands(make):
    scores = {"a": 10.0, "b": 20.0, "c": 30.0, "d": None}
    result = make("m", {name: {"psnr": value} for name, value in scores.items()})
    plot = draw([result], cases=[0, 1])
    dots = {dot.get("data-image"): float(dot.get("cx")) for dot in plot.iter("circle")}
    assert [title.text for title in plot.iter("title")] == ["a: 10.00", "b: 20.00"]
    (rest,) = [path for path in plot.iter("path") if path.get("class") == "rest"]
    third = float(rest.attrib["d"].split()[0][1:])
    assert dots["1"] == pytest.approx(WIDTH / 2, abs=0.1)  # the axis is symmetric about the middle
    assert third == pytest.approx(WIDTH - dots["0"], abs=1)
    assert "m 20.00" in plot.get("aria-label")


def test_equal_scores_and_methods_without_scores_can_be_drawn(make):
    one = make("one", {"a": {"psnr": 5.0}, "b": {"psnr": 5.0}})
    plot = draw([replace(one, summary={}), make("two", {"a": {}, "b": {}})], cases=[0, 1])
    assert len(list(plot.iter("circle"))) == 2
    assert [text.text for text in plot.iter("text")].count("no score") == 2
