import csv
import dataclasses
from pathlib import Path

import pytest

from diffbir_jax.evaluation.result import Column, Result, Summary
from diffbir_jax.evaluation.tables import (
    digits,
    escape,
    images_csv,
    latex,
    make_tables,
    markdown,
    write_tables,
)
from tests.evaluation.folders import make_result


def with_means(name: str, **means: float) -> Result:
    """A result of two images that has these means with intervals one wide."""
    result = make_result(name, {key: [mean, mean] for key, mean in means.items()})
    summary = {key: Summary(mean, mean - 0.5, mean + 0.5, 2) for key, mean in means.items()}
    return dataclasses.replace(result, summary=summary)


def rows(results: list[Result], **more: object) -> list[list[str]]:
    """Cells of the first Markdown table."""
    text = markdown(make_tables(results, **more)[0])
    return [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines()]


def test_the_best_value_is_bold_in_its_direction():
    two = [with_means("a", psnr=20.0, lpips=0.25), with_means("b", psnr=21.0, lpips=0.5)]
    head, _, a, b = rows(two)
    assert head == ["method", "PSNR ↑", "LPIPS ↓"]
    assert a == ["a", "20.00 [19.50, 20.50]", "**0.2500** [-0.2500, 0.7500]"]
    assert b == ["b", "**21.00** [20.50, 21.50]", "0.5000 [0.0000, 1.0000]"]
    assert rows(two, intervals=False)[2] == ["a", "20.00", "**0.2500**"]


def test_values_that_print_alike_are_equally_good():
    results = [with_means(name, psnr=mean) for name, mean in (("a", 20.001), ("b", 20.002), ("c", 19))]
    assert [row[1].split()[0] for row in rows(results)[2:]] == ["**20.00**", "**20.00**", "19.00"]


def test_one_method_alone_is_not_the_best():
    assert rows([with_means("a", psnr=20.0)])[2][1].startswith("20.00")


def test_what_has_no_number_is_a_dash_with_its_reason():
    a = make_result("a", {"psnr": [1.0, None, 3.0], "lpips": [None] * 3})
    b = make_result("b", {"psnr": [1.0, 2.0, 3.0], "musiq": [1.0, 2.0, 3.0]})
    b = dataclasses.replace(b, summary={"psnr": b.summary["psnr"]}, unavailable={"musiq": "no weights"})
    table = make_tables([a, b], intervals=False)[0]
    cells = [[cell.value for cell in row] for _, row in table.rows]
    assert cells == [["2.00", "-", "-"], ["2.00", "-", "-"]]
    assert [[cell.note for cell in row] for _, row in table.rows] == [[1, 2, 3], [0, 3, 4]]
    assert list(table.notes) == [
        "mean of 2 of 3 images: image1: no number",
        "no score of any image: image0: no number and 2 more",
        "not evaluated",
        "not run: no weights",
    ]
    assert "| b | 2.00 | - (3) | - (4) |" in markdown(table)
    assert "\n(4) not run: no weights\n" in markdown(table)
    assert r"b & 2.00 & -$^{3}$ & -$^{4}$ \\" in latex(table)


def test_the_best_is_a_mean_of_all_images():
    a = make_result("a", {"psnr": [9.0, None, 9.0]})
    b, c = (make_result(name, {"psnr": [1.0, 2.0, level]}) for name, level in (("b", 3.0), ("c", 4.5)))
    rows = make_tables([a, b, c], intervals=False)[0].rows
    assert [cells[0].best for _, cells in rows] == [False, False, True]


def test_deviations_over_seeds_have_a_table_of_their_own():
    a = make_result("a", {"psnr": [1.0, 2.0], "psnr_gstd": [0.25, 0.25]})
    columns = {"psnr": a.columns["psnr"], "psnr_gstd": Column("PSNR G-STD", "lower", "spread", 1)}
    a = dataclasses.replace(a, columns=columns)
    scores, spreads = make_tables([make_result("b", {"psnr": [1.0, 2.0]}), a], intervals=False)
    assert [column.title for column in scores.columns] == ["PSNR"]
    assert [(name, cells[0].value) for name, cells in spreads.rows] == [("a", "0.250")]
    assert spreads.caption.startswith("Standard deviations over the results of one image: ")
    assert len(make_tables([make_result("b", {"psnr": [1.0]})])) == 1


def test_digits_are_those_that_matter():
    assert [digits(name) for name in ("psnr", "ssim", "fid", "psnr_gstd", "unknown")] == [2, 4, 2, 3, 4]


