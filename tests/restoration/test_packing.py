"""Images of any size through all stages: packs, tiles, batches, devices; what must not change a result."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.imaging.bytes import enlarge, to_float
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration import autoencoder, diffusion, packing, stage1
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.image import Frame, Request
from diffbir_jax.restoration.plan import Plan, StagePlan
from diffbir_jax.restoration.planner import programs_of
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Outcome, Wanted
from diffbir_jax.sampling.guidance import pixel_weight
from diffbir_jax.sampling.options import Options
from diffbir_jax.sharding import make_mesh
from tests import route
from tests.micro import FEW, GUIDED, MICRO, micro, picture, random_params

# Three of one tile, the last below the preset's least side, which share all programs; two of two tiles, one above the
# other, which share others.
WHOLE = [(24, 38), (24, 33), (20, 32)]
STRIPS = [(90, 38), (70, 33)]
SIZES = [WHOLE[0], STRIPS[0], WHOLE[1], WHOLE[2], STRIPS[1]]


def make_plan(batch: int = 4, tile: int = 64, norms: Literal["image", "tile"] = "image") -> Plan:
    return Plan(*[StagePlan(tile, tile // 2, batch)] * 4, norms=norms)


PLAN = make_plan()


def requests(sizes: Sequence[tuple[int, int]]) -> list[Request]:
    """Pictures that differ in noise and content; those of one size are the same in any list."""
    return [Request(picture(*size, seed=sum(size)), sum(size)) for size in sizes]


def run(given: Iterable[Request], options: Options = FEW, plan: Plan = PLAN, **more: Any) -> list[Outcome]:
    """Outcomes in the order of requests."""
    restorer = more.pop("restorer", None) or micro()
    found = restorer.restore_many(given, options=options, plan=plan, **more)
    return sorted(found, key=lambda outcome: outcome.position)


def images(given: Iterable[Request], *args: Any, **more: Any) -> list[np.ndarray]:
    return [outcome.results[0].image for outcome in run(given, *args, **more)]


@functools.cache
def mixed() -> list[Outcome]:
    return run(requests(SIZES))


@functools.cache
def spread() -> Restorer:
    """On four devices."""
    return Restorer(MICRO, random_params(MICRO), mesh=make_mesh())


def levels(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of images in 16 bits, in dB."""
    error = np.mean(np.square((one.astype(np.float64) - other) / 65535))
    return float(-10 * np.log10(error + 1e-12))


def deep(given: Iterable[Request]) -> list[Request]:
    """The same in 16 bits."""
    return [request._replace(image=request.image.astype(np.uint16) * 257) for request in given]


# What comes out


def test_every_image_once_in_its_size() -> None:
    unsorted = list(micro().restore_many(requests(SIZES), options=FEW, plan=PLAN))
    assert sorted(outcome.position for outcome in unsorted) == list(range(len(SIZES)))
    for size, outcome in zip(SIZES, mixed()):
        (restored,) = outcome.results
        assert outcome.error is None and restored.fidelity is None
        for image in restored[:3]:
            assert image is not None and image.shape == (*size, 3) and image.dtype == np.uint8
        assert (restored.image != restored.stage1).any()
    np.testing.assert_array_equal(mixed()[0].results[0].upscaled, requests(SIZES)[0].image)


def test_a_full_pack_does_not_wait() -> None:
    """Requests are read as they are needed."""
    read = []

    def given() -> Iterator[Request]:
        for request in requests([WHOLE[0]] * 6):
            read.append(request)
            yield request

    outcomes = micro().restore_many(given(), options=FEW, plan=PLAN)
    assert next(outcomes).position == 0
    assert len(read) == 4
    assert len(list(outcomes)) == 5


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1], [4], [3, 0]])
def test_company_does_not_matter(order: list[int]) -> None:
    """Bit for bit, in another order, alone, and in a pack that is not full."""
    for place, image in zip(order, images(requests([SIZES[i] for i in order]))):
        np.testing.assert_array_equal(image, mixed()[place].results[0].image)


