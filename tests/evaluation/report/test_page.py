"""The page, parsed: what stands on it, in which order, and that nothing of a name is taken for markup."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from diffbir_jax.evaluation.report import write_report
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.imaging.writing import write_png

VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """Elements of a page as (tag, attributes, text directly inside); fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag, **wanted):
        """Elements of a tag with these attributes (class_ for class)."""
        pairs = {key.rstrip("_").replace("_", "-"): value for key, value in wanted.items()}
        return [e for e in self.elements if e[0] == tag and pairs.items() <= e[1].items()]

    def texts(self, tag, **wanted):
        return [e[2] for e in self.all(tag, **wanted)]

    @property
    def data(self):
        return json.loads(self.texts("script", id="data")[0])


def read(path):
    return Page(path.read_text("utf-8"))


def test_images_stand_worst_first_by_the_perceptual_metric_under_their_own_names(painted):
    result, folder = painted
    page = read(write_report([result], folder))
    assert page.texts("h3") == ["b/</script>.png", 'c"&<i>.png', "a.png"]
    assert [e[2] for e in page.all("option", value="lpips") if "selected" in e[1]] == ["LPIPS"]
    assert {image["name"] for image in page.data["images"].values()} == set(page.texts("h3"))


def test_names_are_never_markup(painted):
    result, folder = painted
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    result = replace(
        result,
        name=evil,
        protocol={evil: {evil: evil}},
        unavailable={evil: evil},
        images=tuple(replace(image, problems={evil: evil}) for image in result.images),
        columns={key: replace(column, title=evil) for key, column in result.columns.items()},
    )
    page = read(write_report([result, replace(result, name="other" + evil)], folder))
    assert len(page.all("script")) == 2
    assert not [e for e in page.elements if "onerror" in e[1]]
    assert evil in page.texts("td") and f"{evil}.{evil}" in page.texts("th", scope="row")


def test_names_that_are_no_text_are_escaped(make, tmp_path):
    page = write_report([make("m\udcff", {"a\udcfe.png": {"psnr": 1.0}})], tmp_path)
    assert r"m\udcff" in page.read_text("utf-8")


def test_every_address_is_a_copy_beside_the_page(painted):
    """Pictures are equal to their files, small enough for PNG; nothing is fetched from anywhere else."""
    result, folder = painted
    page = read(write_report([result], folder))
    used = {e[1][key] for e in page.elements for key in ("src", "href") if key in e[1]}
    pictures = {address for address in used if not address.startswith(("#", "data:"))}
    assert pictures == {f"report/0000{i}-{mark}.png" for i in range(3) for mark in ("lq", "gt", "1")}
    for address, source in (("report/00001-lq.png", "l1.png"), ("report/00002-1.png", "p2.png")):
        np.testing.assert_array_equal(read_image(folder / address), read_image(folder / source))
    assert "http" not in page.texts("style")[0].replace("http://www.w3.org/2000/svg", "")
    assert all(e[1]["loading"] == "lazy" for e in page.all("img"))


def test_two_runs_write_the_same_bytes(painted):
    result, folder = painted
    first = {path: path.read_bytes() for path in [write_report([result], folder), *folder.glob("report/*")]}
    write_report([result], folder)
    assert first == {path: path.read_bytes() for path in [folder / "report.html", *folder.glob("report/*")]}


def test_large_pictures_become_jpeg_and_absolute_paths_are_read(make, tmp_path):
    write_png(tmp_path / "large.png", np.tile(np.arange(520, dtype=np.uint8)[:, None, None], (1, 530, 3)))
    files = {"x": {"pred": str(tmp_path / "large.png")}}
    page = read(write_report([make("m", {"x": {"psnr": 20.0}}, files)], tmp_path / "elsewhere"))
    assert page.data["images"]["0"]["pictures"] == ["report/00000-1.jpg"]
    copy = read_image(tmp_path / "elsewhere/report/00000-1.jpg").astype(int)
    assert np.abs(copy - read_image(tmp_path / "large.png")).mean() < 2
    assert page.all("article")[0][1]["style"] == f"--ratio:{530 / 520:.4f}"


def test_missing_and_damaged_pictures_are_said_and_scores_stay(painted):
    result, folder = painted
    (folder / "p1.png").unlink()
    (folder / "l1.png").write_bytes(b"not an image")
    page = read(write_report([result], folder))
    assert page.data["images"]["1"]["pictures"] == [None, "report/00001-gt.png", None]
    missing = [e for e in page.all("p") if e[2] == "picture not found" and "hidden" not in e[1]]
    assert len(missing) == 2 and "0.5000" in page.texts("td")


def test_only_the_worst_get_pictures_and_the_page_counts_the_others(painted):
    result, folder = painted
    (folder / "report").mkdir()
    for name in ("00002-1.png", "mine.png"):
        (folder / "report" / name).write_bytes(b"")
    page = read(write_report([result], folder, cases=1))
    assert page.texts("h3") == ["b/</script>.png"]
    assert any("1 image, the worst by any metric; 2 more" in text for text in page.texts("p"))
    assert len(page.all("circle")) == 2  # one per metric with scores by image
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {
        "00001-lq.png",
        "00001-gt.png",
        "00001-1.png",
        "mine.png",
    }  # old copies go, other files stay
    with pytest.raises(ValueError, match="cases is -1"):
        write_report([result], folder, cases=-1)


def test_the_summary_marks_what_is_best_and_says_what_is_missing(make, tmp_path):
    rows = {"A": (0.3, 20.0), "B": (0.1, 20.001), "C": (0.2, 19.0)}
    results = [make(name, {"x": {"lpips": d, "psnr": p}, "y": {"psnr": p}}) for name, (d, p) in rows.items()]
    results[0] = replace(results[0], unavailable={"dists": "no weights"})
    results[1] = replace(
        results[1], images=tuple(replace(i, problems={"psnr": "why"}) for i in results[1].images)
    )
    page = read(write_report(results, tmp_path))
    assert "0.1000" in page.texts("b") and "0.3000" not in page.texts("b")
    assert (
        page.texts("b").count("20.00") == 2 + 2 * 2
    )  # A and B look equal: in the table, and for either image
    assert "of 1 image" in page.texts("small") and "[19.99, 20.01]" in page.texts("small")
    assert "dists (A)" in page.texts("b") and page.texts("li") == [": no weights"]
    assert page.texts("p", class_="note").count("PSNR (B): why") == 2
    orders = {e[1]["value"]: e[2] for e in page.all("option")}
    assert orders["1-0"] == "B against A" and orders["any"] == "any method"
    assert page.texts("option", selected=None)[1] == "B"  # the best by LPIPS


def test_details_mark_where_methods_differ(make, tmp_path):
    one = make("A", {"x": {}}, protocol={"crop": 4, "sampler": {"steps": 50}}, versions={"python": "3.11"})
    two = replace(one, name="B", protocol={"crop": 4, "sampler": {"steps": 10}})
    page = read(write_report([one, two], tmp_path))
    assert page.texts("th", scope="row")[:3] == ["crop", "sampler.steps ", "python"]
    assert len(page.all("tr", class_="differs")) == 1
    assert {"50", "10"} <= set(page.texts("td")) and page.all("td", colspan="2")[0][2] == "4"


def test_a_page_without_any_score_still_shows_images(painted):
    result, folder = painted
    bare = replace(result, images=tuple(replace(i, scores={}) for i in result.images), summary={})
    page = read(write_report([bare], folder))
    assert page.texts("h3") == [image.name for image in result.images]
    assert not page.all("svg")
