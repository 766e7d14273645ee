"""The page of a run: what it holds while the run goes on, after it and after a resumption, and how it looks."""

import importlib
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffbir_jax.training import curves, page
from diffbir_jax.training.curves import MOST, Curve, plot
from diffbir_jax.training.page import PAGE, PICTURES, Page
from diffbir_jax.training.writers import open_writers, read_lines
from tests.micro import picture

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SHOTS = Path(__file__).parents[2] / "out" / "training"


def text(folder: Path) -> str:
    return (folder / PAGE).read_text("utf-8")


def found(pattern: str, source: str) -> str:
    """The first place of a text that fits."""
    place = re.search(pattern, source, re.DOTALL)
    assert place, pattern
    return place[place.lastindex or 0]


def loss(step: int) -> dict[str, float]:
    return {"train/loss": 10.0 / step, "train/lr": 1e-4, "train/step_seconds_p50": 0.5}


def test_a_long_curve_stays_short_and_whole() -> None:
    curve = Curve()
    values = np.random.default_rng(0).normal(size=10 * MOST + 7)
    for step, value in enumerate(values.tolist(), 1):
        curve.add(step, value)
    curve.add(len(values) + 1, None)
    assert MOST // 2 <= len(curve.points) <= MOST and curve.missing == 1
    assert curve.points[-1].step == len(values)
    assert sum(point.count for point in curve.points) == len(values)
    assert sum(point.total for point in curve.points) == pytest.approx(values.sum())
    assert min(point.low for point in curve.points) == values.min()
    assert max(point.high for point in curve.points) == values.max()
    assert len({point.count for point in curve.points[:-1]}) == 1


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    """The corners of a line."""
    [path] = [each for each in ElementTree.fromstring(svg) if each.get("class") == f"line {kind}"]
    return [tuple(map(float, pair.split())) for pair in path.get("d", "")[1:].split("L")]


@pytest.mark.parametrize("values", [[3.0, 2.0, 1.0], [1e-3, 1.0, 10.0], [-2.0, 5.0, 0.0], [0.5, 0.5, 0.5]])
def test_a_plot_keeps_order_and_bounds(values: list[float]) -> None:
    curve = Curve()
    for step, value in enumerate(values, 1):
        curve.add(step, value)
    drawn = places(plot("loss", {"train": curve}, 3), "first")
    assert [across for across, _ in drawn] == sorted({across for across, _ in drawn})
    assert drawn[-1][0] == curves.WIDTH - 4, "the last step is at the end of the axis"
    assert all(0 <= up <= curves.HEIGHT - curves.BOTTOM for _, up in drawn)
    assert np.array_equal(
        np.argsort([-up for _, up in drawn], kind="stable"), np.argsort(values, kind="stable")
    )


def test_wide_values_are_logarithmic() -> None:
    curve = Curve()
    for step, value in enumerate((1.0, 10.0, 100.0), 1):
        curve.add(step, value)
    heights = [up for _, up in places(plot("loss", {"train": curve}, 3), "first")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_the_page_follows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "EVERY", 0.0)
    writer = Page(tmp_path, 0, 40)
    writer.scalars(10, loss(10))
    first = text(tmp_path)
    assert "Step 10 of 40, 0.5 s per step, about 0 min left" in first and "<img" not in first
    writer.grid(10, picture(16, 48))
    writer.scalars(10, {"validation/loss": 2.0, "validation/psnr": float("nan")})
    now = text(tmp_path)
    assert f'src="{PICTURES}/00000010.jpg"' in now and "steps = [10]" in now
    assert now.count("<figure>") == 4 and "1 not finite" in now and "validation 2" in now
    assert "if (false)" in now
    writer.close()
    assert "Step 10 of 40: stopped." in text(tmp_path) and "if (true)" in text(tmp_path)
    assert not re.search(r"https?://|@import|\bfetch\(", text(tmp_path)), "nothing comes from elsewhere"


def test_fast_steps_do_not_write_it_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.0, 101.0, 105.1, 105.1, 106.0])
    monkeypatch.setattr(page.time, "monotonic", lambda: next(times))
    writer = Page(tmp_path, 0, 9)
    shown = []
    for step in range(1, 4):
        writer.scalars(step, loss(step))
        shown.append(int(found(r"Step (\d+) of 9", text(tmp_path))))
    assert shown == [1, 1, 3]


def test_a_resumed_run_shows_what_was_before(tmp_path: Path) -> None:
    """Steps and pictures that it repeats are not shown twice."""
    writers = open_writers(tmp_path, 0, 9)
    for step in (3, 6, 9):
        for writer in writers:
            writer.scalars(step, loss(step))
            writer.grid(step, picture(16, 48))
    for writer in writers:
        writer.close()
    assert "Step 9 of 9: finished." in text(tmp_path)
    again = open_writers(tmp_path, 6, 12)
    for writer in again:
        writer.scalars(9, loss(9))
        writer.close()
    shown = text(tmp_path)
    assert "steps = [3, 6]" in shown and "Step 9 of 12: stopped." in shown
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [3, 6, 9]
    assert len(places(found(r"<svg.*?</svg>", shown), "first")) == 3


def test_a_folder_with_a_hostile_name(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x>$title"
    folder.mkdir()
    Page(folder, 0, 9).close()
    assert "&lt;img src=x&gt;$title" in text(folder) and "No step is logged yet" in text(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, scheme: str) -> None:
    """The slider shows older pictures, stays there when the page is loaded again, and nothing leaves the machine."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    monkeypatch.setattr(page, "EVERY", 0.0)
    writer = Page(tmp_path, 0, 1000)
    noise = np.random.default_rng(0)
    for step in range(1, 700):
        writer._add(step, {**loss(step), "train/grad_norm": float(noise.lognormal())})
    for step in (200, 400, 600):
        writer.scalars(step, {"validation/loss": 20.0 / step, "validation/psnr": 20 + step / 100})
        writer.grid(step, picture(128, 256, step))
    with importlib.import_module(api.__name__).sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened: Any = context.new_page()
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda request: request.url.startswith("file:") or problems.append(request.url))
        opened.goto((tmp_path / PAGE).as_uri())
        opened.wait_for_function("document.getElementById('picture').naturalWidth === 256")
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        opened.focus("#step")
        opened.keyboard.press("ArrowLeft")
        assert opened.get_attribute("#picture", "src").endswith("00000400.jpg")
        writer.grid(700, picture(128, 256, 7))
        opened.reload()
        assert opened.get_attribute("#picture", "src").endswith("00000400.jpg")
        assert opened.get_attribute("#picture", "alt") == "held-out crops at step 400, a row each"
        opened.keyboard.press("Tab")
        SHOTS.mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=SHOTS / f"progress-{scheme}.png", full_page=True)
        opened.uncheck("#reload")
        writer.close()
        opened.reload()
        assert opened.locator("#reload").count() == 0, "a run that is over loads nothing again"
        browser.close()
    assert not problems
