import csv
import io
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from diffbir_jax.data.example import DataError
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import check_copies, check_reads, place_on, png, put

ROWS = {
    "id": [7, 8, 9, 10],
    "image_path": ["b/1.png", "0.png", None, "2.png"],
    "short": ["a cat", "a\ndog, wet", "nobody", None],
    "long": ["a black cat", "", "nobody", "a bird"],
}
IMAGES = [png(1), png(0), png(2)]
CAPTIONS = [{"short": "a cat", "long": "a black cat"}, {"short": "a\ndog, wet"}, {"long": "a bird"}]


def write(place: str, columns: dict[str, list]) -> str:
    if place.endswith(".csv"):
        buffer = io.StringIO()
        csv.writer(buffer).writerows([columns, *zip(*columns.values())])
        return put(place, buffer.getvalue())
    with fsspec.open(place, "wb", auto_mkdir=True) as file:
        pyarrow.parquet.write_table(pa.table(columns), file)
    return place


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = place_on(request.param, tmp_path)
    for i, name in enumerate(["0.png", "b/1.png", "2.png"]):
        put(f"{place}/{name}", png(i))
    return place


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_gives_images_and_captions(place: str, suffix: str) -> None:
    """Null captions are none, and a row without a path does not count."""
    source = make_source({"kind": "table", "path": write(f"{place}/t.{suffix}", ROWS)})
    check_reads(source, IMAGES, CAPTIONS, lambda i: f"{place}/{['b/1', '0', '2'][i]}.png")
    check_copies(source)


def test_tables_are_read_one_behind_the_other(place: str, tmp_path: Path) -> None:
    """Whatever their kinds, from a root that is elsewhere, and one of them without captions."""
    first = write(f"{tmp_path}/x/1.parquet", ROWS)
    write(f"{tmp_path}/x/2.csv", {"image_path": ["0.png"]})
    for path in (f"{tmp_path}/x", f"{tmp_path}/x/*.*", [first, f"{tmp_path}/x/2.csv"]):
        source = make_source({"kind": "table", "path": path, "root": place})
        check_reads(source, [*IMAGES, png(0)], [*CAPTIONS, {}], lambda i: ".png")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_columns_may_have_other_names(place: str, suffix: str) -> None:
    """And what looks like a number in CSV is text."""
    path = write(f"{place}/t.{suffix}", {"file": ["0.png"], "tags": ["007"], "long": ["x"]})
    source = make_source({"kind": "table", "path": path, "path_column": "file", "short_column": "tags"})
    check_reads(source, [png(0)], [{"short": "007", "long": "x"}], lambda i: "0.png")


def test_categories_are_texts(place: str) -> None:
    path = f"{place}/t.parquet"
    write(path, {"image_path": ["0.png"] * 2, "short": pa.array(["cat", None]).dictionary_encode()})
    source = make_source({"kind": "table", "path": path})
    check_reads(source, [png(0)] * 2, [{"short": "cat"}, {}], lambda i: "0.png")


EMPTY = {
    "image_path": ["0.png", "b/1.png", "2.png", "NaN"],
    "short": ["None", " nan ", "a cat", "x"],
    "long": ["", "NULL", "<NA>", "x"],
}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_words_that_programs_write_for_no_text_are_none(place: str, suffix: str) -> None:
    source = make_source({"kind": "table", "path": write(f"{place}/t.{suffix}", EMPTY)})
    check_reads(source, [png(0), png(1), png(2)], [{}, {}, {"short": "a cat"}], lambda i: ".png")


def test_a_column_of_numbers_that_are_none_is_no_caption(place: str) -> None:
    """As pandas writes a column without any text."""
    path = write(f"{place}/t.parquet", {"image_path": ["0.png"], "short": [float("nan")]})
    check_reads(make_source({"kind": "table", "path": path}), [png(0)], [{}], lambda i: "0.png")


@pytest.mark.parametrize("name", ["caption", "text"])
def test_captions_have_the_names_that_folders_know(place, name):
    path = write(f"{place}/t.parquet", {"image_path": ["0.png"], name: ["a cat"]})
    check_reads(
        make_source({"kind": "table", "path": path}), [png(0)], [{"short": "a cat"}], lambda i: "0.png"
    )


LINES = """{"image_path": "0.png", "short": "a\\ncat"}

{"image_path": "b/1.png", "short": NaN, "long": null, "id": 3}
{"image_path": null, "short": "nobody"}
{"image_path": "2.png", "long": 7}
"""


