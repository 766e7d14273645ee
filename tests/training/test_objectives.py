"""Every stage at a size that trains in a moment, each on what the one before it exported."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffbir_jax.conversion.to_torch import export_files
from diffbir_jax.models.apply import abstract
from diffbir_jax.training import decoder, loop, pool, prior, rm, vae
from diffbir_jax.training.decoder import ENCODER
from diffbir_jax.training.latents import latent_batches
from diffbir_jax.training.objective import make_objective
from diffbir_jax.training.prior import draw_timesteps
from diffbir_jax.weights.safetensors import flatten, load_weights, save_weights
from tests.models.reference import away_from_zero
from tests.training.micro import BATCH, MICRO, make_photos, micro_config, surrounded

# Stage -> the file that it exports; in the order of training.
EXPORTS = {"rm": "rm", "vae": "vae", "decoder": "vae", "prior": "unet", "control": "control"}
IMAGE, LATENT, T = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4, 4, 4)), jnp.zeros(1, jnp.int32)
SHAPES = {
    "rm": abstract(MICRO.make_rm(), IMAGE),
    "vae": abstract(MICRO.make_vae(), IMAGE),
    "unet": abstract(MICRO.make_unet(), LATENT, T),
    "control": abstract(MICRO.make_control(), LATENT, LATENT, T),
}


def distance(params, a, b, **_):
    """In place of the perceptual distance, which has tests of its own and takes long to compile."""
    return params["scale"] * jnp.mean(jnp.square(a - b))


def start(module, key, *inputs):
    """In place of an initialisation, which takes long to compile."""
    return away_from_zero(abstract(module, *inputs))


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The preset `micro`, what takes long replaced, and the type promotion that optax relies on."""
    with surrounded() as patch:
        for stage in (rm, vae, decoder, prior):
            patch.setattr(stage, "init", start)
        patch.setattr(decoder, "load_features", lambda path: {"scale": np.ones((), np.float32)})
        patch.setattr(decoder, "perceptual_loss", distance)
        yield


def stage_config(stage, folder):
    config = micro_config(stage, folder)
    config.train.warmup = 0
    if stage == "decoder":
        config.discriminator.update(ch=8, layers=1)
    return config


def host(tree):
    """A copy that no device writes to."""
    return jax.tree.map(np.array, tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos and the weights that stages have exported so far."""
    return make_photos(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def trained(folder):
    """Stage -> (objective, its parameters before training, its frozen ones before training, state after 2 steps)."""
    results = {}
    for stage, name in EXPORTS.items():
        objective = make_objective(stage_config(stage, folder))
        before = host(objective.params), host(objective.frozen)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "make_objective", lambda config, built=objective: built)
            state = loop.train(stage_config(stage, folder), folder / stage)
        results[stage] = objective, *before, state
        shutil.copy(folder / stage / "export" / f"{name}.safetensors", folder)
    return results


@pytest.mark.parametrize("stage", EXPORTS)
@pytest.mark.slow
def test_training_changes_what_it_should_and_nothing_else(trained, stage):
    objective, params, frozen, state = trained[stage]
    assert int(state.step) == 2
    for before, after in ((params, objective.params), (frozen, objective.frozen)):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    moved = {k: not np.array_equal(v, flatten(state.params)[k]) for k, v in flatten(params).items()}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    # Control's zero convolutions hide the encoder before them from the first step.
    parts = {key.rsplit("/", 2)[0] for key in moved if key.endswith("kernel")}
    still = {part for part in parts if not any(v for k, v in moved.items() if k.startswith(part))}
    assert not still


@pytest.mark.parametrize("stage", EXPORTS)
@pytest.mark.slow
def test_exports_load_back(trained, folder, stage):
    name, state = EXPORTS[stage], trained[stage][3]
    weights = load_weights(folder / stage / "export" / f"{name}.safetensors", SHAPES[name])
    ema = flatten(state.ema["vae"] if stage == "decoder" else state.ema)
    for key, value in ema.items():
        np.testing.assert_array_equal(flatten(weights)[key], value)
    assert stage == "decoder" or ema.keys() == flatten(weights).keys()


@pytest.mark.slow
def test_a_trained_control_goes_to_pytorch_under_any_name(trained, folder, tmp_path):
    shutil.copy(folder / "control" / "export" / "control.safetensors", tmp_path / "mine.safetensors")
    export_files(tmp_path / "mine.safetensors", tmp_path / "back", "safetensors")
    state = load_file(tmp_path / "back" / "mine.safetensors")
    both = MICRO.unet.in_channels + MICRO.vae.embed_dim
    assert state["input_blocks.0.0.weight"].shape == (MICRO.unet.model_channels, both, 3, 3)


@pytest.mark.slow
def test_the_decoder_stage_keeps_the_encoder(trained, folder):
    """Latents must not change their meaning under a prior that knows them."""
    first, second = (
        load_weights(folder / stage / "export" / "vae.safetensors", SHAPES["vae"])
        for stage in ("vae", "decoder")
    )
    for part in first:
        pairs = zip(jax.tree.leaves(first[part]), jax.tree.leaves(second[part]))
        assert all(np.array_equal(a, b) for a, b in pairs) == (part in ENCODER), part
    assert trained["decoder"][3].params.keys() == {"vae", "discriminator"}


@pytest.mark.parametrize("stage", EXPORTS)
@pytest.mark.slow
def test_losses_hold_under_strict_types(trained, stage):
    """Optax's own arithmetic is not strict, so the other tests cannot be."""
    objective, params, frozen, _ = trained[stage]
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in objective.batches(0).items()}
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = jax.eval_shape(objective.loss, params, frozen, batch, jax.random.key(0))
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


