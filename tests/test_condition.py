"""Controls that read an encoder's output in place of a latent: files, images whole and in tiles, plans."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.conversion.to_torch import export_files
from diffbir_jax.restoration import autoencoder, stage1
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.image import Frame, Request
from diffbir_jax.restoration.plan import Plan, StagePlan
from diffbir_jax.restoration.planner import make_plan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.weights.loading import load_params, weight_files
from diffbir_jax.weights.safetensors import save_weights
from tests import route
from tests.command import call, complaint, save
from tests.micro import FEW, GUIDED, MICRO, micro, picture, random_params

MODULES = (*MICRO.modules, "condition")
LATENT = dataclasses.replace(GUIDED, guidance_space="latent")


@functools.cache
def encoded():
    """The restorer `micro`, but for its control's encoder."""
    return Restorer(MICRO, micro().params | random_params(MICRO, modules=["condition"]))


def write(folder, control, names=MODULES):
    """Weights of the preset, the control's header saying `control`."""
    for name, params in encoded().params.items():
        if name in names:
            save_weights(folder / f"{name}.safetensors", params, control if name == "control" else {})
    return folder


def levels(one, other):
    return int(np.abs(one.astype(int) - other).max())


def plan(tile, overlap):
    return Plan(*[StagePlan(tile, overlap, 2)] * 4)


def after_encoder(restorer, size, cut):
    """A frame, and its stage-1 image as the networks see it."""
    frame = Frame(0, Request(picture(*size, 3)), 1.0, MICRO, cut)
    executor = Executor(restorer, restorer.programs, cut, Wanted(FEW))
    stage1.clean(executor, [frame])
    autoencoder.encode(executor, [frame])
    return frame, 2.0 * frame.clean_tile(np.zeros(2, int), frame.sides.padded)[None] - 1.0


# Files


def test_the_header_of_a_control_decides_whether_there_is_an_encoder(tmp_path):
    write(tmp_path, {})
    assert weight_files(MICRO, tmp_path).keys() == set(MICRO.modules)
    write(tmp_path, {"condition": "vae"})
    assert load_params(MICRO, tmp_path).keys() == set(MICRO.modules)
    write(tmp_path, {"condition": "conv"})
    assert load_params(MICRO, tmp_path).keys() == set(MODULES)
    assert load_params(MICRO, tmp_path, modules=["control"]).keys() == {"control", "condition"}
    assert load_params(MICRO, tmp_path, modules=["rm", "vae"]).keys() == {"rm", "vae"}


def test_an_encoder_that_is_missing_is_named(tmp_path):
    write(tmp_path, {"condition": "conv"}, MICRO.modules)
    with pytest.raises(FileNotFoundError, match=r"lacks condition\.safetensors; give a folder"):
        load_params(MICRO, tmp_path)


def test_the_reference_has_no_such_control(tmp_path):
    write(tmp_path, MICRO.header("control") | {"condition": "conv"}, ["control"])
    with pytest.raises(
        ValueError, match=r"control\.safetensors: .*reads the output of an encoder.*condition=vae"
    ):
        export_files(tmp_path / "control.safetensors", tmp_path / "out", "safetensors")
    usual = MICRO.header("control") | {"condition": "vae"}
    save_weights(tmp_path / "usual.safetensors", encoded().params["control"], usual)
    with pytest.warns(UserWarning, match=r"left out, .*: control\.safetensors"):
        (entry,) = export_files(tmp_path, tmp_path / "out", "safetensors")
    assert entry.module == "usual"


# Images


