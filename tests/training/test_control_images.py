"""Stage 2 from images on the smallest networks: what is computed, what is trained, and what the switches do."""

import dataclasses
import functools
import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.data.batches import Batches
from diffbir_jax.diffusion.schedule import make_schedule, q_sample, training_target
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.restoration.generator import apply_jit
from diffbir_jax.sharding import make_mesh, put_batch, replicated
from diffbir_jax.text.tokenizer import tokenize
from diffbir_jax.training import regeneration
from diffbir_jax.training.control_images import (
    Stage2Options,
    abstract_frozen,
    abstract_trainable,
    draw_augmentation,
    make_loss,
    make_stage2,
)
from diffbir_jax.training.loop import place, train
from diffbir_jax.training.objective import make_objective
from diffbir_jax.training.prior import diffusion_loss, min_snr_weight
from diffbir_jax.training.sources import Tokenized
from diffbir_jax.training.writers import read_lines
from diffbir_jax.weights.loading import abstract_params, stored
from diffbir_jax.weights.safetensors import flatten, load_weights, read_metadata
from tests.micro import random_params
from tests.training.micro import BATCH, MICRO, make_photos, make_weights, micro, surrounded

TEXT = dataclasses.replace(
    MICRO,
    text=CLIPTextConfig(width=8, heads=2, layers=2),
    unet=dataclasses.replace(MICRO.unet, context_dim=8),
)
KEY = jax.random.key(3)


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The preset `micro`, with initial weights that need no compiling, and the promotion that optax relies on."""
    with surrounded(stage=regeneration):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos and the preset's weights."""
    return make_weights(make_photos(tmp_path_factory.mktemp("stage2")))


@functools.cache
def weights(preset):
    params = random_params(preset)
    return {"control": params.pop("control")}, params


def pair(size=16, count=2):
    rng = np.random.default_rng(1)
    return {name: rng.integers(0, 256, (count, size, size, 3), np.uint8) for name in ("hq", "lq")}


def arguments(preset, options, prompt=None):
    """Trained and frozen parameters, a batch and a key."""
    trained, frozen = weights(preset)
    batch = pair() | ({} if prompt is None else {"tokens": tokenize([prompt] * 2)})
    return trained, stored(frozen, options.dtype), batch, KEY


@functools.cache
def value(preset, options, prompt=None):
    """The loss of a batch."""
    return float(jax.jit(make_loss(preset, options))(*arguments(preset, options, prompt))[0])


def gradient(options):
    """Of a batch that was encoded before, which leaves the networks that are trained through."""
    (trained, frozen), rng = weights(MICRO), np.random.default_rng(4)
    batch = {name: rng.standard_normal((2, 4, 4, 4), np.float32) for name in ("z0", "clean")}
    return jax.jit(jax.grad(make_loss(MICRO, options), has_aux=True))(trained, frozen, batch, KEY)[0]


@pytest.mark.parametrize(
    ("condition", "steps"), [("vae", 2), pytest.param("conv", 3, marks=pytest.mark.slow)]
)
def test_a_step_trains_what_it_should_and_leaves_the_frozen_bit_identical(folder, condition, steps):
    """The zero convolutions hide the encoder in step 1, its zero weights for the hint a trained encoder in step 2."""
    config = micro(folder)
    config.model.control.condition = condition
    config.train.weight_decay = 0.0  # which would move anything
    objective, mesh = make_objective(config), make_mesh()
    before = jax.tree.map(np.array, (objective.params, objective.frozen))
    state, step = place(objective, mesh, config)
    frozen = jax.device_put(objective.frozen, replicated(mesh))
    for i in range(steps):
        state, metrics = step(state, frozen, put_batch(objective.batches(i), mesh))
    assert np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before[1], frozen)
    after = flatten(state.params)
    still = [name for name, value in flatten(before[0]).items() if np.array_equal(value, after[name])]
    assert not still
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    exported = {"vae": {"control"}, "conv": {"control", "condition"}}
    assert set(objective.export(state.ema)) == exported[condition]
    assert objective.metadata == {"condition": condition}


def test_the_loop_accumulates_as_the_configuration_says(folder, tmp_path):
    config = micro(folder)
    config.train.accumulate = 3
    with pytest.raises(ValueError, match="accumulate is 3, must divide the batch of 4"):
        train(config, tmp_path)


@pytest.mark.parametrize("name", ("bfr", "bid"))
def test_the_tiny_variants_are_complete(folder, name):
    objective = make_objective(micro(folder, name))
    assert objective.frozen.keys() == {"rm", "vae", "unet"}
    assert objective.batches(0).keys() == {"hq", "lq"}


