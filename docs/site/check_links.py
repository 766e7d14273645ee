"""Check a built site without a network: local links lead somewhere, and nothing is loaded from elsewhere.

python docs/site/check_links.py out/docs
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser load something, besides <link href>.
LOADED = ("src", "srcset", "poster", "data")
CSS_URL = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")


class Page(HTMLParser):
    """What a page links to, what it loads, and the names that links may lead to.

    Attributes:
        links: targets of <a>.
        loads: addresses of scripts, styles and pictures.
        names: ids and old anchors.
    """

    def __init__(self, text: str):
        """Read a page."""
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag says."""
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.names.add(value or "")
            elif name == "href":
                (self.loads if tag == "link" else self.links).append(value or "")
            elif name in LOADED:
                self.loads.append(value or "")


def problems(site: Path) -> Iterator[str]:
    """Yield a line per link that leads nowhere and per thing that comes from another host."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        shown = path.relative_to(site.resolve())
        for address in page.loads:
            yield from (f"{shown}: {line}" for line in loaded(path, address))
        for address in page.links:
            yield from (f"{shown}: {line}" for line in linked(path, address, pages))
    for path in sorted(site.rglob("*.css")):
        for found in CSS_URL.finditer(path.read_text("utf-8")):
            yield from (f"{path.relative_to(site)}: {line}" for line in loaded(path, found[1] or found[2]))


def loaded(path: Path, address: str) -> Iterator[str]:
    """Yield what is wrong with something that a file loads."""
    parts = urlsplit(address)
    if parts.scheme == "data":
        return
    if parts.scheme or parts.netloc:
        yield f"loads {address}; keep everything in the site"
    elif parts.path and not (path.parent / unquote(parts.path)).exists():
        yield f"loads {address}, which is missing"


def linked(path: Path, address: str, pages: dict[Path, Page]) -> Iterator[str]:
    """Yield what is wrong with a link; other sites are not asked."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        yield f"link to {address}, which is missing"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names:
        yield f"link to {address}: the page has no such place"


def main(site: Path) -> int:
    """Print all problems of a site; 1 if there is any, or no page."""
    found = list(problems(site))
    count = sum(1 for _ in site.rglob("*.html"))
    print(*found, f"{count} pages, {len(found)} problems", sep="\n")
    return int(bool(found) or not count)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