def test_when_much_is_waiting_packs_are_computed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WAITING", 4000)
    found = list(micro().restore_many(requests(SIZES), options=FEW, plan=PLAN))
    # Strips have 3420 pixels and 2310, all whole images together 2344: each pack is the largest when it is too much.
    assert [outcome.position for outcome in found] == [1, 0, 2, 3, 4]
    for outcome in found:
        np.testing.assert_array_equal(outcome.results[0].image, mixed()[outcome.position].results[0].image)


@pytest.mark.slow
def test_the_batch_does_not_matter() -> None:
    chosen = [0, 1, 4]
    for place, image in zip(chosen, images(requests([SIZES[i] for i in chosen]), plan=make_plan(1))):
        assert levels(image, mixed()[place].results[0].image) <= 1


@pytest.mark.slow
def test_devices_do_not_matter() -> None:
    """Whole images lie on one device each, tiles of one image on all."""
    chosen = [0, 1, 2, 4]
    for place, image in zip(chosen, images(requests([SIZES[i] for i in chosen]), restorer=spread())):
        assert levels(image, mixed()[place].results[0].image) <= 1


def test_sixteen_bits() -> None:
    for place, image in zip([0, 1], images(deep(requests(SIZES[:2])))):
        assert image.dtype == np.uint16 and len(np.unique(image)) > 300
        assert np.abs(image / 257 - mixed()[place].results[0].image).max() <= 1


def test_variants_of_tiled_images() -> None:
    """Other noise each; the first is the one without others."""
    (outcome,) = run(requests([STRIPS[0]]), count=2)
    first, second = outcome.results
    np.testing.assert_array_equal(first.image, mixed()[1].results[0].image)
    assert levels(first.image, second.image) > 1
    np.testing.assert_array_equal(first.stage1, second.stage1)


def test_without_detail_all_variants_are_stage_1() -> None:
    first, second = micro().variants(picture(16, 16), 1.0, dataclasses.replace(FEW, detail=0.0), 2)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.image, first.stage1)


def test_what_is_not_kept() -> None:
    for place, outcome in zip([0, 1], run(requests(SIZES[:2]), keep=False)):
        (restored,) = outcome.results
        assert restored.stage1.size == restored.upscaled.size == 0
        np.testing.assert_array_equal(restored.image, mixed()[place].results[0].image)


# What fails


def test_a_broken_request_fails_alone() -> None:
    good = requests(SIZES[:2])
    image = good[0].image
    broken = {
        "image is float64 of shape": Request(image / 255),
        "image has floats from .* to .*levels by 255, 16-bit levels by 65535": Request(
            image.astype(np.float32)
        ),
        r"stage-1 image is uint8 of shape \(24, 38\); give \(h, w, 3\) uint8": Request(
            image, 1, image[..., 0]
        ),
        "stage-1 image is int32": Request(image, 1, image.astype(np.int32)),
        "stage-1 image is 20x24, of other proportions": Request(image, 1, image[:, :20]),
        r"mask is uint8 of shape \(24, 38, 3\); give \(h, w\) uint8": Request(image, 1, mask=image),
        "mask is bool": Request(image, 1, mask=image[..., 0] > 9),
    }
    found = run([good[0], *broken.values(), good[1]])
    for outcome, message in zip(found[1:-1], broken):
        assert outcome.results == ()
        with pytest.raises(ValueError, match=message):
            raise outcome.error or AssertionError("no error")
    for place, outcome in ((0, found[0]), (1, found[-1])):
        np.testing.assert_array_equal(outcome.results[0].image, mixed()[place].results[0].image)


