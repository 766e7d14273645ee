"""Small pieces of HTML that several parts of the page share."""

from collections.abc import Mapping
from html import escape
from typing import TypeVar

Value = TypeVar("Value")


def heading(title: str, better: str) -> str:
    """Return a metric's title with an arrow in the direction of better values, "higher" or "lower"."""
    return (
        f'{escape(title)}&nbsp;<abbr title="{better} is better">{"↑" if better == "higher" else "↓"}</abbr>'
    )


def options(titles: Mapping[Value, str], chosen: Value | None = None) -> str:
    """Return the <option>s of a select box, by value; `chosen` is selected."""
    return "".join(
        f'<option value="{escape(str(value))}"{" selected" if value == chosen else ""}>{escape(title)}</option>'
        for value, title in titles.items()
    )


def count(number: int, noun: str) -> str:
    """Return a number with its noun; the plural has an s."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
