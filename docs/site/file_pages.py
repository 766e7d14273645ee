"""Files of the checkout that pages link to become pages of the site, and drawings can be clicked."""

import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

HREF = re.compile(r'href="(?!https?:|#)([^"]+)"')
LINK = re.compile(r"\]\((?!https?:|#)")
README_END = "## Choose a version"
# Browsers show these as they are, or nobody reads them.
AS_IS = (".ipynb", ".png", ".jpg", ".svg")


def with_readme(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the README's first sections before the list of all pages."""
    if docname == app.config.root_doc:
        first, after, _ = (Path(app.srcdir) / "README.md").read_text("utf-8").partition(README_END)
        if not after:
            raise ExtensionError(
                f"README.md has no line {README_END!r}, where the first page of the site leaves it"
            )
        root = posixpath.relpath(".", posixpath.dirname(docname))
        source[0] = LINK.sub(rf"]({root}/", first) + source[0]


def place(app: Sphinx, docname: str, target: str) -> str:
    """Return a link's target as a path from the root; OSError if the checkout has no such file."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(docname), target))
    (Path(app.srcdir) / path).stat()
    return path


def link(app: Sphinx, docname: str, path: str) -> str:
    """Return a page's link to the page that shows a file, and note that the file needs one."""
    app.env.diffbir_files.add(path)  # type: ignore[attr-defined]
    return posixpath.relpath(f"files/{path}.html", posixpath.dirname(docname))


def with_files(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn downloads into links to pages, and put drawings into their page, where links in them work."""
    for node in list(doctree.findall(addnodes.download_reference)):
        if not node["reftarget"].endswith(AS_IS):
            uri = link(app, docname, place(app, docname, node["reftarget"]))
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri))
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            image.replace_self(nodes.raw("", drawing(app, docname, image["uri"]), format="html"))


def drawing(app: Sphinx, docname: str, path: str) -> str:
    """Return a drawing with its links, which are relative to it, as links of a page beside it."""
    text = (Path(app.srcdir) / path).read_text("utf-8")
    return HREF.sub(lambda found: f'href="{link(app, docname, place(app, path, found[1]))}"', text)


def file_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page per file that was linked to."""
    for path in sorted(app.env.diffbir_files):  # type: ignore[attr-defined]
        file = Path(app.srcdir) / path
        body = highlight(file.read_text("utf-8"), lexer(file), HtmlFormatter())
        yield f"files/{path}", {"title": path, "body": f"<h1>{escape(path)}</h1>{body}"}, "page.html"


def lexer(file: Path) -> Any:
    """Return what colours a file; plain text if nothing knows its kind."""
    try:
        return get_lexer_for_filename(file.name)
    except ClassNotFound:
        return TextLexer()


def start(app: Sphinx) -> None:
    """Begin a build without files."""
    app.env.diffbir_files = set()  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("builder-inited", start)
    app.connect("source-read", with_readme)
    app.connect("doctree-resolved", with_files)
    app.connect("html-collect-pages", file_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