@pytest.mark.parametrize(
    "options",
    [pytest.param(FEW, marks=pytest.mark.slow), pytest.param(GUIDED, marks=pytest.mark.slow), LATENT],
    ids=["free", "rgb", "latent"],
)
def test_files_are_restored_as_images_by_the_generator(options):
    """The pipeline's packs against the stages one after the other."""
    images = [picture(24, 24, seed) for seed in (0, 1)]
    found = encoded().restore(images, options=options)
    clean = route.stage1(encoded(), jnp.asarray(np.stack(images), jnp.float32) / 255)
    expected = np.asarray(route.finish(encoded(), route.stage2(encoded(), clean, options), clean))
    for result, image in zip(found, expected):
        assert levels(result.image, image) <= 1


def test_the_encoder_changes_the_result():
    """So that it matters whether others agree about it."""
    image = picture(24, 24, 0)
    found, usual = (each.restore([image], options=FEW)[0].image for each in (encoded(), micro()))
    assert levels(found, usual) > 1


@pytest.mark.parametrize("size", [(24, 38), (20, 32), (88, 38)])
def test_the_encoder_sees_what_the_autoencoder_sees(size):
    """Padded, enlarged if it is small, and beyond the range nothing."""
    frame, image = after_encoder(encoded(), size, plan(128, 32))
    params = encoded().params["condition"]
    expected = jax.jit(MICRO.make_condition().apply)({"params": params}, np.clip(image, -1, 1))
    np.testing.assert_allclose(frame.hint, expected[0], rtol=1e-4, atol=1e-4)
    assert np.abs(image).max() > 1
    usual, _ = after_encoder(micro(), size, plan(128, 32))
    np.testing.assert_allclose(frame.latent, usual.latent, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(frame.weight, usual.weight, rtol=1e-5, atol=1e-5)
    assert usual.hint.shape[-1] == 0


def test_tiles_are_seen_as_the_whole_image():
    """Where tiles overlap, the pixels beside a border hardly count: there the encoder would see less."""
    frame, image = after_encoder(encoded(), (176, 38), plan(96, 48))
    assert len(frame.grid("encode").starts) > 2
    params = encoded().params["condition"]
    expected = jax.jit(MICRO.make_condition().apply)({"params": params}, np.clip(image, -1, 1))[0]
    assert np.abs(frame.hint - expected).max() < 1e-3 * expected.std()


@pytest.mark.slow
def test_company_does_not_matter():
    given = [
        Request(picture(*size, index), index) for index, size in enumerate([(24, 38), (90, 38), (24, 33)])
    ]
    cut = plan(64, 32)
    together = {o.position: o.results[0].image for o in encoded().restore_many(given, options=FEW, plan=cut)}
    for position, request in enumerate(given):
        (alone,) = encoded().restore_many([request], options=FEW, plan=cut)
        np.testing.assert_array_equal(alone.results[0].image, together[position])


def test_what_is_planned_is_what_runs():
    using, size = Restorer(MICRO, encoded().params), (24, 24)
    found = make_plan(using, using.programs, [(size, size)], Wanted(FEW))
    planned = using.compiled
    (outcome,) = using.restore_many([Request(picture(*size))], options=FEW, plan=found.plan)
    assert outcome.error is None and using.compiled == planned > 0


# The command line


def test_the_command_takes_such_a_control_and_records_its_encoder(inputs, capsys):
    save(inputs / "a.png")
    weights = inputs.parent / "weights"
    flags = ("--input", "in", "--version", "micro", "--upscale", 1, "--weights", weights)
    for condition in ("conv", "vae"):
        write(weights, {"condition": condition})
        assert call(*flags, "--output", condition) == 0
    results = [np.asarray(Image.open(f"{condition}/a.png")) for condition in ("conv", "vae")]
    assert levels(*results) > 1
    recorded = [json.loads(Path(f"{c}/a.json").read_text())["weights"] for c in ("conv", "vae")]
    assert recorded[0].keys() - recorded[1].keys() == {"condition"}
    (weights / "condition.safetensors").unlink()
    write(weights, {"condition": "conv"}, ["control"])
    assert call(*flags, "--output", "again") == 1
    assert "lacks condition.safetensors" in complaint(capsys)
