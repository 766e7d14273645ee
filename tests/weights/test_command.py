"""python -m diffbir_jax.weights: what it fetches, lists and says."""

from pathlib import Path

import pytest

from diffbir_jax.weights.__main__ import main
from diffbir_jax.weights.registry import REGISTRY
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
    assert "  v2  " in lines["v2.pth"] and "v1 face" in lines["v1_face.pth"] and "1,048,576" in lines[NAME]


def test_the_list_fits_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path), "list"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "NTU S-Lab 1.0" in words and "osediff-face" in words, "what does not fit goes on below"
    assert {line.split()[0] for line in text.splitlines()} >= REGISTRY.keys()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v2", "v2 is a version, not a file; diffbir weights fetch --version v2"),
        ("V2.pth", "no published file 'V2.pth'; did you mean v2.pth?"),
        ("photo", "no published file 'photo'; diffbir weights list shows all"),
    ],
)
def test_a_name_that_is_no_file(
    name: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path), "path", name]) == 1
    assert capsys.readouterr().err.strip() == line


def test_the_command_names_the_files_of_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--folder", str(tmp_path), "fetch", "--offline", "--version", "v2", "--task", "denoise"]
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert "Stable Diffusion 2.1" in error and "v2.pth" in error, (
        "one that fails does not keep the others back"
    )
    with pytest.raises(SystemExit):
        main(["fetch"])
