"""The page of restore --open: what it refers to, what it holds, and that it replaces no page of the user."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import run
from diffbir_jax.cli import sample
from tests.batch.fake import Fake
from tests.command import call, complaint, save, written
from tests.evaluation.report.test_page import Page, read

HOSTILE = 'b"<img src=x>&#.png'


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that the browser was asked to open, with a restorer without networks and a display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "load", lambda *_: Fake())
    monkeypatch.setattr(run, "planned", lambda *_: None)
    monkeypatch.setenv("DISPLAY", ":0")
    found: list[str] = []
    monkeypatch.setattr(sample.webbrowser, "open", found.append)
    save(Path("in/sub/a.png"))
    save(Path("in") / HOSTILE, (20, 24))
    return found


def restore(*flags: object) -> object:
    return call("in", "-o", "out", "--upscale", 2, "--detail", 1, "--open", *flags)


def shown(page: Page, name: str) -> list[Any]:
    return next(image["pictures"] for image in page.data["images"].values() if image["name"] == name)


def test_the_page_refers_to_inputs_and_results(opened: list[str], capsys: pytest.CaptureFixture) -> None:
    assert restore("--save-stages") == 0
    assert opened == [(Path.cwd() / "out" / "index.html").as_uri()]
    assert "out/index.html shows before and after" in capsys.readouterr().out
    page = read(Path("out/index.html"))
    assert page.data["panes"] == ["input", "stage 1", "result"] and len(page.all("article")) == 2
    for name in ("sub/a.png", HOSTILE):
        files = [os.path.normpath(Path("out", unquote(address))) for address in shown(page, name)]
        stem = name.removesuffix(".png")
        assert files == [f"in/{name}", f"out/{stem}_stage1.png", f"out/{stem}.png"]
        assert all(map(Path.is_file, map(Path, files)))
    # Two of the template's three images are in each card, all with texts; no name is taken for an element.
    assert len(page.all("img")) == 4 and all(element[1]["alt"] for element in page.all("img"))
    assert {element[1]["href"] for element in page.all("a")} >= {"sub/a.json"}
    assert "//" not in "".join(
        e[1].get("src", "") + e[1].get("href", "") for e in page.elements if e[0] != "link"
    )


def test_samples_and_the_map_can_be_chosen(opened: list[str]) -> None:
    assert restore("--n-samples", 2, "--std-map") == 0
    page = read(Path("out/index.html"))
    assert page.data["panes"] == ["input", "result 1", "result 2", "invented detail"]
    assert shown(page, "sub/a.png")[1:] == ["sub/a_1.png", "sub/a_2.png", "sub/a_std.png"]
    assert page.texts("option", selected=None)[:2] == ["input", "result 1"]


def test_what_browsers_cannot_show_is_inside(opened: list[str]) -> None:
    Image.fromarray(np.full((40, 1500, 3), 90, np.uint8)).save("in/wide.tif")
    assert restore("--format", "same") == 0
    before, after = shown(read(Path("out/index.html")), "wide.tif")
    assert before.startswith("data:image/jpeg;base64,") and after.startswith("data:image/jpeg;base64,")


def test_failed_and_finished_images(opened: list[str]) -> None:
    """What failed is named; a run that goes on shows what was done before."""
    Path("in/broken.png").write_bytes(b"x")
    assert restore() == 1
    page = read(Path("out/index.html"))
    assert page.texts("summary") == ["1 image not restored"] and page.texts("li") == ["broken.png"]
    Path("in/broken.png").unlink()
    save(Path("in/new.png"))
    assert restore("--skip-existing") == 0
    assert len(read(Path("out/index.html")).all("article")) == 3 and len(opened) == 2


def test_no_page_of_the_user_is_replaced(opened: list[str], capsys: pytest.CaptureFixture) -> None:
    Path("out").mkdir()
    Path("out/index.html").write_text("mine")
    assert restore() == 2
    assert "is no page of --open and would be overwritten" in complaint(capsys)
    assert restore("--task", "faces", "--background", "none") == 2
    assert "knows no --open" in complaint(capsys)
    assert Path("out/index.html").read_text() == "mine" and written() == ["index.html"] and not opened


def test_nothing_is_opened_without_a_display(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert restore() == 0 and Path("out/index.html").is_file() and not opened
    assert restore("--hosts", 2, "--host-index", 1) == 0 and Path("out/index.1.html").is_file()
