"""Captions of a folder: a .txt beside each image, and tables in the folder."""

import logging
import os
from pathlib import Path

import pytest

from diffbir_jax.data.captions import clean
from diffbir_jax.data.example import DataError, Source
from diffbir_jax.data.items import Items
from diffbir_jax.data.order import index_at
from diffbir_jax.data.setup import make_loaders
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import check_copies, check_reads, place_on, png, put

NAMES = ["a.png", "b/c.jpg", "d.v2.png"]
IMAGES = [png(i) for i in range(3)]


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = place_on(request.param, tmp_path)
    for name, image in zip(NAMES, IMAGES):
        put(f"{place}/{name}", image)
    return place


def source_of(place: str) -> Source:
    return make_source({"kind": "folder", "path": place})


def test_a_text_beside_an_image_is_its_caption(place: str) -> None:
    put(f"{place}/b/c.txt", b"\xef\xbb\xbf a cat \n")
    put(f"{place}/d.txt", "of no image")
    put(f"{place}/d.v2.txt", "NaN\n")
    source = source_of(place)
    check_reads(source, IMAGES, [{}, {"short": "a cat"}, {}], lambda i: NAMES[i])
    check_copies(source)


TABLES = {
    "metadata.jsonl": """{"file_name": "a.png", "text": "a dog"}
{"file_name": "./b/c.jpg", "text": null, "long": "a black cat"}
{"file_name": "d.v2.png", "text": NaN}
{"file_name": "absent.png", "text": "nobody"}""",
    "metadata.csv": "file_name,text,long\na.png,a dog,\nb/c.jpg,None,a black cat\nd.v2.png,NaN,nan\nabsent.png,x,x\n",
    "captions.csv": "image_path,caption,long\na.png,a dog,null\nb/c.jpg,,a black cat\nd.v2.png\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_in_the_folder_has_captions(place: str, table: str) -> None:
    """Empty cells and words for no text are none."""
    put(f"{place}/{table}", TABLES[table])
    source = source_of(place)
    check_reads(source, IMAGES, [{"short": "a dog"}, {"long": "a black cat"}, {}], lambda i: NAMES[i])
    check_copies(source)


def test_the_text_beside_an_image_comes_before_the_table(place: str) -> None:
    put(f"{place}/metadata.csv", "file_name,text,long\na.png,a dog,a red dog\n")
    put(f"{place}/a.txt", "a wet dog")
    assert source_of(place)[0].captions == {"short": "a wet dog", "long": "a red dog"}


def test_the_fingerprint_changes_only_with_captions(place: str) -> None:
    without = source_of(place).fingerprint
    put(f"{place}/notes.txt", "of no image")
    assert source_of(place).fingerprint == without
    put(f"{place}/metadata.csv", "file_name,text\na.png,a dog\n")
    table = source_of(place).fingerprint
    put(f"{place}/a.txt", "a dog")
    assert len({without, table, source_of(place).fingerprint}) == 3


def test_a_table_without_captions_for_these_images_is_told(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(f"{place}/metadata.csv", "id,size\n1,2\n")
    assert source_of(place)[0].captions == {}
    (record,) = caplog.records
    assert "metadata.csv: has no caption for any image here; give caption or text" in record.getMessage()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "line 1 is no JSON"), (b"[]", "line 1 is no object"), (b"\xff", "utf-8")],
)
def test_a_damaged_table_is_refused(place: str, content: bytes, message: str) -> None:
    put(f"{place}/metadata.jsonl", content)
    with pytest.raises(DataError, match=f"metadata.jsonl: cannot be read .*{message}.*; mend it"):
        source_of(place)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("metadata.csv", "file_name,text\na.png,a dog\nb/c.jpg,\n./a.png,a cat\n"),
        ("metadata.jsonl", '{"path": "a.png"}\n\n{"path": "b/c.jpg"}\n{"path": "a.png", "text": "a cat"}'),
    ],
)
def test_two_rows_for_one_image_are_refused(place: str, name: str, rows: str) -> None:
    """Also where one of them has no caption; rows for images that are not there do not matter."""
    put(f"{place}/{name}", rows)
    with pytest.raises(
        DataError, match=rf"{name}: cannot be read \(rows 1 and 3 are both for a\.png\); mend it"
    ):
        source_of(place)
    put(f"{place}/{name}", rows.replace("a.png", "absent.png"))
    assert source_of(place)[0].captions == {}