@pytest.mark.slow
def test_a_tiny_variant_trains_by_the_loop(folder, tmp_path):
    """It restores images at each validation, by which the best state can be kept."""
    config = micro(folder)
    config.train.update(eval_every=1, keep_best="psnr:max", lr=0.1)
    config.sampling.images = 2
    state = train(config, tmp_path)
    assert int(state.step) == 2
    exported = load_weights(tmp_path / "export" / "control.safetensors", state.ema["control"])
    assert flatten(exported).keys() == flatten(state.params["control"]).keys()
    assert read_metadata(tmp_path / "export_best" / "control.safetensors")["condition"] == "vae"
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "validation/loss" in line]
    names = ("psnr", "ssim", "psnr_stage1", "ssim_stage1")
    (first, *_), (second, *_) = found = [[line[f"validation/{name}"] for name in names] for line in lines]
    assert np.all(np.isfinite(found)) and first != second
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["1" if first > second else "2"]


@pytest.mark.parametrize(
    ("name", "preset", "batch", "expected"),
    [
        ("bid", "v1", 192, {"lr": 1e-4, "steps": 25_000, "lr_steps": ()}),
        ("bfr", "v2", 256, {"lr": 1e-4, "steps": 80_000, "lr_steps": ((30_000, 1e-5),)}),
        ("bsr", "v2.1", 512, {"lr": 1e-5, "lr_steps": ()}),
    ],
)
def test_full_size_configurations_have_the_papers_settings(name, preset, batch, expected):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert (config.objective, config.preset, config.data.batch_size) == ("regeneration", preset, batch)
    assert {key: config.train[key] for key in expected} == expected
    assert (config.train.warmup, config.train.final_lr) == (0, 1.0)
    assert config.diffusion.noise_aug == (200 if name == "bsr" else 0)
    assert (config.data.captions is not None) == (name == "bsr")


def test_the_shipped_weights_are_the_default(monkeypatch, folder):
    monkeypatch.setattr("diffbir_jax.weights.loading.PRETRAINED", folder.parent)
    monkeypatch.setitem(PRESETS, "micro", dataclasses.replace(MICRO, name=folder.name))
    config = micro(folder)
    config.weights.folder = None
    loaded = make_objective(config).frozen
    assert loaded.keys() == {"rm", "vae", "unet"}
    np.testing.assert_array_equal(
        flatten(loaded["unet"])["conv_out/kernel"],
        flatten(load_weights(folder / "unet.safetensors", loaded["unet"]))["conv_out/kernel"],
    )


def test_a_control_starts_as_a_copy_or_from_scratch(folder):
    config = micro(folder)
    copied = make_objective(config).params["control"]
    unet = load_weights(folder / "unet.safetensors", abstract_params(MICRO, ["unet"])["unet"])
    kernel = copied["encoder"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :, :4], unet["encoder"]["conv_in"]["kernel"])
    assert not np.any(kernel[:, :, 4:]) and not np.any(copied["zero_conv_0"]["kernel"])
    config.model.control.init = "scratch"
    scratch = make_objective(config).params["control"]
    assert np.all(scratch["encoder"]["conv_in"]["kernel"])
    config.model.control.init = "unett"
    with pytest.raises(ValueError, match="control.init is 'unett', allowed are unet, scratch"):
        make_objective(config)


@pytest.mark.slow
def test_without_stage_1_the_condition_encodes_the_input_itself(folder):
    """And with it, the clipped output of the restoration module; z0 is the scaled mean of the posterior."""
    _, frozen = weights(MICRO)
    batch, vae = pair(), MICRO.make_vae()
    signed = {name: 2.0 * jnp.asarray(x, jnp.float32) / 255.0 - 1.0 for name, x in batch.items()}
    rm = apply_jit(MICRO.make_rm(), frozen["rm"], (signed["lq"] + 1.0) / 2.0)
    signed["rm"] = 2.0 * jnp.clip(rm, 0.0, 1.0) - 1.0
    latents = {
        name: MICRO.vae.scale_factor * apply_jit(vae, frozen["vae"], x, method="encode")[0]
        for name, x in signed.items()
    }
    for preset, clean in ((MICRO, "rm"), (dataclasses.replace(MICRO, rm=None), "lq")):
        encoded = jax.jit(make_stage2(preset, Stage2Options()).encode)(frozen, batch)
        for given, expected in (("z0", "hq"), ("clean", clean)):
            np.testing.assert_allclose(encoded[given], latents[expected], rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(latents["rm"] - latents["lq"]).max()) > 1e-2
    encoded = jax.jit(make_stage2(MICRO, Stage2Options(condition="conv")).encode)(frozen, batch)
    np.testing.assert_allclose(encoded["clean"], signed["rm"], atol=1e-5)
    config = micro(folder)
    config.model.stage1 = False
    assert make_objective(config).frozen.keys() == {"vae", "unet"}