def test_names_cannot_break_a_table():
    result = make_result("a|b_50%", {"psnr": [1.0, 2.0]})
    table = make_tables([result])[0]
    assert r"| a\|b_50% |" in markdown(table)
    assert r"a\textbar{}b\_50\% &" in latex(table)
    assert escape("\\~^{}$&#") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\$\&\#"


@pytest.mark.parametrize(
    "name, shown",
    [
        ("<script>x</script>", r"\<script>x\</script>"),
        ("![x](https://example.org)", r"![x]\(https://example.org)"),
        (r"\<b>", r"\\\<b>"),
        ("**best**", r"\*\*best\*\*"),
        (r"C:\runs\my_model (2)", r"C:\runs\my_model (2)"),
    ],
)
def test_names_make_no_html_no_link_and_nothing_bold(name: str, shown: str):
    table = make_tables(
        [dataclasses.replace(make_result(name, {"psnr": [1.0]}), unavailable={"psnr": name})]
    )[0]
    assert f"| {shown} |" in markdown(table) and f"not run: {shown}\n" in markdown(table)


def test_signs_that_latex_prints_as_others_are_named():
    assert escape("<a>") == r"\textless{}a\textgreater{}"


def test_latex_has_a_tabular_with_as_many_cells_per_row():
    text = latex(make_tables([with_means("a", psnr=20.0, ssim=0.5), with_means("b", psnr=21.0, ssim=0.5)])[0])
    assert r"\begin{tabular}{lrr}" in text
    assert r"Method & PSNR $\uparrow$ & SSIM $\downarrow$ \\" in text
    assert r"b & \textbf{21.00} {\scriptsize [20.50, 21.50]} & " in text
    assert all(line.count(" & ") == 2 for line in text.splitlines() if line.endswith(r"\\"))


def test_the_caption_tells_of_images_intervals_and_border():
    for scores, caption in (
        ([1.0, 2.0], "Means over 2 images, in brackets 95 % bootstrap intervals; border crop 4."),
        ([1.0], "Means over 1 image; border crop 4."),
    ):
        protocol = {"scoring": {"crop": 4}}
        results = [make_result("a", {"psnr": scores}, protocol=protocol) for _ in range(2)]
        assert make_tables(results)[0].caption == caption
    assert (
        make_tables([make_result("a", {"psnr": [1.0, 2.0]})], intervals=False)[0].caption
        == "Means over 2 images."
    )


def test_the_caption_tells_of_several_results_per_image():
    results = [make_result("a", {"psnr": [1.0]}, protocol={"results_per_image": n}) for n in (1, 3)]
    assert make_tables(results, intervals=False)[0].caption == "Means over 1 image, of up to 3 results each."


def test_a_method_that_did_not_run_keeps_its_row():
    none = make_result("none", {"psnr": []}, unavailable={"psnr": "no network"})
    table = make_tables([make_result("a", {"psnr": [1.0, 3.0]}), none], intervals=False)[0]
    assert [cells[0].value for _, cells in table.rows] == ["2.00", "-"]
    assert list(table.notes) == ["not run: no network"]
    assert table.caption == "Means over 2 images."
    assert make_tables([none], intervals=False)[0].caption == "Means over 0 images."


def test_csv_has_a_line_per_method_and_image_in_full_precision():
    a = make_result("a", {"psnr": [0.1 + 0.2, None]})
    b = make_result('b,"c"', {"lpips": [1.0, 2.0]})
    found = list(csv.DictReader(images_csv([a, b]).splitlines()))
    assert float(found[0]["psnr"]) == 0.1 + 0.2
    assert found[1] == {
        "method": "a",
        "image": "image1",
        "psnr": "",
        "lpips": "",
        "problems": "psnr: no number",
    }
    assert found[3] == {"method": 'b,"c"', "image": "image1", "psnr": "", "lpips": "2.0", "problems": ""}


def test_the_files_are_written_and_the_markdown_returned(tmp_path: Path):
    result = make_result("a", {"psnr": [1.0, 2.0]})
    text = write_tables([result], tmp_path)
    assert (tmp_path / "table.md").read_text() == text == markdown(make_tables([result])[0])
    assert (tmp_path / "table.tex").read_text() == latex(make_tables([result])[0])
    assert (tmp_path / "images.csv").read_text() == images_csv([result])


@pytest.mark.parametrize("name", ["a\udcff", "ünïcode ↑"])
def test_any_file_name_can_be_written(name: str, tmp_path: Path):
    write_tables([make_result(name, {"psnr": [1.0]})], tmp_path)
    assert (tmp_path / "table.md").read_text("utf-8")