def test_lines_of_json_are_a_table(place: str) -> None:
    source = make_source({"kind": "table", "path": put(f"{place}/t.jsonl", LINES)})
    check_reads(source, [png(0), png(1), png(2)], [{"short": "a\ncat"}, {}, {"long": "7"}], lambda i: ".png")
    check_copies(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.jsonl: is empty; give a file with an object per line"),
        ('{"image_path": "0.png"}\n{', "t.jsonl: cannot be read .line 2 is no JSON"),
        ("[1]", "t.jsonl: cannot be read .line 1 is no object"),
        ('{"file": "0.png"}', "t.jsonl: has no column image_path for path; it has file"),
    ],
)
def test_lines_that_are_no_table_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_source({"kind": "table", "path": put(tmp_path / "t.jsonl", content)})


def test_the_fingerprint_covers_the_captions(place: str) -> None:
    one = make_source({"kind": "table", "path": write(f"{place}/1.csv", ROWS)})
    two = make_source({"kind": "table", "path": write(f"{place}/2.parquet", ROWS)})
    other = ROWS | {"short": ["a bat", *ROWS["short"][1:]]}
    three = make_source({"kind": "table", "path": write(f"{place}/3.csv", other)})
    assert one.fingerprint == two.fingerprint != three.fingerprint


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        (
            {"file": ["0.png"], "short": ["x"]},
            {},
            "t.*: has no column image_path for path; it has file, short",
        ),
        (ROWS, {"short_column": "tags"}, "has no column tags for short; it has id, image_path, short, long"),
        ({"image_path": ["", " "]}, {}, r"t.*: no row of 1 table\(s\) has a path in column image_path"),
        ({"image_path": ["x.png"]}, {}, "none of 1 looked for is there, such as .*x.png"),
    ],
)
def test_a_table_of_no_use_is_refused(
    tmp_path: Path, suffix: str, columns: dict, fields: dict, message: str
) -> None:
    path = write(f"{tmp_path}/t.{suffix}", columns)
    with pytest.raises(DataError, match=message):
        make_source({"kind": "table", "path": path} | fields)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"not parquet", "t.parquet: cannot be read .*[Pp]arquet"),
        ("t.csv", b"", "t.csv: cannot be read .*[Ee]mpty"),
        ("t.csv", b"image_path,short\na.png\n", "t.csv: cannot be read .*2 columns"),
        ("t.xlsx", b"-", "t.xlsx: is no table of a known kind; give .parquet or .csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        make_source({"kind": "table", "path": path})


@pytest.mark.parametrize("paths", [[[1], [2]], [["0.png"], None], [1, None], [0.5, 1.0], [True, False]])
def test_a_column_of_paths_that_are_no_texts_is_refused(tmp_path: Path, paths: list) -> None:
    path = write(f"{tmp_path}/t.parquet", {"image_path": paths})
    with pytest.raises(DataError, match="t.parquet: column image_path holds .*, but a path is a text"):
        make_source({"kind": "table", "path": path})


@pytest.mark.parametrize("cell", ["7", '["0.png"]', "{}", "true"])
def test_a_line_whose_path_is_no_text_is_refused(tmp_path: Path, cell: str) -> None:
    path = put(tmp_path / "t.jsonl", f'{{"image_path": "0.png"}}\n{{"image_path": {cell}}}')
    with pytest.raises(DataError, match="t.jsonl: image_path of row 2 is .*, but a path is a text"):
        make_source({"kind": "table", "path": path})


CELLS = """{"image_path": "0.png", "short": ["", "a dog", "a cat"], "long": {"en": "a dog"}}
{"image_path": "b/1.png", "short": [1, 2], "long": []}
{"image_path": "2.png", "short": true, "long": 7}"""


def test_of_a_list_the_first_text_counts_and_what_is_no_text_is_said_once(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source({"kind": "table", "path": put(f"{place}/t.jsonl", CELLS)})
    check_reads(source, [png(0), png(1), png(2)], [{"short": "a dog"}, {}, {"long": "7"}], lambda i: ".png")
    (record,) = caplog.records
    assert "3 captions are neither a text nor a list of texts and are left out" in record.getMessage()


def test_columns_of_lists_in_parquet_give_their_first_text(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {
        "image_path": ["0.png", "b/1.png", "2.png"],
        "short": [["a dog", "a cat"], [], None],
        "long": [{"en": "a"}, None, None],
    }
    source = make_source({"kind": "table", "path": write(f"{place}/t.parquet", columns)})
    check_reads(source, [png(0), png(1), png(2)], [{"short": "a dog"}, {}, {}], lambda i: ".png")
    (record,) = caplog.records
    assert (
        "1 captions are neither a text nor a list of texts and are left out, the first is long of row 1"
        in (record.getMessage())
    )
