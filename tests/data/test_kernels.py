from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.data.example import DataError
from diffbir_jax.data.kernels import KINDS, Kernels, draw_kernel, generalized_kernel, sinc_kernel
from diffbir_jax.parity.degradation import KERNELS, kernel

GOLDEN = Path(__file__).parents[1] / "golden" / "degradation.npz"
ALL_KINDS = Kernels((7, 21), KINDS, (0.2, 0.2, 0.2, 0.1, 0.2, 0.1), (0.2, 3.0), sinc_probability=0.1)


def test_kernels_are_the_references():
    """To the last digits, far below the tolerance of image operations."""
    with np.load(GOLDEN) as golden:
        keys = [key for key in golden if key.split("|")[0] in KERNELS and "|" in key]
        assert len(keys) == 43
        for key in keys:
            np.testing.assert_allclose(kernel(key), golden[key], rtol=0, atol=1e-12, err_msg=key)


def test_a_generalized_kernel_of_shape_one_is_the_gaussian():
    np.testing.assert_allclose(
        generalized_kernel(9, 1.2, 2, 0.3), kernel("gaussian|9|1.2|2|0.3|aniso"), atol=1e-15
    )


def test_sinc_passes_low_and_stops_high_frequencies():
    """A long kernel comes near the ideal filter: up to the cutoff all, beyond it nothing."""
    response = np.abs(np.fft.fft2(sinc_kernel(np.pi / 2, 201)))[0]
    np.testing.assert_allclose(response[:40], 1, atol=0.06)
    np.testing.assert_allclose(response[60:100], 0, atol=0.06)


def test_drawn_kernels_are_those_of_what_was_drawn():
    for seed in range(200):
        drawn, shape = draw_kernel(np.random.default_rng(seed), ALL_KINDS)
        x = shape["sigma_x"] if shape["kind"] != "sinc" else 0
        axes = f"{x}|{shape.get('sigma_y', x)}|{shape.get('theta', 0)}"
        family = shape["kind"].split("_")[0]
        if family == "sinc":
            key = f"sinc|{shape['cutoff']}|{shape['size']}|0"
        elif family in ("iso", "aniso"):
            key = f"gaussian|{shape['size']}|{axes}|{family}"
        else:
            key = f"{family}|{shape['size']}|{axes}|{shape['beta']}"
        np.testing.assert_array_equal(drawn, kernel(key))
        assert drawn.sum() == pytest.approx(1)


def test_shares_and_ranges_are_kept():
    rng = np.random.default_rng(0)
    shapes = [draw_kernel(rng, ALL_KINDS)[1] for _ in range(4000)]
    assert {shape["size"] for shape in shapes} == set(range(7, 22, 2))
    sinc = [shape for shape in shapes if shape["kind"] == "sinc"]
    assert len(sinc) / 4000 == pytest.approx(0.1, abs=0.02)
    for large, low in ((False, np.pi / 3), (True, np.pi / 5)):
        cutoffs = [shape["cutoff"] for shape in sinc if (shape["size"] >= 13) == large]
        assert low < min(cutoffs) < low + 0.2 and np.pi - 0.2 < max(cutoffs) < np.pi
    for kind, share in zip(KINDS, ALL_KINDS.probabilities):
        of_kind = [shape for shape in shapes if shape["kind"] == kind]
        assert len(of_kind) / 4000 == pytest.approx(0.9 * share, abs=0.02)
        assert all(("theta" in shape) == kind.endswith("aniso") for shape in of_kind)
    betas = np.array([shape["beta"] for shape in shapes if shape["kind"].startswith("generalized")])
    assert np.mean(betas < 1) == pytest.approx(0.5, abs=0.06)
    assert betas.min() > 0.5 and 3.5 < betas.max() < 4


def test_a_fitted_kernel_reaches_three_deviations():
    _, shape = draw_kernel(np.random.default_rng(0), Kernels(None, sigma=2.0))
    assert shape["size"] == 13


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"size": 20}, r"size is 20; give an odd"),
        ({"size": (7, 20)}, r"size is \(7, 20\)"),
        ({"size": 7.0}, r"size is 7\.0"),
        ({"sigma": (3.0, 0.2)}, r"sigma is \(3\.0, 0\.2\).*low <= high"),
        ({"sigma": 0.0}, r"sigma is 0\.0"),
        ({"sigma": (0.1, float("nan"))}, r"sigma is \(0\.1, nan\)"),
        ({"sigma": "strong"}, r"sigma is 'strong'"),
        ({"kinds": ("round", "iso")}, r"kinds is \('round', 'iso'\).*plateau_aniso"),
        ({"probabilities": (0.5, 0.6)}, r"probabilities is \(0\.5, 0\.6\); give 2 .*sum to 1"),
        ({"probabilities": (1.0,)}, r"probabilities is \(1\.0,\); give 2"),
        ({"probabilities": (1.5, -0.5)}, r"probabilities"),
        ({"beta_plateau": (1.5, 2.0)}, r"beta_plateau is \(1\.5, 2\.0\).*low <= 1 <= high"),
        ({"sinc_probability": 1.1}, r"sinc_probability is 1\.1"),
        ({"size": None, "sinc_probability": 0.1}, r"size is None"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_named(fields, message):
    with pytest.raises(DataError, match=message):
        Kernels(**fields)
