"""The recipes of HYPIR and OSEDiff on the smallest networks: what is trained, what a kill changes, what is exported."""

import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hypir, osediff
from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion.adapted import lora_state
from diffbir_jax.conversion.features import CONVNEXT, DINO_VIT
from diffbir_jax.conversion.lora import places, to_peft
from diffbir_jax.conversion.published import method_of
from diffbir_jax.models import one_step as methods
from diffbir_jax.models.convnext import ConvNeXtConfig
from diffbir_jax.models.dino import DINOConfig
from diffbir_jax.models.feature_discriminator import FeatureDiscriminator
from diffbir_jax.models.lora import adapted_layers
from diffbir_jax.models.presets import PRESETS, Files, get_preset
from diffbir_jax.parity.lora_steps import RUNS
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.restoration.loras import merged
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sharding import make_mesh
from diffbir_jax.training import critic, loop, one_step_lora
from diffbir_jax.training.lora_start import ENCODER, LAYERS, WITH_FIRST, new_lora, with_alpha
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.training.starting import started
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import flatten, load_tree, save_weights
from tests.models.reference import away_from_zero
from tests.training.micro import MICRO, SMALL, make_photos

GOLDEN = Path(__file__).parents[1] / "golden" / "one_step"
BASE = dataclasses.replace(MICRO, rm=None, parameterization="eps", zero_terminal_snr=False, multiple=8)
PRESET = {
    "hypir": dataclasses.replace(BASE, name="gan", files=Files(unet="unet_gan"), one_step=methods.HYPIR),
    "osediff": dataclasses.replace(
        BASE, name="vsd", files=Files(unet="unet_vsd", vae="vae_vsd"), one_step=methods.OSEDIFF
    ),
}
RECIPES = {"hypir": hypir, "osediff": osediff}
STEPS = 3
JUDGES = {
    "convnext": (CONVNEXT, ConvNeXtConfig((1, 1, 1, 1), (4, 4, 8, 8), 6)),
    "dino": (DINO_VIT, DINOConfig(64, 3, 14, 2, registers=1)),
}


