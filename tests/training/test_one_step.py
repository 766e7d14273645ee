import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.presets import PRESETS
from diffbir_jax.training import loop
from diffbir_jax.training.objective import make_objective
from diffbir_jax.training.one_step import likeness_terms, make_networks, restorer
from diffbir_jax.training.taught import Taught, load_samples, taught_batches
from diffbir_jax.weights.safetensors import flatten, load_weights
from tests.training.micro import (
    BATCH,
    MICRO,
    make_photos,
    make_samples,
    make_weights,
    micro_config,
    surrounded,
)
from tests.training.test_loop import assert_bit_identical

LOSS = {
    "perceptual": 0.0,
    "lpips": 0.0,
    "texture": 0.0,
    "adversarial": 0.3,
}  # the others have tests of their own


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The preset `micro`, and the type promotion that optax relies on."""
    with surrounded():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_samples(make_weights(make_photos(tmp_path_factory.mktemp("one_step"))))


def config(folder, steps=4):
    config = micro_config("one_step", folder)
    config.weights.unet = f"{folder}/unet.safetensors"
    config.loss.update(LOSS)
    config.discriminator.update(ch=8, layers=1)
    config.train.update(steps=steps, warmup=0, checkpoint_every=2)
    return config


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return loop.train(config(folder), workdir), workdir


@pytest.mark.slow
def test_trains_prior_control_decoder_and_discriminator(folder, uninterrupted):
    state, start = uninterrupted[0], make_objective(config(folder)).params
    for name in ("vae", "unet", "control", "discriminator"):
        before, after = flatten(start[name]), flatten(state.params[name])
        assert any(np.any(np.asarray(after[key]) != np.asarray(before[key])) for key in before), name
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_exports_are_the_averages_with_the_frozen_encoder(folder, uninterrupted):
    state, workdir = uninterrupted
    objective = make_objective(config(folder))
    vae = load_weights(
        workdir / "export" / "vae.safetensors", objective.params["vae"] | objective.frozen["vae"]
    )
    assert_bit_identical({k: vae[k] for k in state.ema["vae"]}, jax.tree.map(np.asarray, state.ema["vae"]))
    assert_bit_identical({k: vae[k] for k in objective.frozen["vae"]}, objective.frozen["vae"])
    for name in ("unet", "control"):
        exported = load_weights(workdir / "export" / f"{name}.safetensors", state.ema[name])
        assert_bit_identical(exported, jax.tree.map(np.asarray, state.ema[name]))


@pytest.mark.slow
@pytest.mark.slow
def test_interrupted_and_resumed_run_is_bit_identical(folder, uninterrupted, tmp_path, monkeypatch):
    """Both players of the game, their moments and the averages: everything that the next step depends on."""
    monkeypatch.setattr(loop, "stop_requested", lambda: _stopping_at(3))
    assert int(loop.train(config(folder), tmp_path).step) == 3
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    assert_bit_identical(loop.train(config(folder), tmp_path), uninterrupted[0])


class _stopping_at:
    """In place of signals: asks to stop after a step."""

    def __init__(self, last):
        self.last = last

    def __enter__(self):
        return lambda step: step == self.last

    def __exit__(self, *_):
        return None


def test_terms_of_the_teacher_see_taught_images_only():
    rng = np.random.default_rng(0)
    out, truth, teacher = (jnp.asarray(rng.uniform(-1, 1, (4, 16, 16, 3)), jnp.float32) for _ in range(3))
    weights, taught = {"teacher_l1": 1.0, "l1": 1.0}, jnp.array([1.0, 0.0, 1.0, 0.0])
    terms = likeness_terms(weights, {}, out, truth, teacher, taught, jax.random.key(0))
    difference = np.abs(np.asarray(out) - np.asarray(teacher)).mean((1, 2, 3))
    np.testing.assert_allclose(terms["teacher_l1"], difference[[0, 2]].mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["l1"], np.abs(np.asarray(out) - np.asarray(truth)).mean(), rtol=1e-5)
    assert terms.keys() == weights.keys()


def test_no_teacher_costs_nothing_and_breaks_nothing():
    image = jnp.zeros((2, 16, 16, 3))
    terms = likeness_terms(
        {"teacher_l1": 1.0}, {}, image, image, image + 1.0, jnp.zeros(2), jax.random.key(0)
    )
    assert float(terms["teacher_l1"]) == 0.0


def test_a_batch_begins_with_samples_of_the_teacher(folder):
    batches, _ = taught_batches(config(folder))
    assert isinstance(batches, Taught)
    batch = batches(0)
    np.testing.assert_array_equal(batch["taught"], [1.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(batch["teacher"][2:], batch["hq"][2:])
    for key in ("hq", "lq", "teacher"):
        assert batch[key].shape == (BATCH, 16, 16, 3) and batch[key].dtype == np.uint8
    again, other = batches(0), batches(1)
    assert all(np.array_equal(batch[key], again[key]) for key in batch)
    assert np.any(other["teacher"] != batch["teacher"])


def test_crops_of_a_sample_show_the_same_place(folder):
    """The truth at every fourth pixel is the small input, turned and mirrored with it."""
    batches, _ = taught_batches(config(folder))
    samples = load_samples(folder / "teacher")
    crops = {sample[row : row + 16, column : column + 16].tobytes(): (n, row, column)
        for n, sample in enumerate(samples["hq"]) for row in range(0, 17, 4) for column in range(0, 17, 4)}  # fmt: skip
    seen = 0
    for step in range(8):
        batch = batches(step)
        for hq, teacher in zip(batch["hq"][:2], batch["teacher"][:2]):
            for turns in range(4):
                for mirrored in (False, True):
                    undone = np.rot90(hq, -turns)[:, :: -1 if mirrored else 1]
                    if place := crops.get(np.ascontiguousarray(undone).tobytes()):
                        n, row, column = place
                        beside = np.rot90(teacher, -turns)[:, :: -1 if mirrored else 1]
                        there = samples["teacher"][n, row : row + 16, column : column + 16]
                        np.testing.assert_array_equal(beside, there)
                        seen += 1
    assert seen == 16


def test_missing_samples_say_what_writes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="scripts/make_teacher.py"):
        load_samples(tmp_path)


@pytest.mark.slow
def test_the_start_is_the_latent_of_the_input_or_of_stage_1(folder):
    """Where stage 1 returns its input, both are the same."""
    settings, preset = config(folder), MICRO
    objective = make_objective(settings)
    networks = make_networks(preset, jnp.float32, False)
    rm = objective.frozen["rm"] | {
        "conv_out": jax.tree.map(jnp.zeros_like, objective.frozen["rm"]["conv_out"])
    }
    lq = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)), jnp.uint8)

    def restored(start_point, frozen):
        settings.start_point = start_point
        return jax.jit(restorer(settings, preset, networks))(objective.params, frozen, lq, None)[0]

    plain = objective.frozen | {"rm": rm}
    np.testing.assert_allclose(restored("input", plain), restored("cond", plain), atol=1e-5)
    assert np.abs(restored("input", objective.frozen) - restored("cond", objective.frozen)).max() > 1e-3
