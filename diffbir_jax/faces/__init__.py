"""Faces in whole photos: find them, align them, restore them, paste them back.

>>> from diffbir_jax import faces
>>> faces.detect(np.zeros((64, 64, 3), np.uint8))
[]
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffbir_jax.faces.choice import Faces
    from diffbir_jax.faces.find import Detector, Face, YuNet, detect
    from diffbir_jax.faces.identity import SFace
    from diffbir_jax.faces.whole import restore_faces

__all__ = ["Detector", "Face", "Faces", "SFace", "YuNet", "detect", "restore_faces"]

_PLACES = {name: "find" for name in ("Detector", "Face", "YuNet", "detect")} | {
    "Faces": "choice",
    "SFace": "identity",
    "restore_faces": "whole",
}


def __getattr__(name: str) -> object:
    """Import these names at their first use: the command line is read before OpenCV and JAX are imported."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