@pytest.mark.slow
def test_prompts_are_read_in_the_step_and_are_empty_without_captions():
    assert "text" in abstract_frozen(TEXT, Stage2Options())
    without, empty, words = (
        value(TEXT, Stage2Options(), prompt) for prompt in (None, "", "a photo of a bridge")
    )
    np.testing.assert_allclose(without, empty, rtol=1e-6)
    assert abs(words / empty - 1) > 1e-5


@pytest.mark.slow
def test_bfloat16_computes_in_half_and_trains_in_full_precision():
    options = Stage2Options(precision="bf16")
    frozen = flatten(abstract_frozen(MICRO, options))
    halves = {name.rsplit("/", 1)[1] for name, x in frozen.items() if x.dtype == jnp.bfloat16}
    assert halves == {"kernel"}
    assert {x.dtype for x in jax.tree.leaves(abstract_trainable(MICRO, options))} == {np.dtype(np.float32)}
    slope, _ = jax.eval_shape(jax.grad(make_loss(MICRO, options), has_aux=True), *arguments(MICRO, options))
    assert {x.dtype for x in jax.tree.leaves(slope)} == {np.dtype(np.float32)}
    half, full = value(MICRO, options), value(MICRO, Stage2Options())
    assert half != full
    np.testing.assert_allclose(half, full, rtol=0.02)


