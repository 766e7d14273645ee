"""The page in a headless Chromium: what a photographer does, and that no request leaves the machine.

Needs the packages playwright and chromium; the browser of the system, not one that playwright downloads.
"""

import base64
import importlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffbir_jax.batch import run
from diffbir_jax.cli import sample
from diffbir_jax.web.app import create_page
from tests.batch.fake import Fake
from tests.command import call, save
from tests.micro import picture
from tests.serve.fake import FakeWorks, Served, service

pytestmark = pytest.mark.slow
SECONDS = 30_000.0
SHOTS = Path(__file__).parents[2] / "out" / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with importlib.import_module(api.__name__).sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def served() -> Iterator[Served]:
    with service(FakeWorks(pack=1), build=create_page) as found:
        yield found


@pytest.fixture
def page(browser, served) -> Iterator[Any]:
    """A page; every request goes to the service, and no script fails."""
    with visit(browser, served) as found:
        yield found


class visit:
    """A session of its own: a context with a page."""

    def __init__(self, browser: Any, served: Served, **settings: Any):
        self._context = browser.new_context(**settings)
        self._base, self.errors, self.foreign = f"http://127.0.0.1:{served.port}", [], []

    def __enter__(self) -> Any:
        page = self._context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._note)
        page.goto(self._base)
        page.wait_for_selector("#examples button")
        return page

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self._base, "blob:" + self._base, "data:")):
            self.foreign.append(request.url)

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._context.close()
        if kind is None:
            assert not self.errors and not self.foreign


def png(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(side, side, 1)).save(file, "PNG")
    return file.getvalue()


def choose(page: Any, *files: tuple[str, bytes], kind: str = "image/png") -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": kind, "buffer": data} for name, data in files])


DROP = """([name, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: data }));
}"""


def test_a_photo_is_dropped_compared_and_downloaded(page, served):
    page.evaluate(DROP, ["dropped.png", base64.b64encode(png()).decode()])
    page.wait_for_selector("text=/64x64 becomes 256x256.*1.0 GiB/")
    served.works.gate.set()
    page.click("#go")
    page.wait_for_selector("#history a >> text=Download")
    until(page, "document.getElementById('under').naturalWidth === 256")
    before = page.evaluate("getComputedStyle(document.getElementById('over')).clipPath")
    page.focus("#slider")
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.getElementById('over')).clipPath") != before
    page.select_option("#layer", "stage1")
    assert page.get_attribute("#over", "src").endswith("/views/stage1")
    page.fill("#zoom", "4")
    assert page.evaluate(
        "document.getElementById('stage').scrollWidth > document.getElementById('stage').clientWidth"
    )
    with page.expect_download() as download:
        page.click("#history a >> text=Download")
    assert download.value.suggested_filename == "dropped.png"
    with page.expect_download() as download:
        page.click("#history a >> text=Sidecar")
    sidecar = json.loads(Path(download.value.path()).read_text())
    assert sidecar["parameters"]["options"]["seed"] == 0
    shot(page, "result")


def test_options_reach_the_restorer_and_a_sidecar_repeats_them(page, served):
    served.works.gate.set()
    page.check("input[value=Faithful]")
    page.fill("#upscale", "2")
    page.click("summary")
    page.fill("#seed", "7")
    choose(page, ("a.png", png()))
    page.click("#go")
    page.wait_for_selector("#history a")
    (job,) = served.engine._jobs.values()
    recipe = job.wish.recipe
    assert (recipe.upscale, recipe.options.seed, recipe.options.detail) == (2.0, 7, 0.4)
    page.fill("#seed", "8")
    choose(page, ("renamed.png", png()))
    choose(page, ("a.json", json.dumps(job.result.sidecar).encode()), kind="application/json")
    page.click("#go")
    page.wait_for_selector("#history:has(li:nth-child(2)) li:first-child a")
    again = [*served.engine._jobs.values()][1]
    assert again.wish.recipe == recipe and again.result.pictures == job.result.pictures