@pytest.mark.parametrize("size", [WHOLE[0], STRIPS[0]])
def test_one_image_that_is_not_finite_fails_alone(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among others of its pack, whose batches it shares."""
    cut = Frame.lq_tiles

    def tiles(frame: Frame) -> Iterator[np.ndarray]:
        yield from (tile * np.float32(np.nan if frame.position == 0 else 1) for tile in cut(frame))

    expected = images(requests([size, size]))
    monkeypatch.setattr(Frame, "lq_tiles", tiles)
    bad, good = run(requests([size, size]))
    assert bad.results == () and "stage 1 gave NaN or infinity in float32" in str(bad.error)
    np.testing.assert_array_equal(good.results[0].image, expected[1])


@pytest.mark.parametrize("module, stage", [("rm", "stage 1"), ("vae", "the encoder"), ("unet", "stage 2")])
def test_weights_that_are_not_finite_are_said(module: str, stage: str) -> None:
    """In whole images and tiled ones, by the first stage that shows it."""
    params = random_params(MICRO)
    params[module] = jax.tree.map(lambda x: x * jnp.nan, params[module])
    restorer = Restorer(MICRO, params)
    restorer.programs = micro().programs
    for outcome in run(requests(SIZES[:2]), restorer=restorer):
        assert outcome.results == () and str(outcome.error).startswith(f"{stage} gave NaN or infinity")


def test_no_memory_for_an_image_is_its_own_failure(monkeypatch: pytest.MonkeyPatch) -> None:

    def greedy(image: np.ndarray, upscale: float) -> np.ndarray:
        if image.shape[:2] == STRIPS[0]:
            raise MemoryError("too large")
        return enlarge(image, upscale)

    monkeypatch.setattr("diffbir_jax.restoration.image.enlarge", greedy)
    first, second = run(requests(SIZES[:2]))
    assert first.error is None and isinstance(second.error, MemoryError)


# Programs


def test_sizes_share_programs(compilations: list[str]) -> None:
    """Four for whole images; of tiles, both halves of the autoencoder also measure, cut off at few layers."""
    restorer = Restorer(MICRO, micro().params)
    whole, strips = [(24, 40 - i) for i in range(6)], [(66 + 5 * i, 40 - i) for i in range(6)]
    run(requests(whole + strips), restorer=restorer)
    stages = [name for name in compilations if name.endswith(("_tiles)", "(sample)"))]
    assert len(stages) <= restorer.compiled == 4 + 13
    foreseen = programs_of(
        Executor(restorer, restorer.programs, PLAN, Wanted(FEW)), [(size, size) for size in whole + strips]
    )
    assert sum(foreseen.values()) == 4 + 13 and foreseen["stage 1"] == foreseen["sampling"] == 2
    compilations.clear()
    run(requests([(24, 34), *strips[1:3], (20, 30), (96, 34)]), restorer=restorer)
    assert compilations == []
    assert restorer.compiled == 4 + 13


# Tiles against whole images


def faithful(
    preset: Preset, plan: Plan, given: Sequence[Request], options: Options = FEW
) -> list[np.ndarray]:
    """Results in 16 bits of a restorer that shares programs with the others."""
    restorer = Restorer(preset, micro().params)
    restorer.programs = micro().programs
    return images(deep(given), options, plan, restorer=restorer)


@pytest.mark.slow
def test_the_autoencoder_sees_tiles_as_the_whole_image() -> None:
    """By the image's statistics to 50 dB, closer than by the tiles' own; sampling hardly changes the latents."""
    options = dataclasses.replace(FEW, steps=1, start=0.001)
    image = requests([(128, 38)])
    whole = make_plan(1, tile=128)
    tiled = dataclasses.replace(whole, encode=StagePlan(96, 64, 2), decode=StagePlan(96, 64, 2))
    (expected,) = faithful(MICRO, whole, image, options)
    (close,) = faithful(MICRO, tiled, image, options)
    (far,) = faithful(MICRO, dataclasses.replace(tiled, norms="tile"), image, options)
    assert psnr(close, expected) > 50
    assert psnr(far, expected) < psnr(close, expected) - 6


def test_sampling_can_start_from_the_input() -> None:
    """Its latent is noised in place of stage 1's, which still controls."""
    image, made = picture(64, 64, 1), picture(64, 64, 2)
    options = dataclasses.replace(FEW, start_point="input")
    (found,) = images([Request(image, clean=made)], options)
    given, clean = (jnp.asarray(to_float(each)) for each in (image, made))
    expected = route.finish(micro(), route.stage2(micro(), clean, options, [0], start=given), clean)
    assert levels(found, expected[0]) <= 1
    assert levels(found, images([Request(image, clean=made)])[0]) > 10


def test_the_start_of_a_tiled_image_is_encoded_with_the_statistics_of_the_input() -> None:
    request = Request(picture(90, 38, 1), clean=picture(90, 38, 2))
    frames = [
        Frame(0, each, 1.0, MICRO, PLAN) for each in (request, Request(request.image, clean=request.image))
    ]
    executor = Executor(
        micro(), micro().programs, PLAN, Wanted(dataclasses.replace(FEW, start_point="input"))
    )
    stage1.clean(executor, frames)
    autoencoder.encode(executor, frames)
    np.testing.assert_allclose(frames[0].start, frames[1].latent, rtol=0, atol=1e-5)
    assert np.abs(frames[0].start - frames[0].latent).max() > 0.1


@pytest.mark.slow
def test_a_stage_may_have_tiles_of_its_own() -> None:
    """Images that the encoder sees whole share packs with others that it does not: each as alone."""
    plan = dataclasses.replace(PLAN, encode=StagePlan(72, 36, 4))
    given = requests([(70, 38), (80, 38)])
    together = images(given, plan=plan)
    for request, image in zip(given, together):
        np.testing.assert_array_equal(images([request], plan=plan)[0], image)


# Guidance


def prepared(request: Request, options: Options) -> tuple[Executor, Frame]:
    """An image after the encoder."""
    executor = Executor(micro(), micro().programs, PLAN, Wanted(options))
    frame = Frame(0, request, 1.0, MICRO, PLAN)
    stage1.clean(executor, [frame])
    autoencoder.encode(executor, [frame])
    return executor, frame


def test_guidance_weighs_the_pixels_of_a_canvas_as_those_of_the_image() -> None:
    """Its borders are no edges."""
    executor, frame = prepared(Request(picture(72, 48, 1)), GUIDED)
    assert frame.shape.canvas == (96, 48)
    given = diffusion.conditioned(executor, [frame], [frame, frame])
    target = jnp.asarray(2.0 * frame.clean_tile(np.zeros(2, int), (72, 48))[None] - 1.0)
    expected = pixel_weight("w_mse", target)
    np.testing.assert_allclose(given.weight[:, :72], jnp.tile(expected, (2, 1, 1, 1)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_guidance_pulls_tiled_images_towards_stage_1() -> None:
    """Where the mask lets it; a mask of zeros is no guidance."""
    options = dataclasses.replace(GUIDED, guidance_scale=20.0, guidance_loss="mse")
    (request,) = deep(requests([STRIPS[0]]))
    mask = np.zeros((90, 38), np.uint8)
    plain, guided, masked = (
        outcome.results[0]
        for outcome in (
            *run([request]),
            *run([request], options),
            *run([request._replace(mask=mask)], options),
        )
    )

    def distance(found: Any) -> float:
        return float(np.mean(np.square(found.image.astype(float) - found.stage1)))

    assert distance(guided) < 0.98 * distance(plain)
    assert np.abs(masked.image.astype(int) - plain.image).max() <= 257


@pytest.mark.slow
def test_maps_of_tiled_images() -> None:
    """They show what guidance does with the whole image, as far as the mask lets it."""
    mask = np.zeros((90, 38), np.uint8)
    mask[20:80, 10:] = 255
    request = requests([STRIPS[0]])[0]._replace(mask=mask)
    (outcome,) = run([request], GUIDED, with_fidelity=True)
    found = outcome.results[0].fidelity
    assert found is not None and found.dtype == np.uint8
    # The result's stage-1 image is clipped, which leaves no edges where the networks see some.
    _, frame = prepared(request, GUIDED)
    clean, held = (
        jnp.asarray(a, jnp.float32)[None] for a in (frame.clean, mask[..., None] / np.float32(255))
    )
    weight = route.fidelity(micro(), clean, GUIDED, held)
    expected = 255 * np.asarray(weight[0, ..., 0])
    assert np.abs(found - expected).max() <= 1.5
    assert expected.max() > 100 and not found[:20].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_last_result_takes_the_place_of_stage_1(dtype: type) -> None:
    """Which changes no byte: of two results the first one does not."""
    (request,) = requests([STRIPS[0]])
    request = request._replace(image=request.image.astype(dtype) * (257 if dtype == np.uint16 else 1))
    (alone,), (pair,) = run([request], keep=False), run([request], keep=False, count=2)
    np.testing.assert_array_equal(alone.results[0].image, pair.results[0].image)
    assert pair.results[0].image.dtype == dtype and not np.array_equal(*(r.image for r in pair.results))
