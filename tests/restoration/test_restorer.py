"""The pipeline: stage 1 as the reference computes it, and properties of both stages under random weights."""

import dataclasses
import doctest
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.canvas import resize_float
from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.imaging.resize import at_least
from diffbir_jax.models.presets import get_preset
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from diffbir_jax.parity.runner import misses
from diffbir_jax.restoration import restorer
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.safetensors import save_weights
from tests.micro import FEW, GUIDED, MICRO, MICRO_TEXT, clean, micro, picture, random_params
from tests.models.reference import GOLDEN
from tests.route import finish

# Against the reference


# `make parity` has all paths: each takes a minute to compile. Networks and samplers have golden tests of their own.
@pytest.mark.slow
@pytest.mark.parametrize("case", ["bsrnet_v2"])
def test_the_whole_path_equals_the_reference(case: str) -> None:
    """Stage 1, samples and bytes of a real photo, with the small networks; docs/parity.md has the figures."""
    assert misses(GOLDEN, f"pipeline:{case} stage 1") == []
    assert misses(GOLDEN, f"pipeline:{case}") == []


# Stage 1


def test_stage1_pads_and_crops_in_place() -> None:
    """A module that returns its input returns an image of any size, where it was."""
    params = random_params(MICRO)
    params["rm"]["conv_out"] = jax.tree.map(jnp.zeros_like, params["rm"]["conv_out"])
    restorer = Restorer(MICRO, params)
    image = picture(25, 38).astype(np.float32) / 255
    np.testing.assert_allclose(restorer.clean_one(image, 1.0).image, image, atol=1e-7)
    small = image[:18, :27]
    there_and_back = resize_float(resize_float(small, (24, 36)), (18, 27))
    np.testing.assert_allclose(restorer.clean_one(small, 1.0).image, there_and_back, atol=1e-6)


