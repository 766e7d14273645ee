"""The resolution (dpi) of an input is that of its result."""

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.imaging.reading import read_photo
from diffbir_jax.imaging.writing import write_photo

SMOOTH = (np.mgrid[:20, :30].sum(0)[..., None] * (2, 3, 5)).astype(np.uint8)


@pytest.mark.parametrize("source", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_the_resolution_is_kept(tmp_path, source, suffix):
    Image.fromarray(SMOOTH).save(tmp_path / f"in{source}", dpi=(300, 300))
    write_photo(tmp_path / f"out{suffix}", read_photo(tmp_path / f"in{source}"))
    with Image.open(tmp_path / f"out{suffix}") as out:
        found = out.info.get("dpi") or (out.getexif()[282], out.getexif()[283])
        assert found == pytest.approx((300, 300), abs=0.02)


def test_a_resolution_that_makes_no_sense_is_left_out(tmp_path):
    Image.fromarray(SMOOTH).save(tmp_path / "in.png", dpi=(1e7, 1e7))
    photo = read_photo(tmp_path / "in.png")
    assert photo.metadata.dpi is None
    write_photo(tmp_path / "out.jpg", photo)
