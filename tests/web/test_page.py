"""The page as it is served, without a browser: nothing from elsewhere, nothing of the machine."""

import re
from collections.abc import Iterator

import pytest

from diffbir_jax.web.app import PAGE, create_page
from tests.serve.fake import Client, service


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with service(build=create_page) as served:
        served.works.gate.set()
        yield served.client()


def test_the_page_names_no_other_host(client):
    page = client("GET", "/")
    parts = re.findall(r'(?:src|href)="(page\.\w+)"', page.text)
    assert sorted(parts) == ["page.css", "page.js"] and page.headers["content-type"].startswith("text/html")
    parts += re.findall(r'from "\./(\w+\.js)"', client("GET", "/page.js").text)
    assert parts[2:] == ["mask.js"]
    for text in (page.text, *(client("GET", f"/{part}").text for part in parts)):
        assert not re.search(r"(?i)\b(?:https?|wss?|ftp):|['\"(]//|@import|@font-face|\burl\(", text)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_every_element_that_the_script_names_is_there():
    html, script = ("".join(path.read_text() for path in PAGE.glob(f"*.{kind}")) for kind in ("html", "js"))
    named = set(re.findall(r'\bat\("([\w-]+)"\)', script))
    assert named and named <= set(re.findall(r'\bid="([\w-]+)"', html))


def test_every_field_has_a_label():
    """So that screen readers can name it."""
    html = (PAGE / "page.html").read_text()
    inside = "".join(re.findall(r"<label.*?</label>", html, re.DOTALL))
    assert re.findall(r"<(?:input|select)\b", html) == re.findall(r"<(?:input|select)\b", inside)
    assert 'lang="en"' in html and all("alt=" in image for image in re.findall(r"<img[^>]*>", html))


def test_auto_is_a_box_that_the_script_sends_and_a_result_that_it_tells():
    html, script = ((PAGE / name).read_text() for name in ("page.html", "page.js"))
    assert re.search(r'<label[^>]*><input id="auto" type="checkbox"[^>]*> Auto</label>', html)
    assert "wished.auto = true" in script and "last.auto.text" in script


def test_examples_and_nothing_beside_them(client):
    names = client("GET", "/examples").json()
    assert len(names) > 1 and client("GET", f"/examples/{names[0]}").content.startswith(b"\x89PNG")
    for path in (
        "/examples/..%2f..%2fsuite.toml",
        "/examples/%2fetc%2fpasswd",
        "/app.py",
        "/..%2fapp.py",
        "/page",
    ):
        answer = client("GET", path)
        assert answer.status_code == 404 and "\n" not in answer.json()["detail"], path
    assert client("GET", "/health").json()["status"] == "ok" and client("GET", "/metrics").status_code == 200
