"""Small pictures for a service."""

import io
from typing import Any

import numpy as np
from PIL import Image

from tests.micro import picture


def png(height: int = 16, width: int = 24, seed: int = 0, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(height, width, seed)).save(file, "PNG", **options)
    return file.getvalue()


def shape(data: bytes) -> tuple[int, ...]:
    return np.asarray(Image.open(io.BytesIO(data))).shape


PNG, LARGE = png(), png(100, 100)
