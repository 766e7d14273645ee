"""What `make docs` is made of, without Sphinx: every page has a place, and the check of links finds what is wrong."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"
CHECK = runpy.run_path(str(SITE / "check_links.py"))


def test_every_page_is_listed_once() -> None:
    listed = re.findall(r"^\.\./(\w+)$", (SITE / "index.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in (ROOT / "docs").glob("*.md"))


def test_the_first_page_ends_at_a_heading_of_the_readme() -> None:
    end = re.findall(r'^README_END = "(.+)"$', (SITE / "file_pages.py").read_text("utf-8"), re.MULTILINE)
    assert len(end) == 1 and f"\n{end[0]}\n" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "html, wanted",
    [
        ('<p id="here"><a href="#here">a</a> <a href="b.html#there">b</a> <a href="https://a.b">c</a>', ""),
        ('<a href="#gone">a</a>', "the page has no such place"),
        ('<a href="c.html">a</a>', "link to c.html, which is missing"),
        ('<a href="b.html#here">a</a>', "the page has no such place"),
        ('<script src="https://a.b/c.js"></script>', "loads https://a.b/c.js"),
        ('<link href="//a.b/c.css">', "loads //a.b/c.css"),
        ('<img src="c.png">', "loads c.png, which is missing"),
    ],
)
def test_links_are_checked(tmp_path: Path, html: str, wanted: str) -> None:
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<p id="there">')
    found = list(CHECK["problems"](tmp_path))
    assert len(found) == bool(wanted) and wanted in "".join(found)


def test_styles_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text(
        "p {background: url(data:image/png;base64,AA)} q {src: url('https://a.b/c.woff')}"
    )
    assert list(CHECK["problems"](tmp_path)) == [
        "a.css: loads https://a.b/c.woff; keep everything in the site"
    ]
    assert CHECK["main"](tmp_path) == 1
