"""Pairs of degraded and clean photos: two folders, a list, a table; and crops from the same place of both."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.data.crops import Crop
from diffbir_jax.data.decoded import Decoded
from diffbir_jax.data.decoding import pixels
from diffbir_jax.data.example import BrokenExampleError, DataError
from diffbir_jax.data.items import Items
from diffbir_jax.data.setup import make_loaders
from diffbir_jax.data.sources import make_source

NAMES = ("a", "b/c", "d")


def clean(seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 16, 3), np.uint8)


def small(image: np.ndarray, factor: int) -> np.ndarray:
    """Each pixel of the result is the first of its square: it tells the place."""
    return image[::factor, ::factor]


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """hq/ and lq/, a quarter of the sides, with other suffixes."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / "hq" / f"{name}.png", clean(seed))
        save(tmp_path / "lq" / f"{name}.tiff", small(clean(seed), 4))
    return tmp_path


def source(folders: Path):
    return make_source({"kind": "pairs", "lq": str(folders / "lq"), "hq": str(folders / "hq")})


def test_two_folders(folders: Path) -> None:
    found = source(folders)
    assert len(found) == 3
    for i in range(3):
        example = found[i]
        assert example.lq is not None
        np.testing.assert_array_equal(pixels(example.image), clean(i))
        np.testing.assert_array_equal(pixels(example.lq), small(clean(i), 4))


def test_the_fingerprint_knows_both_folders_by_names(folders: Path) -> None:
    before = source(folders).fingerprint
    (folders / "lq/a.tiff").rename(folders / "lq/a.tif")
    assert source(folders).fingerprint != before


def test_a_list_and_a_table_have_two_columns(folders: Path) -> None:
    lines = [f"lq/{name}.tiff\thq/{name}.png" for name in NAMES]
    (folders / "pairs.txt").write_text("# LQ, HQ\n" + "\n".join(lines) + "\n")
    rows = [f"hq/{name}.png,lq/{name}.tiff,a text" for name in NAMES]
    (folders / "pairs.csv").write_text("clean,degraded,text\n" + "\n".join([*rows, "hq/d.png,,none"]) + "\n")
    table = {"kind": "table", "path_column": "clean", "lq_column": "degraded"}
    for found in (
        make_source({"kind": "list", "path": str(folders / "pairs.txt"), "pairs": True}),
        make_source(table | {"path": str(folders / "pairs.csv")}),
    ):
        assert len(found) == 3
        assert found[1].lq == (folders / "lq/b/c.tiff").read_bytes()
        assert found[1].image == (folders / "hq/b/c.png").read_bytes()
    assert found[1].captions == {"short": "a text"}


def test_a_line_of_one_column_is_refused(folders: Path) -> None:
    (folders / "pairs.txt").write_text("lq/a.tiff hq/a.png\n")
    with pytest.raises(DataError, match="is a line of 1 columns; give two, LQ and HQ, with a tab"):
        make_source({"kind": "list", "path": str(folders / "pairs.txt"), "pairs": True})


@pytest.mark.parametrize(
    "change, told",
    [
        (
            lambda root: (root / "lq/d.tiff").unlink(),
            r"lq: lacks 1 of 3 images .* such as d; give two folders",
        ),
        (lambda root: (root / "hq/a.png").unlink(), "hq: lacks 1 of 3 images"),
        (
            lambda root: save(root / "lq/a.png", clean(0)),
            "a.png and a.tiff have one name|a.tiff and a.png have one",
        ),
        (lambda root: (root / "lq").rename(root / "other"), "lq: "),
    ],
)
def test_folders_that_are_no_pairs_are_refused(folders: Path, change, told: str) -> None:
    change(folders)
    with pytest.raises(DataError, match=told):
        source(folders)