def extract(params: dict, image: jax.Array, dtype: object) -> list[jax.Array]:
    """In place of a network's features: averages of pixels, and of the image."""
    fine, coarse = (image.reshape(len(image), 16 // k, k, 16 // k, k, 3).mean((2, 4)) for k in (2, 4))
    return [fine, coarse, coarse.mean((1, 2))]


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Any:
    """The small presets, losses that compile in no time, and the promotion that optax relies on."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        for preset in PRESET.values():
            patch.setitem(PRESETS, preset.name, preset)
        patch.setitem(critic.FEATURES, "tiny", critic.Features(lambda path: {}, extract))
        patch.setattr(one_step_lora, "load_lpips", lambda *_, **__: {})
        patch.setattr(one_step_lora, "lpips_loss", lambda _, a, b, **__: jnp.mean(jnp.abs(a - b)))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos and the base's weights."""
    folder = make_photos(tmp_path_factory.mktemp("recipes"), count=5)
    for name, like in abstract_params(BASE, ["unet", "vae"]).items():
        save_weights(folder / f"{name}.safetensors", away_from_zero(like), {})
    return folder


def config(folder: Path, name: str) -> Any:
    """The recipe as published, but for the sizes."""
    made = RECIPES[name].get_config()
    made.preset, made.precision, made.remat = PRESET[name].name, "fp32", False
    made.data.source = {"kind": "folder", "path": f"{folder}/photos"}
    made.data.crop = {"kind": "scaled", "size": 16, "scale": (0.5, 1.0)}
    made.data.update(batch_size=8, validation_size=4, held_out_every=4, workers=0)
    made.data.captions = None
    made.lora.update(rank=2, alpha=4.0)
    for network in ("unet", "vae"):
        made.weights[network] = f"{folder}/{network}.safetensors"
    made.train.update(SMALL | {"warmup": 0, "lr": 0.01, "steps": STEPS, "checkpoint_every": 1})
    if "critic" in made:
        made.critic.update(features="tiny", width=4)
    return made


class Killed(BaseException):
    """In place of a signal that nothing can catch."""


@pytest.fixture(scope="module", params=RECIPES)
def run(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(name, objective, what it began with, state after three steps, work folder), and the same killed and resumed."""
    name, work = request.param, tmp_path_factory.mktemp("runs")
    objective = make_objective(config(folder, name))
    before = jax.tree.map(np.array, (objective.params, objective.frozen))
    place = loop.place
    program = place(objective, make_mesh(), config(folder, name))[1]
    done: list[int] = []

    def advance(report: Any) -> None:
        done.append(1)
        if len(done) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        # One program for all runs; each begins with the objective's start or with its checkpoint.
        patch.setattr(loop, "make_objective", lambda _: objective)
        patch.setattr(loop, "place", lambda *given: (place(*given)[0], program))
        patch.setattr(loop, "compile_step", lambda step, *_: (step, 0.0))
        state = loop.train(config(folder, name), work / "whole")
        with patch.context() as mortal, pytest.raises(Killed):
            mortal.setattr(loop.Report, "advance", advance)
            loop.train(config(folder, name), work / "killed")
        loop.train(config(folder, name), work / "killed")
    return name, objective, before, state, work


@pytest.mark.slow
def test_a_killed_and_resumed_run_exports_the_same_bytes(run: Any) -> None:
    name, *_, work = run
    files = sorted(path.name for path in (work / "whole" / "export").iterdir())
    wanted = {"hypir": ["lora", "unet_gan"], "osediff": ["unet_vsd", "vae_vsd"]}[name]
    assert files == [f"{stem}.safetensors" for stem in wanted]
    for file in files:
        one, other = ((work / part / "export" / file).read_bytes() for part in ("whole", "killed"))
        assert one == other, file


@pytest.mark.slow
def test_all_that_is_trained_moves_and_the_frozen_networks_do_not(run: Any) -> None:
    name, objective, (params, frozen), state, _ = run
    wanted = {"hypir": {"lora", "discriminator", "spectral"}, "osediff": {"lora", "conv_in", "regulariser"}}[
        name
    ]
    assert params.keys() == wanted
    jax.tree.map(np.testing.assert_array_equal, frozen, jax.device_get(objective.frozen))
    after = flatten(jax.device_get(state.params))
    still = [key for key, value in flatten(params).items() if np.array_equal(value, after[key])]
    assert not still
    assert all(np.isfinite(x).all() for x in after.values())


@pytest.mark.slow
def test_what_is_exported_restores(run: Any, folder: Path, tmp_path: Path) -> None:
    """As the version's files beside the rest of the base; the factors as `--lora` of the base, and by PEFT's names."""
    name, *_, state, work = run
    preset, export = PRESET[name], work / "whole" / "export"
    base = {network: load_tree(folder / f"{network}.safetensors") for network in ("unet", "vae")}
    for stem in (*preset.files[1:3],):
        source = export if (export / f"{stem}.safetensors").exists() else folder
        (tmp_path / f"{stem}.safetensors").write_bytes((source / f"{stem}.safetensors").read_bytes())
    params = Restorer.load(preset, tmp_path).params
    if name == "osediff":
        first = state.ema["conv_in"]["bias"]
        np.testing.assert_array_equal(params["unet"]["encoder"]["conv_in"]["bias"], first)
        assert not np.array_equal(params["vae"]["quant_conv"]["kernel"], base["vae"]["quant_conv"]["kernel"])
        return
    peft = save_weights(tmp_path / "peft.safetensors", lora_state(export / "lora.safetensors"), {})
    # PEFT's names say no alpha: 8, where 4 is meant.
    for lora in (Lora(export / "lora.safetensors"), Lora(peft, 0.5)):
        found = flatten(merged(base, preset, [lora])["unet"])
        for key, value in flatten(params["unet"]).items():
            np.testing.assert_allclose(found[key], value, atol=1e-6, err_msg=key)


@pytest.mark.slow
def test_a_run_starts_from_exported_factors(run: Any) -> None:
    name, objective, *_, state, work = run
    if name == "osediff":
        with pytest.raises(UserError, match="config.init has nothing to start here"):
            started(objective, work / "whole" / "export" / "unet_vsd.safetensors")
        return
    again = started(objective, work / "whole" / "export" / "lora.safetensors")
    assert again.params["discriminator"] is objective.params["discriminator"]
    jax.tree.map(np.testing.assert_array_equal, again.params["lora"], jax.device_get(state.ema["lora"]))


def judged_by(folder: Path, name: str, steps: int) -> Any:
    """HYPIR's recipe with a small network in the place of `tiny`, as its file."""
    kind, sizes = JUDGES[name]
    path = folder / f"{name}.safetensors"
    save_weights(path, away_from_zero(kind.abstract(sizes)), kind.describe(sizes))
    made = config(folder, "hypir")
    if name == "convnext":  # which leaves no logit of smaller crops
        made.data.crop = {"kind": "scaled", "size": 64, "scale": (0.5, 1.0)}
    made.train.steps = steps
    made.critic.features, made.weights.critic = name, str(path)
    return made


@pytest.mark.parametrize("name", JUDGES)
def test_a_large_network_judges_and_its_gradient_reaches_the_image(folder: Path, name: str) -> None:
    objective = make_objective(judged_by(folder, name, 1))
    features = critic.features_of(name)
    judge = critic.Critic(features.extract, FeatureDiscriminator(4))
    given = (objective.params["discriminator"], objective.params["spectral"], objective.frozen["critic"])
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)), jnp.float32)
    loss, gradient = jax.jit(jax.value_and_grad(judge.fooled, argnums=3))(*given, image)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.slow
