"""Face identity similarity, with a network that sees mean colours only."""

from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.evaluation.identity import ARCFACE, ARCFACE_SIDE, FFHQ, FFHQ_SIDE, FILE, IDENTITY, aligned
from diffbir_jax.evaluation.metric import Setup, UnavailableError
from tests.evaluation.onnx_file import write_mean_network

(METRIC,) = IDENTITY


def flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((64, 64, 3), (red, green, blue), np.uint8)


def similarity_of(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where the best rotation, scale and shift take `points`: Umeyama's solution, here in the complex plane."""
    x, y = points - points.mean(), wanted - wanted.mean()
    return wanted.mean() + x * (np.vdot(x, y) / np.vdot(x, x))


@pytest.mark.parametrize("scale", [1, 0.5])
def test_faces_are_moved_to_where_the_network_expects_them(scale: float) -> None:
    best = similarity_of(FFHQ, ARCFACE)
    # FFHQ's mean face is the longer one, which no similarity changes; an eye is 12 pixels wide here.
    assert np.abs(best - ARCFACE).max() < 3
    for found, wanted in zip(FFHQ * scale, best, strict=True):
        image = np.zeros((int(FFHQ_SIDE * scale),) * 2 + (3,), np.uint8)
        x, y = round(found.real), round(found.imag)
        image[y - 6 : y + 7, x - 6 : x + 7] = 255
        weights = aligned(image)[..., 0].astype(float)
        rows, columns = np.indices(weights.shape)
        centre = complex((weights * columns).sum(), (weights * rows).sum()) / weights.sum()
        assert abs(centre - wanted) < 0.5
    assert aligned(flat(1, 2, 3)).shape == (ARCFACE_SIDE, ARCFACE_SIDE, 3)


def test_similarity_is_the_cosine_of_the_networks_outputs(tmp_path: Path) -> None:
    write_mean_network(tmp_path / FILE, ARCFACE_SIDE)
    score = METRIC.load(Setup(weights=tmp_path))
    red, green = flat(255, 127, 127), flat(127, 255, 127)
    a, b = (np.array(x) / 127.5 - 1 for x in ((255, 127, 127), (127, 255, 127)))
    assert score(red, red) == pytest.approx(1, abs=1e-6)
    assert score(red, green) == pytest.approx(a @ b / (a @ a), abs=1e-5)
    assert score(flat(255, 255, 255), flat(0, 0, 0)) == pytest.approx(-1, abs=1e-6)


def test_other_shapes_than_squares_are_refused(tmp_path: Path) -> None:
    write_mean_network(tmp_path / FILE, ARCFACE_SIDE)
    with pytest.raises(ValueError, match="64x60 given; faces must be square"):
        METRIC.load(Setup(weights=tmp_path))(flat(1, 2, 3)[:, :60], flat(1, 2, 3)[:, :60])


def test_a_missing_or_damaged_network_is_named_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        UnavailableError, match="arcface.onnx is missing. Put there, under this name, an ArcFace"
    ):
        METRIC.load(Setup(weights=tmp_path))
    (tmp_path / FILE).write_bytes(b"no network")
    with pytest.raises(UnavailableError, match="no network that OpenCV can read. Put there"):
        METRIC.load(Setup(weights=tmp_path))