@pytest.mark.parametrize(
    "text", [b"caf\xe9", "a cat".encode("utf-16-le"), "a cat".encode("utf-32"), b"\xff\xfea"]
)
def test_an_image_is_kept_without_a_caption_that_is_no_text(place: str, text: bytes) -> None:
    """A training with captions takes another image in its place, as before; one without does not mind."""
    put(f"{place}/a.txt", text)
    source = source_of(place)
    check_reads(source, IMAGES, [{}, {}, {}], lambda i: NAMES[i])
    assert source[0].fault.startswith(f"{place}/a.txt: is no UTF-8 text (") and not source[1].fault
    first = next(i for i in range(3) if index_at(i, 3, 0) == 0)
    hq = Items(source, lambda image, rng: image)
    assert not hq(first)["broken"]
    prompts = Items(source, hq.crop, caption=lambda captions, rng: "")
    assert prompts(first)["broken"][0] == (0, source[0].fault)


@pytest.mark.parametrize("code", ["utf-16-le", "utf-16-be"])
def test_a_text_in_utf_16_with_its_mark_is_read(place: str, code: str) -> None:
    put(f"{place}/a.txt", "\ufeffa caf\u00e9".encode(code))
    put(f"{place}/metadata.csv", "\ufefffile_name,text\nb/c.jpg,a caf\u00e9\n".encode(code))
    check_reads(source_of(place), IMAGES, [{"short": "a caf\u00e9"}] * 2 + [{}], lambda i: NAMES[i])


def test_what_is_no_regular_file_is_not_opened_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening a pipe would wait."""
    for i in range(4):
        put(tmp_path / f"{i}.png", png(i))
    os.mkfifo(tmp_path / "0.txt")
    (tmp_path / "1.txt").mkdir()
    (tmp_path / "2.txt").symlink_to("/dev/zero")
    put(tmp_path / "3.txt", "a cat")
    source = source_of(str(tmp_path))
    assert [dict(source[i].captions) for i in range(4)] == [{}, {}, {}, {"short": "a cat"}]
    (record,) = caplog.records
    assert "3 names of captions are no regular files and are left out, such as 0.txt" in record.getMessage()


CELLS = """{"file_name": "a.png", "text": ["", "a dog", "a cat"], "long": {"en": "a dog"}}
{"file_name": "b/c.jpg", "text": [1, 2], "long": []}
{"file_name": "d.v2.png", "text": true, "long": 7}"""


def test_of_a_list_the_first_text_counts_and_what_is_no_text_is_said_once(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(f"{place}/metadata.jsonl", CELLS)
    check_reads(source_of(place), IMAGES, [{"short": "a dog"}, {}, {"long": "7"}], lambda i: NAMES[i])
    (record,) = caplog.records
    assert (
        "3 captions are neither a text nor a list of texts and are left out, the first is long of row 1"
        in (record.getMessage())
    )


@pytest.mark.parametrize("path", ["7", '["a.png"]', "{}", "true"])
def test_a_path_that_is_no_text_is_refused(place: str, path: str) -> None:
    put(f"{place}/metadata.jsonl", f'{{"file_name": "a.png"}}\n{{"file_name": {path}, "text": "a cat"}}')
    with pytest.raises(
        DataError, match="metadata.jsonl: cannot be read .file_name of row 2 is .* a path is a text"
    ):
        source_of(place)


@pytest.mark.parametrize("text", [None, float("nan"), "", " \n", "None", "NaN", " null", "<NA>"])
def test_no_text_is_empty(text: object) -> None:
    assert clean(text) == ""


@pytest.mark.parametrize("text", ["none of them", "a nan", "0"])
def test_a_text_is_kept(text: str) -> None:
    assert clean(f" {text}\n") == text


@pytest.mark.parametrize("captions", [None, {"p_long": 0.2, "p_empty": 0.2}])
@pytest.mark.parametrize("described", [False, True])
def test_a_folder_without_captions_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, captions: dict[str, float] | None, described: bool
) -> None:
    """If captions are wanted."""
    for i in range(20):
        put(tmp_path / f"{i:02}.png", png(i))
    data = {
        **{"source": {"kind": "folder", "path": str(tmp_path)}, "batch_size": 2, "validation_size": 2},
        **{"crop": {"kind": "random", "size": 16}, "captions": captions, "held_out_every": 20},
    }
    for i in range(20 if described else 0):
        put(tmp_path / f"{i:02}.txt", "a cat")
    with caplog.at_level(logging.WARNING):
        make_loaders(data, 0)
    told = [record.getMessage() for record in caplog.records if "has a caption" in record.getMessage()]
    assert len(told) == (captions is not None and not described)
    assert all("none of 7 images looked at (of 19) has a caption" in text for text in told)
