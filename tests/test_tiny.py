"""The shipped model keeps what docs/tiny.md says of it, with a margin below the measured figures."""

import dataclasses

import numpy as np
import pytest

from benchmarks.large import border_energy, photo
from benchmarks.tiny import GUIDANCE_SCALES, Row, table
from diffbir_jax.models.presets import TINY
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.plan import Plan, StagePlan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.loading import weight_files


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return table(Restorer.load("tiny"), scales=(min(GUIDANCE_SCALES), max(GUIDANCE_SCALES)))


@pytest.mark.slow
def test_stage_1_beats_bicubic(rows: dict[str, Row]) -> None:
    assert rows["RM"]["PSNR"] >= rows["bicubic"]["PSNR"] + 0.45
    assert rows["RM"]["SSIM"] > rows["bicubic"]["SSIM"]


@pytest.mark.slow
def test_stage_2_adds_detail_where_it_belongs(rows: dict[str, Row]) -> None:
    """More detail than stage 1 at little loss of fidelity, and placed better than noise of the same spectrum."""
    noise = next(row for name, row in rows.items() if name.startswith("RM + noise"))
    assert rows["default"]["PSNR"] >= rows["RM"]["PSNR"] - 0.6
    assert rows["default"]["spectral"] <= 0.65 * rows["RM"]["spectral"]
    assert rows["default"]["energy"] > noise["energy"]


@pytest.mark.slow
def test_fidelity_rises_with_guidance(rows: dict[str, Row]) -> None:
    scales = [
        rows["no guidance"],
        *(rows[f"guidance {s:g}"] for s in (min(GUIDANCE_SCALES), max(GUIDANCE_SCALES))),
    ]
    psnr = [row["PSNR"] for row in scales]
    assert psnr == sorted(psnr) and psnr[0] < psnr[-1]


def test_size() -> None:
    assert sum(file.stat().st_size for file in weight_files(TINY, None).values()) <= 20e6


@pytest.mark.slow
def test_tiles_leave_no_seams() -> None:
    """The gradient across their borders is within 2 % of that of the image restored whole."""
    image, restorer = photo(192), Restorer.load("tiny")
    options = dataclasses.replace(default_options("tiny"), steps=2)
    whole, cut = Plan(*[StagePlan(192, 0)] * 4), Plan(*[StagePlan(128, 64)] * 4, norms="tile")
    results = [restorer.variants(image, 1.0, options, 1, plan=plan)[0].image for plan in (whole, cut)]
    assert np.any(results[0] != results[1])
    energies = [border_energy(result, {64, 128}) for result in results]
    assert energies[1] / energies[0] == pytest.approx(1.0, abs=0.02)
