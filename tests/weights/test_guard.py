"""What keeps a bad file out: checksums first seen, first answers that are no weights, a lock."""

import json
import logging
from pathlib import Path

import pytest

from diffbir_jax.weights import MissingWeightsError, guard
from tests.weights.server import CONTENT, NAME, SHA, Server, get, names


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


SAFE = (2).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.pth", CONTENT, ""),
        ("a.pth", CONTENT[:-1], "a zip archive without its end"),
        ("a.pth", CONTENT[: len(CONTENT) // 2], "a zip archive without its end"),
        ("a.ckpt", b"\x80\2\x8a", ""),
        ("a.ckpt", b"", "something that does not begin as weights do"),
        ("a.safetensors", CONTENT, "no whole safetensors file"),
        ("a.safetensors", SAFE, ""),
        ("a.safetensors", SAFE[:-1], "no whole safetensors file"),
        ("a.safetensors", SAFE + b"more", "no whole safetensors file"),
    ],
)
def test_whole_weights_are_told_from_others(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / "x").write_bytes(content)
    assert guard.fault(tmp_path / "x", name) == told


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