def test_a_recipe_with_a_large_network_trains_and_resumes(folder: Path, tmp_path: Path) -> None:
    """Two steps at once, and one and one more: the same bytes."""
    name = "dino"
    before = make_objective(judged_by(folder, name, 2)).params
    state = loop.train(judged_by(folder, name, 2), tmp_path / "whole")
    after = flatten(jax.device_get(state.params))
    assert all(np.isfinite(x).all() for x in after.values())
    # A spectral vector of one number is 1 or -1 for ever.
    trained = {key: x for key, x in flatten(before).items() if not key.startswith("spectral")}
    assert not [key for key, x in trained.items() if np.array_equal(x, after[key])]
    advance = loop.Report.advance

    def killed(report: Any) -> None:
        advance(report)
        raise Killed

    with pytest.MonkeyPatch.context() as mortal, pytest.raises(Killed):
        mortal.setattr(loop.Report, "advance", killed)
        loop.train(judged_by(folder, name, 2), tmp_path / "killed")
    loop.train(judged_by(folder, name, 2), tmp_path / "killed")
    one, other = (
        (tmp_path / part / "export" / "lora.safetensors").read_bytes() for part in ("whole", "killed")
    )
    assert one == other


def test_a_start_changes_nothing(folder: Path) -> None:
    """B is zero in all LoRAs, the first convolution is the base's."""
    for name in RECIPES:
        objective: Objective = make_objective(config(folder, name))
        factors = {**objective.params["lora"], "fake": objective.params.get("regulariser", {})}
        assert not any(np.any(x["b"]) for x in adapted_layers(factors).values())
        assert all(np.any(x["a"]) for x in adapted_layers(factors).values())
        if "conv_in" in objective.params:
            first = load_tree(folder / "unet.safetensors")["encoder"]["conv_in"]
            jax.tree.map(np.testing.assert_array_equal, objective.params["conv_in"], first)


def test_the_recipes_are_those_of_the_goldens() -> None:
    """AdamW as in the goldens' steps, scales of the LoRAs, and terms with their published weights."""
    rates = {run.name: run.rate for run in RUNS}
    for name, rate, scale in (("hypir", rates["hypir_train"], 1.0), ("osediff", rates["vsd_lora"], 2.0)):
        made = RECIPES[name].get_config()
        train = made.train
        assert (train.lr, train.weight_decay, train.betas, train.clip) == (rate, 0.01, (0.9, 0.999), 1.0)
        assert (train.final_lr, train.warmup) == (1.0, 0) and made.lora.alpha / made.lora.rank == scale
        assert made.preset == name and get_preset(name).one_step is not None
    assert hypir.get_config().loss.to_dict() == {"mse": 1.0, "lpips": 5.0, "gan": 0.5}
    assert osediff.get_config().loss.to_dict() == {"mse": 1.0, "lpips": 2.0, "vsd": 1.0, "regulariser": 1.0}


