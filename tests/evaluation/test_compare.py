import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from diffbir_jax.evaluation.aggregate import interval
from diffbir_jax.evaluation.compare import (
    compare,
    comparison_csv,
    comparison_markdown,
    holm,
    paired_tests,
    read_runs,
)
from diffbir_jax.evaluation.result import write_result
from tests.evaluation.folders import make_result

SCORES = {
    "a": [20.0, 21.5, 22.25, 24.0, 21.0, 20.5],
    "b": [20.5, 21.75, 23.0, 24.125, 21.0625, 20.25],
    "c": [19.0, 20.0, 20.0, 20.0, 20.0, 15.0],
}


def results(metric: str = "psnr") -> list:
    return [make_result(name, {metric: values}) for name, values in SCORES.items()]


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_differences_are_to_the_first_with_interval_and_wins():
    found = compare(results()).differences
    assert [(each.run, each.wins, each.count) for each in found] == [("b", 5, 6), ("c", 0, 6)]
    expected = np.array(SCORES["b"]) - np.array(SCORES["a"])
    assert found[0].mean == expected.mean()
    assert (found[0].low, found[0].high) == interval(expected)


def test_lower_is_better_where_the_column_says_so():
    assert [each.wins for each in compare(results("lpips")).differences] == [1, 6]


def test_p_are_those_of_scipy_corrected_for_all_of_the_table():
    found = compare(results()).differences
    raw = []
    for name in "bc":
        wilcoxon = stats.wilcoxon(SCORES[name], SCORES["a"]).pvalue
        raw += [wilcoxon, stats.ttest_rel(SCORES[name], SCORES["a"]).pvalue]
    assert [each.wilcoxon for each in found] == pytest.approx(holm(raw[::2]))
    assert [each.ttest for each in found] == pytest.approx(holm(raw[1::2]))


def test_tests_that_say_nothing_have_no_p():
    assert paired_tests(np.array([1.0])) == (None, None)
    assert paired_tests(np.zeros(5)) == (None, None)
    wilcoxon, ttest = paired_tests(np.full(6, 0.1) + np.array([0, 0, 1, 0, 0, 0]) * 1e-17)
    assert wilcoxon == pytest.approx(2 / 2**6)
    assert ttest is None


def test_only_images_that_both_have_count():
    a = make_result("a", {"psnr": [1.0, None, 3.0, 4.0], "x": [None, 1.0, None, None], "y": [None] * 4})
    b = make_result("b", {"psnr": [2.0, 2.0, None, 6.0], "x": [1.0, None, 1.0, 1.0], "y": [1.0] * 4})
    comparison = compare([a, b])
    (found,) = comparison.differences
    assert (found.metric, found.mean, found.count) == ("psnr", 1.5, 2)
    assert comparison.notes == ("not in this table, since not every run has scores of images in it: X, Y",)


def test_different_images_are_refused_by_name():
    a = make_result("a", {"psnr": [1.0, 2.0]})
    b = make_result("b", {"psnr": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    expected = (
        r"a and b are of different images \(only in b: image2, image3, image4 and 1 more\); evaluate the same"
    )
    with pytest.raises(ValueError, match=expected):
        compare([a, b])
    with pytest.raises(ValueError, match="give two or more folders"):
        compare([a])


def test_other_ways_of_scoring_are_refused():
    def scored(name: str, crop: int = 0, **metrics: int) -> object:
        protocol = {"scoring": {"crop": crop, "metrics": {key: {"version": v} for key, v in metrics.items()}}}
        return make_result(name, {"psnr": [1.0, 2.0]}, protocol=protocol)

    with pytest.raises(ValueError, match="scored in different ways: crop is 0 and 4; evaluate both alike"):
        compare([scored("a"), scored("b", crop=4)])
    with pytest.raises(ValueError, match="psnr is {'version': 1} and {'version': 2}"):
        compare([scored("a", psnr=1), scored("b", psnr=2)])
    assert compare([scored("a", psnr=1), scored("b", ssim=2)]).differences


def test_what_else_differs_is_said():
    a = make_result("a", {"psnr": [1.0, 2.0]}, protocol={"scoring": {}, "seeds": [1], "folders": 1})
    b = make_result("b", {"psnr": [1.0, 3.0]}, protocol={"scoring": {}, "steps": 50}, versions={"numpy": "3"})
    notes = compare([a, b]).notes
    assert notes == ("a and b differ in versions: numpy", "a and b differ in protocol: seeds, steps")
    assert "\nNote: a and b differ in versions: numpy.\n" in comparison_markdown(compare([a, b]))


def test_markdown_and_csv():
    comparison = compare(results())
    lines = comparison_markdown(comparison).splitlines()
    found = comparison.differences[0]
    assert lines[2].startswith(f"| PSNR | b | +0.24 | [{found.low:+.2f}, {found.high:+.2f}] | 5/6 | 0.")
    assert any(line.startswith("Differences to a; ") for line in lines)
    rows = list(csv.DictReader(comparison_csv(comparison).splitlines()))
    assert float(rows[1]["mean"]) == comparison.differences[1].mean
    one = comparison_csv(compare([make_result(name, {"psnr": [1.0]}) for name in "ab"]))
    assert one.splitlines()[1] == "psnr,PSNR,b,0.0,,,0,1,,"


def test_names_of_runs_make_no_html():
    runs = [make_result(f"<{name}>", {"psnr": [1.0, 2.0]}) for name in "ab"]
    text = comparison_markdown(compare(runs))
    assert r"| PSNR | \<b> |" in text and r"Differences to \<a>;" in text


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path):
    result = make_result("same", {"psnr": [1.0]})
    result = dataclasses.replace(
        result, images=(dataclasses.replace(result.images[0], files={"pred": "x.png", "gt": "/gt/x.png"}),)
    )
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        write_result(result, folder / "result.json")
    runs = read_runs([tmp_path / "1", tmp_path / "2"])
    assert [run.name for run in runs] == [str(tmp_path / "1"), str(tmp_path / "2")]
    assert runs[1].images[0].files == {"pred": str(tmp_path / "2/x.png"), "gt": "/gt/x.png"}
    with pytest.raises(FileNotFoundError, match="give the folder that diffbir evaluate wrote"):
        read_runs([tmp_path / "1", tmp_path])