def test_auto_takes_over_and_says_what_it_chose(page, served):
    """A clean photo is left alone; what photos must have in common is off."""
    served.works.gate.set()
    page.check("#auto")
    for name in ("#n_samples", "#detail", "input[value=Fast]"):
        assert page.locator(name).is_disabled()
    page.fill("#upscale", "1")
    data = png()
    choose(page, ("a.png", data))
    page.click("#go")
    page.wait_for_selector("#history a >> text=Download")
    (job,) = served.engine._jobs.values()
    assert job.wish.decision is not None and str(job.wish.decision) in page.inner_text("#history li")
    page.uncheck("#auto")
    assert page.locator("#n_samples").is_enabled()


def test_samples_and_their_map_are_layers(page, served):
    served.works.gate.set()
    page.click("summary")
    page.select_option("#n_samples", "3")
    choose(page, ("a.png", png()))
    page.click("#go")
    page.wait_for_selector("#history a >> text=Sample 3")
    (job,) = served.engine._jobs.values()
    assert (job.wish.recipe.n_samples, job.wish.recipe.std_map) == (3, True)
    page.select_option("#right-layer", "result3")
    page.select_option("#layer", "result2")
    assert page.get_attribute("#under", "src").endswith("/views/result3")
    assert page.get_attribute("#over", "src").endswith("/views/result2")
    page.select_option("#right-layer", "std")
    until(page, "document.getElementById('under').naturalWidth === 256")
    with page.expect_download() as download:
        page.click("#history a >> text=Map")
    assert download.value.suggested_filename == "a_std.png"
    shot(page, "samples")


def test_faces_have_boxes_over_the_result(browser):
    works = FakeWorks(pack=1)
    works.gate.set()
    with service(works, build=create_page, faces=works) as served, visit(browser, served) as page:
        page.check("#faces")
        choose(page, ("a.png", png()))
        page.click("#go")
        page.wait_for_selector("text=/2 faces, 1 left as background/")
        (job,) = served.engine._jobs.values()
        assert job.wish.recipe.task == "faces"
        # A face of 9x11 pixels at (4, 2) of 64.
        box, photo = (page.locator(place).first.bounding_box() for place in ("#boxes .face", "#under"))
        found = [box["x"] - photo["x"], box["y"] - photo["y"], box["width"], box["height"]]
        expected = [value / 64 * photo["width"] for value in (4, 2, 9, 11)]
        assert all(abs(a - b) < 2 for a, b in zip(found, expected)), (found, expected)
        assert "smaller than 12 pixels" in (page.get_attribute("#boxes .left", "title") or "")
        shot(page, "faces")
        page.uncheck("#boxes-shown")
        assert not page.is_visible("#boxes")


def test_a_mask_is_painted_or_given_as_a_file(page, served):
    """The stroke is black, all else white; a file needs no pointer."""
    served.works.gate.set()
    page.click("summary")
    page.fill("#guidance_scale", "0.5")
    choose(page, ("a.png", png()))
    page.click("#chosen button >> text=Mask")
    until(page, "document.getElementById('paint').width === 64")
    box = page.locator("#paint").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + side * 0.25, y + side * 0.25)
    page.mouse.down()
    page.mouse.move(x + side * 0.75, y + side * 0.25, steps=4)
    page.mouse.up()
    shot(page, "mask")
    page.click("#mask-use")
    page.wait_for_selector("#chosen button >> text=Mask: a_mask.png")
    page.click("#go")
    page.wait_for_selector("#history a >> text=Mask")
    (mask,) = served.works.masks
    assert mask.shape == (64, 64) and mask[16, 16:48].max() == 0 and mask[32:].min() == 255
    choose(page, ("b.png", png()))
    page.focus("#chosen button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#masking[open]")
    page.set_input_files("#mask-file", {"name": "m.png", "mimeType": "image/png", "buffer": png(32)})
    page.focus("#mask-use")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chosen button >> text=Mask: m.png")
    page.click("#chosen button >> text=Mask: m.png")
    page.keyboard.press("Escape")
    page.wait_for_selector("#masking:not([open])", state="attached")
    page.click("#go")
    page.wait_for_selector("#history:has(li:nth-child(2)) li:first-child a")
    assert served.works.masks[1].shape == (32, 32)


