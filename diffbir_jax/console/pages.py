"""What the package ships beside its code: in a wheel within the package, in a checkout beside it."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def shipped(name: str) -> Path:
    """Return the folder of that name, such as configs or docs."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def page(name: str) -> str:
    """Return the path of a page of the documentation, for messages."""
    return str(shipped("docs") / f"{name}.md")