@pytest.mark.parametrize("stage", EXPORTS)
@pytest.mark.slow
def test_validation_is_finite_and_has_a_picture(trained, stage):
    objective, _, frozen, state = trained[stage]
    values, picture = objective.validate(state.ema, frozen)
    assert values and all(np.isfinite(v) for v in values.values())
    assert (picture.ndim, picture.shape[-1], picture.dtype) == (3, 3, np.uint8)
    assert picture.std() > 0


@pytest.mark.slow
def test_latents_are_those_of_the_autoencoder(trained, folder):
    """A pool holds float16 means of clean crops and, for stage 2, of stage-1 images; batches are float32."""
    for stage, keys in (("prior", {"z0"}), ("control", {"z0", "condition"})):
        train, held_out = latent_batches(stage_config(stage, folder))
        assert train.pool.keys() == held_out.pool.keys() == keys
        assert {(v.shape, v.dtype.name) for v in train.pool.values()} == {((3 * BATCH, 4, 4, 4), "float16")}
        batch = train(5)
        assert {(v.shape, v.dtype.name) for v in batch.values()} == {((BATCH, 4, 4, 4), "float32")}
        for key, value in batch.items():
            np.testing.assert_array_equal(value, train(5)[key])
            assert (value != train(6)[key]).any()
        # Rows stay paired, and no crop is twice in a batch.
        rows = [
            [int(np.flatnonzero((train.pool[k] == row).all((1, 2, 3)))[0]) for row in batch[k]] for k in batch
        ]
        assert all(row == rows[0] for row in rows) and len(set(rows[0])) == BATCH


@pytest.mark.slow
def test_cached_latents_are_used_and_stale_ones_refused(trained, folder, tmp_path, monkeypatch):
    config = stage_config("control", folder)
    before = latent_batches(config)[0].pool["condition"]

    def fail(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(pool, "_encode_all", fail)
    config.data.batch_size = 2  # the pool is the same
    np.testing.assert_array_equal(latent_batches(config)[0].pool["condition"], before)
    weights = load_weights(folder / "vae.safetensors", SHAPES["vae"])
    config.weights.vae = str(save_weights(tmp_path / "same.safetensors", weights, {}))
    latent_batches(config)
    other = jax.tree.map(lambda x: x * np.float32(1.001), weights)
    config.weights.vae = str(save_weights(tmp_path / "other.safetensors", other, {}))
    with pytest.raises(
        ValueError, match=r"latents_control\.npz was made for \(.*\), this run needs .*: delete it or"
    ):
        latent_batches(config)


@pytest.mark.slow
def test_a_pool_smaller_than_a_batch_is_refused(folder):
    config = stage_config("prior", folder)
    config.data.pool = BATCH - 1
    with pytest.raises(ValueError, match=f"pool is {BATCH - 1}, must be at least the batch size {BATCH}"):
        latent_batches(config)


@pytest.mark.slow
def test_an_interrupted_encoding_leaves_no_cache(folder, tmp_path, monkeypatch):
    def die(file, **arrays):
        file.write(b"half of it")
        raise KeyboardInterrupt

    config = stage_config("prior", folder)
    config.data.cache = str(tmp_path / "new" / "latents.npz")
    monkeypatch.setattr(pool.np, "savez", die)
    monkeypatch.setattr(pool, "_encode_all", lambda *_: {})
    with pytest.raises(KeyboardInterrupt):
        latent_batches(config)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
def test_weights_of_an_earlier_stage_must_be_there(folder):
    config = stage_config("control", folder)
    config.weights.unet = "work/absent/unet.safetensors"
    with pytest.raises(
        FileNotFoundError, match="no weights at work/absent/unet.safetensors: train them first"
    ):
        make_objective(config)


def test_unknown_stage():
    config = micro_config("rm")
    config.objective = "stage3"
    with pytest.raises(
        ValueError, match="objective is 'stage3', allowed are rm, vae, decoder, prior, control, regeneration"
    ):
        make_objective(config)


def test_timesteps_follow_their_focus():
    """7/10 below half of T and 3/10 anywhere: 0.7 + 0.3 / 2 below half."""
    t = np.asarray(draw_timesteps(jax.random.key(0), 20000, 1000, (0.7, 0.5)))
    assert (t.dtype, t.min(), t.max()) == (np.int32, 0, 999)
    assert abs((t < 500).mean() - 0.85) < 0.01
    assert abs((t[t < 500] < 250).mean() - 0.5) < 0.015


def test_a_clean_input_does_not_make_the_mean_psnr_infinite() -> None:
    """It counts as a photo that was rounded to bytes: 10 log10(12 255^2) = 58.9 dB."""
    image = np.full((2, 4, 4, 3), 0.5)
    other = image + np.array([0.0, 0.1])[:, None, None, None]
    assert rm.mean_psnr(other, image) == pytest.approx((58.92 + 20.0) / 2, abs=0.01)