@pytest.mark.slow
def test_rematerialisation_changes_memory_alone():
    recomputed, expected = (gradient(Stage2Options(remat=remat)) for remat in (True, False))
    for a, b in zip(jax.tree.leaves(recomputed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("condition", ["vae", "conv"])
def test_losses_are_built_without_weights_and_hold_under_strict_types(condition):
    options = Stage2Options(condition, noise_aug=200, min_snr=5.0, precision="bf16", remat=True)
    batch = {name: jax.ShapeDtypeStruct((2, 16, 16, 3), np.uint8) for name in ("hq", "lq")}
    batch["tokens"] = jax.ShapeDtypeStruct((2, 77), np.int32)
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = jax.eval_shape(
            make_loss(TEXT, options),
            abstract_trainable(TEXT, options),
            abstract_frozen(TEXT, options),
            batch,
            KEY,
        )
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


def test_min_snr_weights_are_those_of_the_paper():
    """min(SNR, gamma) / SNR for eps, / (SNR + 1) for v; where SNR is 0, v = -x0 keeps none of it."""
    t = jnp.arange(1000)
    for parameterization, zero_snr in (("eps", False), ("v", False), ("v", True)):
        schedule = make_schedule(zero_terminal_snr=zero_snr, parameterization=parameterization)
        snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
        expected = np.minimum(snr, 5.0) / (snr + (parameterization == "v"))
        np.testing.assert_allclose(min_snr_weight(schedule, t, 5.0), expected, rtol=1e-4, atol=1e-7)


def test_the_weighted_loss_of_a_denoiser_that_says_zero():
    """Weights fall on each image by its own timestep, drawn uniformly."""
    schedule = make_schedule(parameterization="v", zero_terminal_snr=True)
    z0 = jnp.asarray(np.random.default_rng(2).standard_normal((64, 2, 2, 3), np.float32))
    seen = []

    def denoise(params, frozen, batch, z_t, t):
        seen.append((z_t, t))
        return jnp.zeros_like(z_t)

    weighted, _ = diffusion_loss(schedule, denoise, min_snr=5.0)({}, {}, {"z0": z0}, KEY)
    z_t, t = seen[0]
    signal, noise = (
        np.sqrt(x)[t][:, None, None, None] for x in (schedule.alphas_cumprod, 1 - schedule.alphas_cumprod)
    )
    eps = (z_t - signal * z0) / noise
    snr = (signal / noise) ** 2
    expected = np.mean(np.minimum(snr, 5.0) / (snr + 1) * (signal * eps - noise * z0) ** 2)
    np.testing.assert_allclose(weighted, expected, rtol=1e-4)
    assert 0 <= int(t.min()) < 100 and 900 <= int(t.max()) < 1000
    with pytest.raises(ValueError, match="min_snr is 0, must be above 0"):
        diffusion_loss(schedule, denoise, min_snr=0)


@pytest.mark.slow
def test_the_condition_is_noised_in_training():
    options = Stage2Options(noise_aug=200)
    drawn = draw_augmentation(KEY, (4000, 1, 1, 2), 200)
    assert (drawn["aug_t"].dtype, int(drawn["aug_t"].min()), int(drawn["aug_t"].max())) == (jnp.int32, 0, 199)
    assert abs(float(drawn["aug_t"].mean()) - 99.5) < 3
    assert abs(float(drawn["aug_noise"].std()) - 1) < 0.02
    # The loss is that of the noised condition.
    trained, frozen = weights(MICRO)
    stage2 = make_stage2(MICRO, options)
    draw, key = jax.random.split(KEY)
    encoded = jax.jit(stage2.encode)(frozen, pair())
    noised = draw_augmentation(draw, encoded["z0"].shape, 200)
    hint = q_sample(stage2.schedule, encoded["clean"], noised["aug_t"], noised["aug_noise"])
    loss = jax.jit(diffusion_loss(stage2.schedule, stage2.denoise))
    expected, _ = loss(trained, frozen, encoded | {"clean": hint}, key)
    np.testing.assert_allclose(value(MICRO, options), expected, rtol=1e-5)
    clean, _ = loss(trained, frozen, encoded, key)
    assert abs(float(clean / expected) - 1) > 1e-4


def test_validation_is_the_loss_of_clean_conditions_at_fixed_times(folder):
    objective = make_objective(micro(folder))
    values, picture = objective.validate(objective.params, objective.frozen)
    times = [value for name, value in values.items() if name.startswith("loss_")]
    assert len(times) == 4
    np.testing.assert_allclose(values["loss"], np.mean(times), rtol=1e-6)
    assert values == objective.validate(objective.params, objective.frozen)[0]
    assert picture.std() > 0
    # A control that starts as a copy adds nothing: the loss is the UNet's own.
    stage2, batch = make_stage2(MICRO, Stage2Options()), regeneration.training_batches(micro(folder))[1](0)
    z0 = jax.jit(stage2.encode)(objective.frozen, batch)["z0"]
    noise, t = jax.random.normal(jax.random.key(0), z0.shape), jnp.full(BATCH, 400)
    output = apply_jit(
        MICRO.make_unet(), objective.frozen["unet"], q_sample(stage2.schedule, z0, t, noise), t
    )
    error = jnp.square(output - training_target(stage2.schedule, z0, t, noise))
    np.testing.assert_allclose(values["loss_0.4T"], jnp.mean(error), rtol=1e-4)


class Captioned(Batches):
    """Batches of two captions."""

    def __init__(self, *texts):
        self.broken, self.texts = {}, texts

    def __call__(self, step):
        return {"hq": np.full(2, step), "prompt": np.array(self.texts)}

    @property
    def identity(self):
        return {"texts": len(self.texts)}

    def remember(self, broken):
        self.broken.update(broken)


def test_captions_become_tokens_and_everything_else_stays():
    texts = ("a red bridge", "word " * 100)
    batches = Tokenized(Captioned(*texts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = list(batches.iterate(3, 5))
    assert [int(batch["hq"][0]) for batch in steps] == [3, 4]
    assert steps[0].keys() == batches(3).keys() == {"hq", "tokens"}
    with pytest.warns(UserWarning, match="prompt cut"):
        np.testing.assert_array_equal(steps[0]["tokens"], tokenize(texts))
    batches.remember({7: "cut off"})
    assert (batches.broken, batches.identity) == ({7: "cut off"}, {"texts": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition": "clip"}, "condition is 'clip', allowed are vae, conv"),
        ({"precision": "fp16"}, "precision is 'fp16', allowed are fp32, bf16"),
        ({"noise_aug": -1}, "noise_aug is -1, must be a timestep"),
    ],
)
def test_options_that_are_not_allowed(change, message):
    with pytest.raises(ValueError, match=message):
        Stage2Options(**change)


def test_what_the_networks_cannot_do_is_refused(folder):
    enlarging = dataclasses.replace(MICRO, rm=BSRNetConfig())
    with pytest.raises(ValueError, match="preset micro enlarges by 4; .*give its file as config.weights.rm"):
        make_loss(enlarging, Stage2Options())
    config = micro(folder)
    config.data.captions = {"p_long": 0.2}
    with pytest.raises(ValueError, match="preset micro reads no text: set config.data.captions to None"):
        make_objective(config)
    config = micro(folder)
    config.weights.unet = str(folder / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at .*absent.safetensors"):
        make_objective(config)