def test_progress_is_shown_and_cancel_ends_it(page, served):
    choose(page, ("a.png", png()))
    page.click("#go")
    page.wait_for_selector("text=/a.png: sampling/")
    shot(page, "running")
    page.click("#history button >> text=Cancel")
    page.wait_for_selector("text=the job was cancelled")
    (job,) = served.engine._jobs.values()
    assert job.state == "cancelled"


def test_wrong_files_and_hostile_names_are_text(page, served):
    served.works.gate.set()
    hostile = '<img src=x onerror="document.title=1">.png'
    choose(page, (hostile, png()), ("wrong.png", b"x" * 5 * 2**20))
    page.click("#go")
    page.wait_for_selector("text=/wrong.png: image: is not a PNG/")
    page.wait_for_selector("#history a")
    assert page.title() == "diffbir" and page.locator("#history img").count() == 0
    choose(page, ("a.json", b"{}"), kind="application/json")
    page.wait_for_selector("text=a.json: is no sidecar")


def test_two_sessions_see_their_own_photos(browser, served):
    served.works.gate.set()
    with visit(browser, served) as anne, visit(browser, served) as ben:
        choose(anne, ("anne.png", png()))
        anne.click("#go")
        anne.wait_for_selector("#history a")
        ben.reload()
        ben.wait_for_selector("#examples button")
        assert ben.locator("#history li").count() == 0 and "anne" not in ben.content()


def test_an_example_narrow_and_dark(browser, served):
    """Nothing is wider than a telephone, and letters stand out from the ground."""
    served.works.gate.set()
    settings = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
    with visit(browser, served, **settings) as page:
        page.click("#examples button")
        page.wait_for_selector("#chosen li")
        page.click("#go")
        page.wait_for_selector("#history a")
        shot(page, "narrow")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert brightness(page, "backgroundColor") < 200 < 500 < brightness(page, "color")


def test_the_keyboard_is_enough(page, served):
    """From the field for files by Tab to the button, and to what came of it."""
    served.works.gate.set()
    choose(page, ("a.png", png()))
    page.focus("#files")
    seen = []
    while not seen or seen[-1] != "go":
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        assert len(seen) < 40
    page.keyboard.press("Enter")
    page.wait_for_selector("#history a")
    assert {"version", "upscale", "detail-own"} <= {*seen}


def test_the_page_of_a_folder_works_from_a_disk(browser, tmp_path, monkeypatch):
    """restore --open: nothing is asked of a network; arrow keys move the slider; dark and narrow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "load", lambda *_: Fake())
    monkeypatch.setattr(run, "planned", lambda *_: None)
    monkeypatch.setattr(sample.webbrowser, "open", str)
    save(Path("in/a.png"), (48, 64))
    Image.fromarray(picture(48, 64, 3)).save("in/b.tif")
    assert call("in", "-o", "out", "--open", "--save-stages") == 0
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "out" / "index.html").as_uri())
    until(
        page, "[...document.querySelectorAll('.pane.right img')].every((image) => image.naturalWidth === 256)"
    )
    until(page, "document.querySelectorAll('.pane.left img')[1].naturalWidth === 64")
    before = page.evaluate("getComputedStyle(document.querySelector('.pane.left')).clipPath")
    page.focus(".compare input")
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.querySelector('.pane.left')).clipPath") != before
    page.select_option("#controls select[data-side=left]", label="stage 1")
    assert page.get_attribute(".pane.left img", "src") == "a_stage1.png"
    shot(page, "index")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert brightness(page, "backgroundColor") < 200 < 500 < brightness(page, "color")
    context.close()
    assert not errors and all(url.startswith((tmp_path.as_uri(), "data:")) for url in asked)


def brightness(page: Any, name: str) -> int:
    """Sum of red, green and blue of a colour of the page."""
    colour = page.evaluate(f"getComputedStyle(document.body).{name}")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def until(page: Any, script: str) -> None:
    """Wait for a condition. The page's policy forbids playwright's own way, which evaluates texts within the page."""
    for _ in range(int(SECONDS) // 20):
        if page.evaluate(script):
            return
        page.wait_for_timeout(20)
    raise AssertionError(script)


def shot(page: Any, name: str) -> None:
    """Keep a picture of the page for people to look at."""
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
