"""The choice of a training image's caption."""

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
    """Return a caption without spaces around it; "" for no text, and for words that programs write in its place."""
    stripped = str(text).strip()
    return "" if stripped.lower() in MISSING else stripped


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
