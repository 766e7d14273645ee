"""The drawing of both stages: it is the script's, and its boxes lead to files."""

import re
from xml.etree import ElementTree

from scripts import draw_figure


def test_the_drawing_is_the_one_that_the_script_makes() -> None:
    assert draw_figure.DRAWING.read_text("utf-8") == draw_figure.svg()


def test_every_box_leads_to_a_file() -> None:
    links = [
        each.attrib["href"]
        for each in ElementTree.fromstring(draw_figure.svg()).iter()
        if "href" in each.attrib
    ]
    assert len(links) == len(draw_figure.BOXES)
    for link in links:
        assert (draw_figure.DRAWING.parent / link).is_file(), link


def test_the_page_has_a_row_per_box() -> None:
    page = draw_figure.DRAWING.with_suffix(".md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \|.*\|$", page, re.MULTILINE)
    assert [row for row in rows if row != "box"] == [box.text for box in draw_figure.BOXES]
    for box in draw_figure.BOXES:
        assert f"(../diffbir_jax/{box.file})" in page, box.file


def test_boxes_do_not_overlap_and_lie_inside() -> None:
    width, height = draw_figure.SIDES
    for number, box in enumerate(draw_figure.BOXES):
        assert 0 <= box.x <= draw_figure.WIDTH - width and 0 <= box.y <= draw_figure.HEIGHT - height
        for other in draw_figure.BOXES[:number]:
            assert abs(box.x - other.x) >= width or abs(box.y - other.y) >= height, (box.text, other.text)
