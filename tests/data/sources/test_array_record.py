import os
import threading
from pathlib import Path

import fsspec
import msgpack
import pytest

from diffbir_jax.data.example import BrokenExampleError, DataError, Source
from diffbir_jax.data.sources import make_source
from diffbir_jax.data.sources.array_record import pack, write_shard
from tests.data.sources.samples import check_copies, check_reads, png, put

IMAGES = [png(i) for i in range(5)]
CAPTIONS = [{}, {"short": "a"}, {"long": "b"}, {"short": "c", "long": "d"}, {}]
RECORDS = [pack(f"{i}.png", image, captions) for i, (image, captions) in enumerate(zip(IMAGES, CAPTIONS))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of three shards, the second of them empty."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for i, records in enumerate([RECORDS[:2], [], RECORDS[2:]]):
        write_shard(folder / f"s-{i:05d}-of-00003.array_record", records)
    return folder


def open_shards(path: Path | str, **fields: str) -> Source:
    return make_source({"kind": "array_record", "path": str(path)} | fields)


def check(source: Source) -> None:
    check_reads(source, IMAGES, CAPTIONS, lambda i: f"{i}.png")
    assert source[3].name == "s-00002-of-00003.array_record, record 1: 3.png"
    check_copies(source)


def test_shards_are_read_in_order(shards: Path) -> None:
    for path in (shards, shards / "*.array_record", shards / "s-{00000..00002}-of-00003.array_record"):
        check(open_shards(path))


def test_remote_shards_are_copied_once(shards: Path, tmp_path: Path) -> None:
    """What a run that was cut off left in the cache is no shard; one that changed is copied again."""
    url, memory = f"memory://{tmp_path.name}", fsspec.filesystem("memory")
    for file in shards.iterdir():
        put(f"{url}/{file.name}", file.read_bytes())
    check(open_shards(url, cache=str(tmp_path / "cache")))
    copies = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert len(copies) == 3 + 1, "the shards and fsspec's notes"
    source = open_shards(url, cache=str(tmp_path / "cache"))
    written = {name: (tmp_path / "cache" / name).stat().st_mtime_ns for name in copies if name != "cache"}
    assert written.items() <= copies.items()
    write_shard(tmp_path / "new", RECORDS[:1])
    memory.pipe(f"{url}/s-00001-of-00003.array_record", (tmp_path / "new").read_bytes())
    longer = open_shards(url, cache=str(tmp_path / "cache"))
    assert len(longer) == 6 and longer[2].image == IMAGES[0]
    assert longer.fingerprint != source.fingerprint


def test_threads_may_share_a_source(shards: Path) -> None:
    source, wrong = open_shards(shards), []

    def read(first: int) -> None:
        for i in range(first, first + 200):
            if source[i % 5].image != IMAGES[i % 5]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_may_read_while_its_parent_does(shards: Path) -> None:
    """The parent's handle, open when it forked, is none of the child's."""
    source = open_shards(shards)
    source[0]
    child = os.fork()
    if child == 0:
        right = all(source[i % 5].image == IMAGES[i % 5] for i in range(200))
        os._exit(0 if right else 1)
    assert all(source[i % 5].image == IMAGES[i % 5] for i in range(200))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_equal_records_give_equal_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / name, RECORDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xc1", "is no msgpack map of name, image, short and long"),
        (b"", "is no msgpack map"),
        (msgpack.packb([1, 2]), "is no msgpack map"),
        (msgpack.packb({"name": "x"}), "is no msgpack map"),
        (msgpack.packb({"name": "x", "image": "text"}), "its image is str, not bytes"),
    ],
)
def test_a_record_of_another_kind_is_one_broken_example(tmp_path: Path, record: bytes, message: str) -> None:
    write_shard(tmp_path / "x.array_record", [RECORDS[0], record, RECORDS[2]])
    source = open_shards(tmp_path)
    with pytest.raises(BrokenExampleError, match=f"x.array_record, record 1: {message}"):
        source[1]
    assert source[2].image == IMAGES[2]


def test_a_damaged_record_is_one_broken_example(shards: Path) -> None:
    path = shards / "s-00002-of-00003.array_record"
    data = bytearray(path.read_bytes())
    data[data.index(IMAGES[3]) + 50] ^= 1
    path.write_bytes(data)
    source = open_shards(shards)
    with pytest.raises(
        BrokenExampleError, match="s-00002-of-00003.array_record, record 1: cannot be read .*hash"
    ):
        source[3]
    assert source[4].image == IMAGES[4]


@pytest.mark.parametrize("keep", [0, 300, -10])
def test_a_shard_that_is_cut_off_is_refused(shards: Path, keep: int) -> None:
    path = shards / "s-00002-of-00003.array_record"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match="s-00002-of-00003.array_record: is no ArrayRecord file, or is cut off"
    ):
        open_shards(shards)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "x.array_record", png(0) * 200)
    with pytest.raises(DataError, match="x.array_record: is no ArrayRecord file"):
        open_shards(tmp_path)


def test_no_shard_and_no_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches; give files, globs or folders of \*.array_record"):
        open_shards(tmp_path)
    with pytest.raises(DataError, match="no such file or folder; check the path"):
        open_shards(tmp_path / "x.array_record")
    write_shard(tmp_path / "x.array_record", [])
    with pytest.raises(DataError, match=r"x.array_record: no record in 1 shard\(s\)"):
        open_shards(tmp_path)
