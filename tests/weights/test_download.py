"""Downloads against servers on this machine that drop, ignore Range, lie or are missing."""

import dataclasses
import re
from pathlib import Path

import pytest

from diffbir_jax.weights import REGISTRY, MissingWeightsError, default_folder, find, transfer
from tests.weights.server import CONTENT, NAME, SHA, Server, get, names


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a")
    server.file("/a", size=len(CONTENT))
    assert get(tmp_path / "new" / "folder").read_bytes() == CONTENT
    assert get(tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / NAME
    assert len(mirror.asked) == 1 and names(tmp_path / "new" / "folder") == [NAME]


@pytest.mark.parametrize("sha256", [SHA, None], ids=["published", "unpublished"])
def test_a_dropped_connection_is_resumed_where_it_broke(
    server: Server, tmp_path: Path, sha256: str | None
) -> None:
    mirror = server.add("/a", drop_after=[300_000, 200_000])
    server.file("/a", sha256=sha256)
    assert get(tmp_path).read_bytes() == CONTENT
    assert mirror.asked == ["", "bytes=300000-", "bytes=500000-"]


def test_a_server_that_ignores_range_restarts_cleanly(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a", ranges=False, drop_after=[300_000])
    server.file("/a")
    assert get(tmp_path).read_bytes() == CONTENT
    assert mirror.asked == ["", "bytes=300000-"] and names(tmp_path) == [NAME]


def test_a_mirror_that_never_gets_to_the_end_is_left(server: Server, tmp_path: Path) -> None:
    bad = server.add("/a", ranges=False, drop_after=[1000] * 20)
    server.add("/b")
    server.file("/a", "/b")
    assert get(tmp_path).read_bytes() == CONTENT
    assert len(bad.asked) < 10


def test_a_later_call_resumes_and_a_part_is_never_the_file(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a", ranges=False, drop_after=[1000] * 20)
    server.file("/a")
    with pytest.raises(MissingWeightsError, match="broke"):
        get(tmp_path)
    assert find(NAME, tmp_path) is None and any(name.endswith(".partial") for name in names(tmp_path))
    mirror.drop_after, mirror.ranges, mirror.asked = [], True, []
    assert get(tmp_path).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1000-"] and names(tmp_path) == [NAME]


def test_the_next_mirror_goes_on_where_the_first_broke(server: Server, tmp_path: Path) -> None:
    server.add("/a", drop_after=[400_000] + [0] * 10)
    second = server.add("/b", etag='"another"')
    server.file("/a", "/b")
    assert get(tmp_path).read_bytes() == CONTENT
    assert second.asked == ["bytes=400000-"]


def test_parts_of_mirrors_are_not_mixed_without_a_checksum(server: Server, tmp_path: Path) -> None:
    server.add("/a", drop_after=[400_000] + [0] * 10)
    second = server.add("/b")
    server.file("/a", "/b", sha256=None)
    assert get(tmp_path).read_bytes() == CONTENT
    assert second.asked == [""]


def test_a_file_that_changed_on_the_server_is_not_mixed(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a", content=b"x" * len(CONTENT), drop_after=[400_000] + [0] * 10)
    server.file("/a", sha256=None)
    with pytest.raises(MissingWeightsError):
        get(tmp_path)
    mirror.content, mirror.etag, mirror.drop_after = CONTENT, '"2"', []
    assert get(tmp_path).read_bytes() == CONTENT


def test_without_etag_and_checksum_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a", etag="W/1", drop_after=[400_000])
    server.file("/a", sha256=None)
    assert get(tmp_path).read_bytes() == CONTENT
    assert mirror.asked == ["", ""]


def test_a_whole_unfinished_file_that_the_server_refuses_to_continue(server: Server, tmp_path: Path) -> None:
    server.add("/a")
    server.file("/a")
    (tmp_path / f"{NAME}.{SHA[:8]}.partial").write_bytes(CONTENT + b"too much")
    assert get(tmp_path).read_bytes() == CONTENT


def test_a_whole_part_is_kept_where_the_size_is_not_published(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a")
    server.file("/a")
    (tmp_path / f"{NAME}.{SHA[:8]}.partial").write_bytes(CONTENT)
    assert get(tmp_path).read_bytes() == CONTENT
    assert mirror.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_of_the_published_size_needs_no_request(server: Server, tmp_path: Path) -> None:
    server.file("/gone", size=len(CONTENT))
    (tmp_path / f"{NAME}.{SHA[:8]}.partial").write_bytes(CONTENT)
    assert get(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_garbage_is_thrown_away_and_the_next_mirror_tried(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    server.add("/garbage", content=b"garbage" * 1000)
    server.add("/page", content=b"<html>log in</html>", kind="text/html; charset=utf-8")
    server.add("/b")
    server.file("/garbage", "/page", "/gone", "/b", size=size)
    assert get(tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


def test_a_good_mirror_is_not_blamed_for_the_bad_beginning_of_another(server: Server, tmp_path: Path) -> None:
    server.add("/a", content=b"x" * len(CONTENT), drop_after=[400_000] + [0] * 10)
    server.add("/b")
    server.file("/a", "/b")
    assert get(tmp_path).read_bytes() == CONTENT


def test_the_message_names_file_places_licence_and_flag(server: Server, tmp_path: Path) -> None:
    server.add("/garbage", content=b"garbage")
    server.file("/gone", "/garbage")
    with pytest.raises(MissingWeightsError) as caught:
        get(tmp_path)
    text = str(caught.value)
    assert NAME in text and "weights of a test" in text and str(tmp_path / NAME) in text
    assert re.search(r"/gone: 404", text) and re.search(r"/garbage: its SHA-256 is", text)
    assert "MIT, see http://page" in text and "diffbir convert --input FILE" in text
    assert names(tmp_path) == []


def test_a_dead_mirror_is_left_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/b")
    server.file("/b")
    dead = dataclasses.replace(REGISTRY[NAME], mirrors=("http://127.0.0.1:1/a", *REGISTRY[NAME].mirrors))
    monkeypatch.setitem(REGISTRY, NAME, dead)
    assert get(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_never_asks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    mirror = server.add("/a")
    server.file("/a")
    if how == "variable":
        monkeypatch.setenv("DIFFBIR_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="/a: offline"):
        get(tmp_path, offline=how == "flag")
    assert mirror.asked == []
    (tmp_path / NAME).write_bytes(CONTENT)
    assert get(tmp_path, offline=how == "flag") == tmp_path / NAME


def test_a_local_copy_goes_first(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a")
    server.file("/a")
    (tmp_path / "mine.bin").write_bytes(b"mine")
    assert get(tmp_path, local=tmp_path / "mine.bin") == tmp_path / "mine.bin" and mirror.asked == []
    with pytest.raises(MissingWeightsError, match="absent"):
        get(tmp_path, local=tmp_path / "absent")


def test_a_present_file_of_another_size_is_refused(server: Server, tmp_path: Path) -> None:
    server.file("/a", size=len(CONTENT))
    (tmp_path / NAME).write_bytes(b"short")
    with pytest.raises(ValueError, match="has 5 bytes"):
        get(tmp_path)


def test_a_small_disk_is_noticed_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/a")
    server.file("/a")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="1,000 bytes free, 1,048,576 are needed"):
        get(tmp_path)
    assert find(NAME, tmp_path) is None


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFBIR_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "diffbir_jax" / "weights"
    monkeypatch.setenv("DIFFBIR_WEIGHTS", str(tmp_path / "w"))
    assert default_folder() == tmp_path / "w"
    monkeypatch.delenv("DIFFBIR_WEIGHTS")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "diffbir_jax" / "weights"
