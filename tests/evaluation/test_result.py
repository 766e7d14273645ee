"""Results on disk: what was written is read, and nothing else."""

import json
from pathlib import Path

import pytest

from diffbir_jax.evaluation.result import Column, Image, Result, Summary, read_result, write_result

RESULT = Result(
    "m",
    {"crop": 4},
    {"numpy": "2"},
    {"net": "00ff"},
    {"psnr": Column("PSNR", "higher", "reference", 1)},
    (Image("a", {"psnr": 1.5}), Image("b", {"psnr": None}, {"pred": "b.png"}, {"psnr": "identical images"})),
    {"psnr": Summary(1.5, None, None, 1)},
)


def test_a_result_comes_back(tmp_path: Path):
    write_result(RESULT, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == RESULT


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("name",), 3),
        (("protocol",), []),
        (("protocol", "scoring"), None),
        (("protocol", "scoring"), "x"),
        (("protocol", "scoring"), {"metrics": 1}),
        (("protocol", "scoring"), {"crop": "4"}),
        (("protocol", "suite"), {"name": 1}),
        (("protocol", "results_per_image"), None),
        (("protocol", "results_per_image"), [2]),
        (("protocol", "images_cut_to_common"), "x"),
        (("images", 0, "scores", "psnr"), "x"),
        (("images", 1, "name"), "a"),
        (("columns", "psnr", "better"), "up"),
        (("columns",), {}),
        (("summary", "psnr", "mean"), "x"),
        (("images",), 1),
    ],
)
def test_what_was_edited_by_hand_is_one_line(path: tuple, value: object, tmp_path: Path):
    file = tmp_path / "result.json"
    write_result(RESULT, file)
    content = place = json.loads(file.read_text())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="is no result of diffbir evaluate in format 1 (.*); give the folder"
    ):
        read_result(file)
