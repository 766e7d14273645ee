"""What a result takes of its input: depth, greyness, alpha, metadata; a restorer without networks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch.photos import to_depth
from diffbir_jax.imaging.photo import Metadata, Photo
from diffbir_jax.imaging.reading import read_photo
from diffbir_jax.imaging.writing import write_photo
from tests.batch.fake import Fake
from tests.command import call, complaint, save, written
from tests.micro import picture


def restore(*flags: str) -> int | str | None:
    return call("--input", "in", "--output", "out", "--upscale", "2", "--no-sidecar", *flags)


def store(path: str, photo: Photo) -> None:
    write_photo(path, photo)


@pytest.mark.parametrize("depth", ["same", "8", "16"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bits(fake: Fake, dtype: type, depth: str) -> None:
    """16 bits go into the pipeline if 16 shall come out, and 8 are made of 16."""
    pixels = to_depth(picture(16, 16), "16" if dtype == np.uint16 else "8")
    store("in/a.png", Photo(pixels, alpha=pixels[..., 0]))
    assert restore("--bit-depth", depth, "--save-stages", "--format", "tiff") == 0
    result, stage1 = (read_photo(f"out/a{end}.tif") for end in ("", "_stage1"))
    wanted = {"same": dtype, "8": np.uint8, "16": np.uint16}[depth]
    assert result.pixels.dtype == stage1.pixels.dtype == wanted
    assert result.alpha is not None and result.alpha.dtype == wanted
    request, *_ = fake.seen[0]
    assert request.image.dtype == (np.uint16 if depth == "16" else dtype)


def test_depths_are_rounded() -> None:
    fine = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_depth(fine, "8"), np.rint(fine / 257).astype(np.uint8))
    coarse = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_depth(coarse, "16"), np.rint(coarse / 255 * 65535))
    assert to_depth(fine, "same") is fine and to_depth(coarse, "8") is coarse


@pytest.mark.parametrize(
    "kind, suffix", [("png", ".png"), ("tiff", ".tif"), ("webp", ".webp"), ("jpeg", ".jpg")]
)
def test_alpha_and_metadata_go_along(fake: Fake, kind: str, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "grandmother, 1931"
    metadata = Metadata(exif.tobytes().removeprefix(b"Exif\0\0"))
    alpha = np.full((16, 24), 255, np.uint8)
    alpha[:, :12] = 100
    store("in/a.png", Photo(picture(16, 24), alpha, metadata=metadata))
    assert restore("--format", kind, "--compare") == 0
    result = read_photo(f"out/a{suffix}")
    if kind == "jpeg":
        assert result.alpha is None
    else:
        assert result.alpha is not None
        assert (result.alpha[:, :20] == 100).all() and (result.alpha[:, -20:] == 255).all()
    assert result.metadata.exif is not None and b"grandmother, 1931" in result.metadata.exif
    panels = read_photo(f"out/a_compare{suffix}")
    assert panels.pixels.shape == (32, 3 * 48, 3) and panels.alpha is None


def test_grey_stays_grey(fake: Fake) -> None:
    Image.fromarray(picture(16, 16)).convert("L").save(save(Path("in/a.png")))
    save(Path("in/b.png"))
    assert restore() == 0
    assert [Image.open(f"out/{name}.png").mode for name in "ab"] == ["L", "RGB"]


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.tiff", "a.png"])
def test_formats_are_kept(fake: Fake, name: str) -> None:
    save(Path("in") / name)
    assert restore("--format", "same", "--quality", "30") == 0
    with Image.open(Path("out") / name) as result, Image.open(Path("in") / name) as source:
        assert result.format == source.format
    small = Path("out", name).stat().st_size
    assert restore("--format", "same", "--quality", "100", "--output", "finer") == 0
    finer = Path("finer", name).stat().st_size
    assert (finer > small) == (name in ("a.jpg", "a.webp"))


def test_a_16_bit_input_kept_as_jpeg(fake: Fake) -> None:
    """--bit-depth same gives what the format holds."""
    store("in/a.png", Photo(to_depth(picture(16, 16), "16")))
    assert restore("--format", "jpeg", "--save-stages", "--std-map", "--n-samples", "2") == 0
    assert written() == ["a_1.jpg", "a_2.jpg", "a_stage1.jpg", "a_std.png"]
    assert read_photo("out/a_1.jpg").pixels.dtype == np.uint8
    # Two results that differ by one level of 255: a deviation of 1 / sqrt(2), white being 16.
    np.testing.assert_array_equal(np.asarray(Image.open("out/a_std.png")), round(255 / 16 / 2**0.5))


def test_inputs_that_are_too_large(fake: Fake, capsys) -> None:
    """For us, or for the format of the result, before it is computed."""
    save(Path("in/a.png"), (16, 32))
    assert restore("--max-pixels", "511") == 1
    assert "in/a.png: " in complaint(capsys)
    assert restore("--max-pixels", "512", "--format", "webp", "--upscale", "600") == 1
    assert "out/a.webp: 19200x9600 pixels are more than webp allows" in complaint(capsys)
    assert not fake.seen


@pytest.mark.parametrize("flags", ["--stage1 more", "--guidance-scale 1 --fidelity-mask more"])
def test_other_files_have_the_same_limit(fake: Fake, capsys, flags: str) -> None:
    save(Path("in/a.png"), (16, 32))
    save(Path("more/a.png"), (32, 64))
    assert restore("--max-pixels", "2047", *flags.split()) == 1
    assert "more/a.png: is 64x32 = 2048 pixels, more than the limit of 2047" in complaint(capsys)
    assert not fake.seen
    assert restore("--max-pixels", "2048", *flags.split()) == 0


def test_masks_and_stages_reach_the_pipeline(fake: Fake) -> None:
    for name in ("in/s/a.png", "clean/s/a.png", "masks/s/a.png"):
        save(Path(name), seed=len(name))
    mask = ("--guidance-scale", "1", "--fidelity-mask", "masks", "--guidance-map", "maps")
    assert restore("--stage1", "clean", *mask) == 0
    request, *_ = fake.seen[0]
    assert request.clean is not None and request.mask is not None
    np.testing.assert_array_equal(request.clean, read_photo("clean/s/a.png").pixels)
    np.testing.assert_array_equal(request.mask, np.rint(read_photo("masks/s/a.png").pixels.mean(axis=2)))
    assert written("maps") == ["s/a.png"]
