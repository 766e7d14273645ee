"""Captions of a folder: a .txt beside each image, and tables in the folder."""

import logging
from pathlib import Path

import pytest

from diffbir_jax.data.captions import clean
from diffbir_jax.data.example import BrokenExampleError, DataError, Source
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


def test_a_text_that_is_no_text_is_one_broken_example(place: str) -> None:
    put(f"{place}/a.txt", b"\xff\xfe")
    source = source_of(place)
    with pytest.raises(BrokenExampleError, match="a.txt: is no UTF-8 text"):
        source[0]
    assert source[1].image == IMAGES[1]


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