@pytest.mark.parametrize("factor", (1, 2, 4))
@pytest.mark.parametrize("kind", ("random", "scaled", "center"))
def test_crops_come_from_the_same_place(kind: str, factor: int) -> None:
    """Mirrored and turned in the same way, for any draw."""
    image = clean(5)
    marked = image.copy()
    marked[:, :, 0] = np.repeat(np.repeat(small(image, factor)[..., 0], factor, 0), factor, 1)
    crop, places = Crop(kind, 32, flip=True, rotate=True), set()
    for seed in range(12):
        hq, lq = crop.pair(marked, small(image, factor), np.random.default_rng(seed))
        assert hq.shape == (32, 32, 3) and lq.shape == (32 // factor, 32 // factor, 3)
        # Squares of one value in red: their order does not depend on how the crop is turned.
        np.testing.assert_array_equal(hq[::factor, ::factor, 0], lq[..., 0])
        places.add(hq.tobytes())
    assert len(places) > 3, "flips and turns at least"


def test_whole_pairs_of_the_crops_size() -> None:
    image = clean(1)[:, :64]
    hq, lq = Crop("none", 64).pair(image, small(image, 2), np.random.default_rng(0))
    np.testing.assert_array_equal(hq, image)
    np.testing.assert_array_equal(lq, small(image, 2))


@pytest.mark.parametrize(
    "kind, size, sides, told",
    [
        ("random", 32, (16, 21), "HQ is 80x64 pixels, LQ 21x16; HQ must be 1, 2, 3 ... times as large"),
        ("random", 32, (128, 160), "HQ must be 1, 2, 3 ... times as large"),
        ("random", 30, (16, 20), "the crop's size 30 must be a multiple of 4"),
        ("center", 96, (16, 20), "HQ must have at least 96x96"),
        ("none", 64, (16, 20), "HQ must have exactly 64x64"),
    ],
)
def test_sizes_are_checked(kind: str, size: int, sides: tuple[int, int], told: str) -> None:
    lq = np.zeros((*sides, 3), np.uint8)
    with pytest.raises(BrokenExampleError, match=told):
        Crop(kind, size).pair(clean(0), lq, np.random.default_rng(0))


def settings(folders: Path, **changes) -> dict:
    places = {"kind": "pairs", "lq": str(folders / "lq"), "hq": str(folders / "hq")}
    data = {"source": places, "crop": {"kind": "random", "size": 32}, "batch_size": 2, "validation_size": 2}
    return data | {"degradation": None, "workers": 0} | changes


def test_batches_hold_the_pair_and_enlarge_its_input(folders: Path) -> None:
    train, held_out = make_loaders(settings(folders), 0)
    batch = train(0)
    assert batch["hq"].shape == batch["lq"].shape == (2, 32, 32, 3)
    assert held_out(0)["lq"].shape == (2, 32, 32, 3)
    # Enlarged from 8 pixels: neighbours are close in the input, not in the noise of the target.
    step = {name: np.abs(np.diff(x.astype(float), axis=2)).mean() for name, x in batch.items() if x.ndim == 4}
    assert step["lq"] < step["hq"] / 2


def test_decoded_pairs_are_the_same(folders: Path) -> None:
    plain, kept = Items(source(folders), Crop("random", 32), pair=Crop("random", 32).pair), None
    kept = Items(Decoded(source(folders), 10**6), Crop("random", 32), pair=Crop("random", 32).pair)
    for position in (0, 1, 2, 0):
        for name in ("hq", "lq"):
            np.testing.assert_array_equal(plain(position)[name], kept(position)[name])


def test_pairs_are_not_degraded_again(folders: Path) -> None:
    with pytest.raises(DataError, match="data.source holds pairs, so set data.degradation to None"):
        make_loaders(settings(folders, degradation={"kind": "first_order"}), 0)


@pytest.mark.parametrize(
    "side, told", [(17, "hq/a.png: HQ is 80x64 pixels, LQ 17x17"), (8, "hq/a.png: its LQ is 8x8 pixels")]
)
def test_unequal_pairs_are_replaced_and_named(folders: Path, side: int, told: str) -> None:
    save(folders / "lq/a.tiff", np.zeros((side, side, 3), np.uint8))
    train, _ = make_loaders(settings(folders, max_broken=1.0), 0)
    for step in range(3):
        train(step)
    assert any(told in text for text in train.broken.values())
