"""Names and texts from elsewhere on the screen: one line, and nothing that a terminal obeys."""

import unicodedata

_SEPARATORS = ("Zl", "Zp")  # of lines and paragraphs


def plain(text: object) -> str:
    """Return a text as one line, with escapes such as \\n and \\x1b for what is no character."""
    return "".join(ascii(c)[1:-1] if _obeyed(c) else c for c in str(text))


def shown(text: object, limit: int = 80) -> str:
    """Return the start of a text from a file as one short printable line."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else f"{line[:limit]}..."


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: "1 image", "2 images", "2 batches"."""
    plural = f"{thing}es" if thing.endswith("ch") else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"


def _obeyed(c: str) -> bool:
    kind = unicodedata.category(c)
    return kind[0] == "C" or kind in _SEPARATORS
