import numpy as np
import pytest

from diffbir_jax.evaluation.report.sheet import Sheet

NAN = float("nan")


def sheet_of(make, **methods):
    """A sheet of methods, each with LPIPS and PSNR by image."""
    return Sheet(
        tuple(
            make(name, {f"{i:02d}": {"lpips": a, "psnr": b} for i, (a, b) in enumerate(zip(lpips, psnr))})
            for name, (lpips, psnr) in methods.items()
        )
    )


def test_worst_first_knows_the_direction_of_a_metric_and_puts_missing_scores_last(make):
    sheet = sheet_of(
        make, a=([0.1, None, 0.3], [20.0, 30.0, float("inf")]), b=([0.4, 0.2, 0.0], [25.0, 10.0, 11.0])
    )
    assert sheet.worst_first("lpips", 0) == [2, 0, 1]
    assert sheet.worst_first("psnr", 0) == [0, 1, 2]
    assert sheet.worst_first("lpips") == [0, 2, 1]
    assert sheet.worst_first("psnr") == [1, 2, 0]
    np.testing.assert_array_equal(sheet.scores["psnr"], [[20, 30, NAN], [25, 10, 11]])


def test_the_best_method_is_that_of_the_perceptual_metric(make):
    sheet = sheet_of(
        make, a=([0.3, 0.3], [30.0, 30.0]), b=([0.1, 0.2], [20.0, 20.0]), c=([None, None], [40.0, 40.0])
    )
    assert (sheet.leading, sheet.best, sheet.methods) == ("lpips", 1, ("a", "b", "c"))
    assert sheet.text("lpips", 0.12344) == "0.1234" and sheet.text("psnr", 30) == "30.00"
    assert sheet.text("lpips", None) == sheet.text("lpips", NAN) == "–"


def test_without_a_perceptual_metric_any_other_leads(make):
    sheet = sheet_of(make, a=([None], [30.0]), b=([None], [31.0]))
    assert (sheet.leading, sheet.best, list(sheet.scores)) == ("psnr", 1, ["psnr"])


def test_cases_are_the_worst_by_every_metric_in_turn(make):
    lpips = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # worst: 5, 4, 3, ...
    psnr = [20.0, 22.0, 21.0, 30.0, 31.0, 32.0]  # worst: 0, 2, 1, ...
    sheet = sheet_of(make, a=(lpips, psnr))
    assert [sheet.cases(n) for n in (0, 2, 4, 9)] == [[], [0, 5], [0, 2, 4, 5], [0, 1, 2, 3, 4, 5]]


def test_methods_of_one_name_are_numbered(make):
    one = make("x", {"i": {"psnr": 1.0}})
    assert Sheet((one, one, make("y", {"i": {}}))).methods == ("x (1)", "x (2)", "y")


def test_results_of_other_images_are_refused(make):
    one, two = make("one", {"a": {}, "b": {}}), make("two", {"b": {}, "c": {}})
    with pytest.raises(
        ValueError, match=r"one and two are not of the same images: 2 are in one only \(a, c\)"
    ):
        Sheet((one, two))
    with pytest.raises(ValueError, match="no result given"):
        Sheet(())


def test_sides_are_input_and_best_method_or_two_methods(make):
    scores, files = {"i": {"psnr": 10.0}}, {"i": {"pred": "p", "lq": "l"}}
    best = make("best", {"i": {"psnr": 20.0}}, files)
    assert Sheet((make("one", scores, files), best)).sides == (0, 2)
    bare = Sheet((make("best", {"i": {"psnr": 20.0}}), make("one", scores)))
    assert [pane.title for pane in bare.panes] == ["best", "one"] and bare.sides == (1, 0)
