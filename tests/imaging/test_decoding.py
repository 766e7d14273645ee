"""Files are decoded by several threads at once, whatever the libraries keep per process."""

import io
import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging import decoding
from diffbir_jax.imaging.opencv import log_level

THREADS = 8
RNG = np.random.default_rng(0)


def images() -> list[np.ndarray]:
    """Pictures of 8 bits, for Pillow, and of 16 bits, for OpenCV and tifffile."""
    shallow = [RNG.integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(THREADS // 2)]
    return shallow + [RNG.integers(0, 65536, (20 + i, 30, 3), np.uint16) for i in range(THREADS // 2)]


def encoded(image: np.ndarray, kind: str) -> bytes:
    if kind == "PNG":
        return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    file = io.BytesIO()
    tifffile.imwrite(file, np.moveaxis(image, -1, 0), photometric="rgb", planarconfig="separate")
    return file.getvalue()


def settings() -> tuple:
    return (
        Image.MAX_IMAGE_PIXELS,
        list(warnings.filters),
        log_level(),
        logging.getLogger("tifffile").disabled,
    )


def meet_inside(monkeypatch: pytest.MonkeyPatch, barrier: threading.Barrier) -> None:
    """Let decoders wait until as many threads as the barrier wants are within `decode`."""
    for name in ("_decode", "_decode_tiff"):
        inner = getattr(decoding, name)

        def met(*arguments, inner=inner):
            barrier.wait(timeout=60)
            return inner(*arguments)

        monkeypatch.setattr(decoding, name, met)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_threads_decode_at_once(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """All are within at the same time, and get what one alone gets; then the settings are as before."""
    before, wanted = settings(), images()
    files = [encoded(image, kind) for image in wanted]
    meet_inside(monkeypatch, threading.Barrier(THREADS))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda data: decoding.decode(data, kind, 10**6).samples, files)
        for samples, image in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(samples, image)
    assert settings() == before


def test_who_leaves_first_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread fails and leaves while another still decodes what Pillow alone would refuse."""
    before, image = settings(), RNG.integers(0, 256, (40, 40, 3), np.uint8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data, left, both = encoded(image, "PNG"), threading.Event(), threading.Barrier(2)
    inner = decoding._decode

    def decode(data: bytes, kind: str, max_pixels: int) -> decoding.Decoded:
        both.wait(timeout=60)
        if max_pixels > 1:
            assert left.wait(timeout=60)
            assert Image.MAX_IMAGE_PIXELS is None
            warnings.warn("would be an error of the test", stacklevel=1)
        return inner(data, kind, max_pixels)

    monkeypatch.setattr(decoding, "_decode", decode)
    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
        warnings.simplefilter("error")
        slow = pool.submit(decoding.decode, data, "PNG", 10**6)
        with pytest.raises(ImageFileError, match="more than the limit of 1;"):
            decoding.decode(data, "PNG", 1)
        left.set()
        np.testing.assert_array_equal(slow.result(timeout=60).samples, image)
        assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.undo()
    assert settings() == before
