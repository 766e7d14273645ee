"""The choice of a training image's caption."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffbir_jax.data.example import DataError


@dataclass(frozen=True)
class CaptionConfig:
    """How often each kind of caption is drawn. The defaults are those of DiffBIR v2.1's training.

    DiffBIR v1 and v2 were trained without captions.

    Attributes:
        p_long: probability (0 to 1) of the long caption if an image has both.
        p_empty: probability (0 to 1) that the caption is replaced by "". This trains the unconditional prediction of
            classifier-free guidance (Ho and Salimans 2022).

    Raises:
        DataError: a probability is not within 0 to 1.
    """

    p_long: float = 0.2
    p_empty: float = 0.2

    def __post_init__(self) -> None:
        for field in ("p_long", "p_empty"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise DataError(f"captions: {field} is {value}; give a probability, 0 to 1")


# What programs write where there is no text, in lower case: Python, JSON, pandas.
MISSING = ("", "none", "nan", "null", "<na>")


def clean(text: object) -> str:
    """Return a caption without spaces around it; "" for no text, and for words that programs write in its place.

    A list of texts is a choice: its first text counts. What else a list or a map holds is no caption, see `is_caption`.
    """
    if isinstance(text, list | tuple):
        return next((found for each in text if isinstance(each, str) and (found := clean(each))), "")
    if isinstance(text, bool | Mapping):
        return ""
    stripped = str(text).strip()
    return "" if stripped.lower() in MISSING else stripped


def is_caption(value: object) -> bool:
    """Whether a cell holds what a caption may be: a text, a number, nothing, or a list with a text."""
    if isinstance(value, list | tuple):
        return not value or any(isinstance(each, str) for each in value)
    return value is None or isinstance(value, str | int | float) and not isinstance(value, bool)


def decoded(data: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 if it begins with that byte order mark.

    Raises:
        ValueError: it is neither.
    """
    try:
        text = data.decode(
            "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"is no UTF-8 text ({error})") from None
    # UTF-16 without a mark and UTF-32 decode to texts with such characters.
    if "\0" in text:
        raise ValueError("is no UTF-8 text (it has NUL characters)")
    return text


def choose(captions: Mapping[str, str], rng: np.random.Generator, config: CaptionConfig | None = None) -> str:
    """Draw the caption of an image.

    Args:
        captions: texts by kind, `short` and `long`; if there is only one, it is used for both.
        rng: always gives two numbers, so that later draws do not depend on the captions.
        config: the probabilities; those of DiffBIR v2.1 if None.

    Returns:
        One of the captions, or "".
    """
    config = config or CaptionConfig()
    prefers_long, dropped = rng.random(2) < (config.p_long, config.p_empty)
    order = ("long", "short") if prefers_long else ("short", "long")
    # A missing caption falls back to the other kind: any text teaches more than none.
    text = next((captions[kind] for kind in order if captions.get(kind)), "")
    return "" if dropped else text