def test_osediff_adapts_the_published_layers() -> None:
    with gzip.open(GOLDEN / "osediff.json.gz") as file:
        keys = [key for key in json.dumps(json.load(file)).split('"') if ".lora_A." in key]
    preset = get_preset("osediff")
    for network, layers, count in (("unet", WITH_FIRST, 258), ("vae", ENCODER, 32)):
        prefix, table = f"state_dict_{network}.", places(network, getattr(preset, network))
        names = [key.removeprefix(prefix).split(".lora_A.")[0] for key in keys if key.startswith(prefix)]
        shapes = abstract_params(preset, [network])[network]
        small = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1,) * len(x.shape), jnp.float32), shapes)
        found = adapted_layers(new_lora(small, 1, 0, layers)).keys()
        assert len(found) == count and found == {table[name].path for name in names}


def test_as_many_numbers_are_trained_as_published() -> None:
    """HYPIR's file; OSEDiff's file, and its 8.5 million with the regulariser."""
    preset = get_preset("osediff")
    networks = abstract_params(preset, ["unet", "vae"])

    def count(layers: str, network: str = "unet") -> int:
        return sum(x.size for x in jax.tree.leaves(new_lora(networks[network], 1, 0, layers)))

    assert 256 * count(LAYERS) == 259_474_432
    first = sum(math.prod(x.shape) for x in jax.tree.leaves(networks["unet"]["encoder"]["conv_in"]))
    assert 4 * (count(WITH_FIRST) + count(ENCODER, "vae")) + first == 4_436_908
    assert 4 * count(WITH_FIRST) == 4_055_712


def test_a_trained_lora_of_hypir_has_the_keys_of_the_published_file() -> None:
    """So it is converted like that file, with alpha equal to the rank."""
    preset = get_preset("hypir")
    shapes = abstract_params(preset, ["unet"])["unet"]
    small = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1,) * len(x.shape), jnp.float32), shapes)
    state = to_peft(with_alpha(new_lora(small, 1, 0), 1.0), "unet", preset.unet, "default")
    with gzip.open(GOLDEN / "hypir_sd2.json.gz") as file:
        assert state.keys() == json.load(file).keys()
    method = method_of(state)
    assert method is not None and (method.version, method.alpha) == ("hypir", None)


def test_prompts_and_the_negative_prompt_have_a_row_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the text encoder: its tokens. The negative prompt is the one that the recipe names."""
    monkeypatch.setattr(one_step_lora, "apply", lambda module, params, tokens: tokens[..., None])
    texts = one_step_lora._texts(osediff.get_config(), get_preset("osediff"))
    captions = jnp.arange(2 * 77).reshape(2, 77)
    lq = jnp.zeros((2, 8, 8, 3))
    context, negative = texts({"text": {}}, {"lq": lq, "tokens": captions})
    assert context is not None and negative is not None
    np.testing.assert_array_equal(context[..., 0], captions)
    assert negative.shape == (2, 77, 1) and (negative[0] == negative[1]).all()
    empty, again = map(np.asarray, texts({"text": {}}, {"lq": lq}))
    assert (empty[0] == empty[1]).all() and (again == negative).all() and not (empty == negative).all()


@pytest.mark.parametrize(
    "name, change, told",
    [
        ("hypir", {"preset": "v2"}, "config.preset is 'v2'; the recipes of one-step restorers train hypir"),
        ("hypir", {"preset": "s3diff"}, "config.preset is 's3diff'"),
        (
            "hypir",
            {"critic.features": "clip"},
            "config.critic.features is 'clip', allowed are vgg, mobilenet",
        ),
        ("hypir", {"lora.rank": 0}, "config.lora has rank 0 and alpha 256.0"),
        ("hypir", {"loss": {"l1": 1.0}}, "config.loss has no term l1; there are mse, lpips, gan"),
        ("hypir", {"loss": {"gan": 1.0}}, "config.loss has neither mse nor lpips"),
        ("osediff", {"loss": {"mse": 1.0, "gan": 1.0}}, "config.loss.gan needs a section config.critic"),
        ("osediff", {"loss.regulariser": 0.0}, "must weigh both vsd and regulariser, or none"),
        ("osediff", {}, "config.weights.vae is missing: give the file"),
    ],
)
def test_settings_that_cannot_be_used_are_named(name: str, change: dict[str, Any], told: str) -> None:
    made = RECIPES[name].get_config()
    made.weights.update(vae="", text="")
    for path, value in change.items():
        *sections, last = path.split(".")
        section = made
        for part in sections:
            section = section[part]
        section[last] = value
    with pytest.raises(UserError, match=told):
        make_objective(made)