@pytest.mark.parametrize(
    "size, expected", [((16, 16), (24, 24)), ((16, 25), (24, 37)), ((30, 20), (36, 24)), ((24, 99), (24, 99))]
)
def test_at_least(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert at_least(size, 24) == expected


# Both stages


# The last two are padded to one size, 24x96, and share programs.
@pytest.mark.parametrize(
    "size, upscale, expected",
    [
        ((16, 16), 1, (16, 16)),
        ((16, 61), 1.5, (24, 92)),
        pytest.param((16, 65), 0.5, (8, 32), marks=pytest.mark.slow),
    ],
)
def test_any_size(size: tuple[int, int], upscale: float, expected: tuple[int, int]) -> None:
    (restored,) = micro().restore([picture(*size)], upscale, FEW)
    assert restored.fidelity is None
    for image in restored[:3]:
        assert image.shape == (*expected, 3)
        assert image.dtype == np.uint8
    assert (restored.image != restored.stage1).any()
    assert (restored.stage1 != restored.upscaled).any()


def test_the_seed_decides_the_noise() -> None:
    image = picture(16, 16)
    first, again = (micro().restore([image], 1, FEW)[0].image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = micro().restore([image], 1, dataclasses.replace(FEW, seed=1))[0].image
    second_in_list = micro().restore([image, image], 1, FEW)[1].image
    assert (first != other).any()
    assert (first != second_in_list).any()


def test_new_values_do_not_recompile(compilations: list[str]) -> None:
    micro().restore([picture(16, 16)], 1, GUIDED)
    changed = dataclasses.replace(GUIDED, seed=7, start=0.25, guidance_scale=3.0, strength=0.3)
    compilations.clear()
    micro().restore([picture(16, 16, seed=3)], 1, changed)
    assert compilations == []
    micro().restore([picture(16, 16)], 1, dataclasses.replace(FEW, steps=7))
    assert "jit(sample)" in compilations, "the counter counts"


def test_restorers_of_one_preset_share_programs(compilations: list[str]) -> None:
    micro().restore([picture(16, 16)], 1, FEW)
    other = Restorer(MICRO, jax.tree.map(lambda x: 2.0 * x, random_params(MICRO)))
    compilations.clear()
    other.restore([picture(16, 16)], 1, FEW)
    assert compilations == []


def test_parameters_are_freed_with_the_restorer() -> None:
    restorer = Restorer(MICRO, random_params(MICRO))
    restorer.restore([picture(16, 16)], 1, FEW)
    kept = [weakref.ref(x) for x in jax.tree.leaves(restorer.params)]
    del restorer
    gc.collect()
    assert not [ref for ref in kept if ref() is not None]


def test_variants_differ_and_the_first_is_the_only_one() -> None:
    image = picture(16, 16)
    first, second = micro().variants(image, 1, FEW, 2, index=3)
    np.testing.assert_array_equal(first.image, micro().restore_one(image, 1, FEW, 3).image)
    assert (first.image != second.image).any()
    np.testing.assert_array_equal(first.stage1, second.stage1)


def test_results_are_corrected_by_the_wavelets_of_the_preset() -> None:
    """What `wavelet_colour` makes of results without correction; tests below say what that is."""
    image = picture(24, 24, 1).astype(np.float32) / 255
    raw = Restorer(dataclasses.replace(MICRO, colour_levels=0), micro().params).restore_one(image, 1.0, FEW)
    found = micro().restore_one(image, 1.0, FEW)
    expected = wavelet_colour(jnp.asarray(raw.image), jnp.asarray(raw.stage1), MICRO.colour_levels)
    np.testing.assert_allclose(found.image, expected, atol=1e-5)
    assert np.abs(found.image - raw.image).max() > 1e-2


def test_colours_are_those_of_stage_1() -> None:
    """A cast or a brightness slope in the generated image goes; one in stage 1 stays."""
    style, generated = 0.3 + 0.4 * clean(1), 0.8 * clean(2) - 0.4
    plain = finish(micro(), generated, style).astype(int)
    cast = jnp.asarray([0.4, -0.2, 0.1], jnp.float32).reshape(1, 1, 1, 3)
    assert np.abs(finish(micro(), generated + cast, style) - plain).max() <= 1
    tinted = finish(micro(), generated, style + cast / 8.0)
    inside = (plain > 15) & (plain < 240)
    shift = np.broadcast_to(255.0 * np.asarray(cast) / 8.0, plain.shape)
    np.testing.assert_allclose((tinted - plain)[inside], shift[inside], atol=1)
    assert inside.mean() > 0.5


# Presets, weights and refusals


@pytest.mark.parametrize("name", ["v1", "v2.1"])
def test_published_presets(name: str) -> None:
    """The default configurations are the published ones: tests/conversion compares them with every checkpoint."""
    preset = get_preset(name)
    assert (preset.rm, preset.vae, preset.unet) == (SwinIRConfig(), VAEConfig(), UNetConfig())
    assert (preset.min_side, preset.multiple, preset.padding) == (512, 64, "constant")
    schedule = Restorer(preset, {}).schedule
    assert schedule.parameterization == {"v1": "eps", "v2.1": "v"}[name]
    assert (schedule.alphas_cumprod[-1] == 0) == (name == "v2.1")


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="'v9' given, allowed are tiny, one-step, v1, v2, v2.1"):
        Restorer.load("v9")


def test_load(tmp_path) -> None:
    for name, params in random_params(MICRO).items():
        save_weights(tmp_path / f"{name}.safetensors", params, {})
    loaded = Restorer.load(MICRO, tmp_path).restore([picture(16, 16)], 1, FEW)[0]
    np.testing.assert_array_equal(loaded.image, micro().restore([picture(16, 16)], 1, FEW)[0].image)
    with pytest.raises(ValueError, match="unet.safetensors does not fit the model"):
        Restorer.load(MICRO_TEXT, tmp_path)
    (tmp_path / "rm.safetensors").unlink()
    (tmp_path / "vae.safetensors").unlink()
    lacks = r"lacks rm.safetensors, vae.safetensors; give .*--weights"
    with pytest.raises(FileNotFoundError, match=lacks) as caught:
        Restorer.load(MICRO, tmp_path)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps is 0; allowed with start 1 are 1 to 1000"),
        ({"steps": 401, "start": 0.4}, "steps is 401; allowed with start 0.4 are 1 to 400"),
        ({"start": 0.0}, r"start is 0.0; allowed are shares of the schedule in \(0, 1\]"),
        ({"start": 1.1}, "start is 1.1"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; allowed are finite numbers of at least 0"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"cfg_scale": float("inf")}, "cfg_scale is inf"),
        ({"seed": -1}, "seed is -1; allowed are 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"float64 of shape \(16, 16, 3\); give \(H, W, 3\) uint8"):
        micro().restore([np.zeros((16, 16, 3))])
    with pytest.raises(ValueError, match=r"uint8 of shape \(16, 16\)"):
        micro().restore([np.zeros((16, 16), np.uint8)])
    with pytest.raises(ValueError, match="upscale is 0.01 for an image of 20x16; give a larger factor"):
        micro().restore([picture(16, 20)], 0.01)


def test_the_examples_in_the_documentation() -> None:
    found = doctest.testmod(restorer)
    assert found.attempted >= 7 and not found.failed


def test_progress_counts_images() -> None:
    """And Pillow's images come out as the arrays do."""
    seen = []
    images = [picture(16, 16, 1), picture(16, 16, 2)]
    results = micro().restore(images, 1.0, FEW, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 2), (2, 2)]
    again = micro().restore([Image.fromarray(image) for image in images], 1.0, FEW)
    for one, other in zip(results, again, strict=True):
        np.testing.assert_array_equal(one.image, np.asarray(other.to_pil()))
