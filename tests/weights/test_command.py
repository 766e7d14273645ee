"""python -m diffbir_jax.weights: what it fetches, lists and says."""

from pathlib import Path

import pytest

from diffbir_jax.weights.__main__ import main
from tests.weights.server import CONTENT, NAME, Server


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
