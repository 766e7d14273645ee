import io
import json
import tarfile
from pathlib import Path

import pytest

from diffbir_jax.data.example import BrokenExampleError, DataError, Source
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import check_copies, check_reads, place_on, png, put

IMAGES = [png(i) for i in range(5)]
# Members apart from each other, long names, several dots, and what is no part of an example.
SHARDS: list[dict[str, bytes]] = [
    {
        "d/1.png": IMAGES[0],
        "d/1.txt": b"a cat\n",
        "notes.txt": b"of nothing",
        "1.jpg": IMAGES[1],
        "d/1.json": json.dumps({"long": "a black cat", "id": 3}).encode(),
        "1.seg.png": b"a mask",
    },
    {"readme.txt": b"nothing"},
    {
        f"{'x' * 150}.WEBP": IMAGES[2],
        "3.jpeg": IMAGES[3],
        "3.json": json.dumps({"short": "s", "caption": "c", "long": None}).encode(),
        "3.txt": b"t",
        "4.png": IMAGES[4],
        "4.json": json.dumps({"caption": "c"}).encode(),
    },
]
CAPTIONS = [{"short": "a cat", "long": "a black cat"}, {}, {}, {"short": "s"}, {"short": "c"}]
STEMS = ["d/1", "1", "x" * 150, "3", "4"]


def packed(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = place_on(request.param, tmp_path)
    for i, members in enumerate(SHARDS):
        put(f"{place}/s-{i + 8:03d}.tar", packed(members))
    return place


def open_tar(path: object) -> Source:
    return make_source({"kind": "tar", "path": path})


def test_members_of_one_stem_are_one_example(place: str) -> None:
    three = [f"{place}/s-{i:03d}.tar" for i in (8, 9, 10)]
    for path in (place, f"{place}/*.tar", f"{place}/s-{{008..010}}.tar", three):
        source = open_tar(path)
        check_reads(source, IMAGES, CAPTIONS, lambda i: f"s-{(8, 8, 10, 10, 10)[i]:03d}.tar: {STEMS[i]}")
        check_copies(source)


def test_the_fingerprint_covers_where_members_lie(place: str) -> None:
    fingerprint = open_tar(place).fingerprint
    put(f"{place}/s-010.tar", packed(SHARDS[2] | {"3.txt": b"other"}))
    assert open_tar(place).fingerprint != fingerprint


WHOLE = packed(SHARDS[2])
END = -(-len(WHOLE.rstrip(b"\0")) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(WHOLE[: END - 100], "is cut off, or .*unexpected end", id="within a member"),
        pytest.param(WHOLE[: END - 700], "is cut off: its end mark is missing", id="within a header"),
        pytest.param(WHOLE[:END], "is cut off: its end mark is missing", id="between members"),
        pytest.param(b"", "is cut off, or no uncompressed tar file .*empty", id="empty"),
        pytest.param(png(0) * 10, "is cut off, or no uncompressed tar file", id="no tar"),
        pytest.param(packed(SHARDS[2], "w:gz"), "is cut off, or no uncompressed tar file", id="compressed"),
    ],
)
def test_a_shard_that_is_not_whole_is_refused(place: str, data: bytes, message: str) -> None:
    put(f"{place}/s-010.tar", data)
    with pytest.raises(DataError, match=f"s-010.tar: {message}"):
        open_tar(place)


def test_shards_of_no_use_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "x.tar", packed(SHARDS[1]))
    with pytest.raises(DataError, match=r"x.tar: no image \(.jpg, .jpeg, .png, .webp\) in 1 shard\(s\)"):
        open_tar(str(tmp_path))
    with pytest.raises(DataError, match="y.tar: no such file"):
        open_tar([str(tmp_path / "x.tar"), str(tmp_path / "y.tar")])
    with pytest.raises(DataError, match=r"the range \{3\.\.1\} is empty; give the lower number first"):
        open_tar(str(tmp_path / "{3..1}.tar"))
    with pytest.raises(DataError, match="no paths given"):
        open_tar([])


@pytest.mark.parametrize("captions", [b"{", b"[1]", b"\xff", b'{"short": {"en": "a"}}', b'{"long": [7]}'])
def test_an_image_is_kept_without_captions_that_cannot_be_read(tmp_path: Path, captions: bytes) -> None:
    put(tmp_path / "x.tar", packed({"1.png": IMAGES[0], "1.json": captions, "2.png": IMAGES[1]}))
    source = open_tar(str(tmp_path))
    assert source[0].image == IMAGES[0] and not source[0].captions
    assert "x.tar: 1: its captions cannot be read (" in source[0].fault
    assert source[1].image == IMAGES[1] and not source[1].fault


def test_of_a_list_of_captions_the_first_text_counts(tmp_path: Path) -> None:
    captions = json.dumps({"short": ["a dog", "a cat"], "long": []}).encode()
    put(tmp_path / "x.tar", packed({"1.png": IMAGES[0], "1.json": captions}))
    assert open_tar(str(tmp_path))[0].captions == {"short": "a dog"}


def test_a_shard_that_shrinks_breaks_what_it_lost(tmp_path: Path) -> None:
    path = put(tmp_path / "x.tar", packed({"1.png": IMAGES[0], "2.png": IMAGES[1]}))
    source = open_tar(path)
    put(path, packed({"1.png": IMAGES[0]})[:2048])
    assert source[0].image == IMAGES[0]
    with pytest.raises(BrokenExampleError, match="x.tar: ends before byte"):
        source[1]
