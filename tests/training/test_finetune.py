"""Fine-tuning on the smallest networks: what is trained, what is exported, and that a kill changes nothing."""

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as configs_finetune
from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion.adapted import lora_state
from diffbir_jax.conversion.lora import places
from diffbir_jax.models.lora import DEFAULT_ALPHA, adapted_layers, merge
from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.restoration.loras import merged
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sharding import make_mesh, put_batch, replicated
from diffbir_jax.training import finetune_one_step, loop, one_step
from diffbir_jax.training.few import adapt
from diffbir_jax.training.finetune import TUNED
from diffbir_jax.training.loop import place, train
from diffbir_jax.training.lora_start import new_lora
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import flatten, load_tree, save_weights
from tests.models.reference import away_from_zero
from tests.training.micro import BATCH, MICRO, SMALL, make_photos, surrounded

RANK = 2
GOLDEN = Path(__file__).parents[1] / "golden" / "one_step"


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The preset `micro`, and the promotion that optax relies on."""
    with surrounded():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photos and the weights of all networks."""
    folder = make_photos(tmp_path_factory.mktemp("finetune"), count=4)
    for name, like in abstract_params(MICRO).items():
        save_weights(folder / f"{name}.safetensors", away_from_zero(like), MICRO.header(name))
    return folder


def config(folder: Path, cache: str = "crops.npz", rank: int = RANK, **changes) -> Any:
    config = configs_finetune.get_config("tiny")
    config.preset, config.weights.folder, config.lora.rank = "micro", str(folder), rank
    config.data.source.path = f"{folder}/photos"
    config.data.crop.update(size=16, scale=(0.5, 1.0))
    config.data.update(batch_size=BATCH, validation_size=BATCH, pool=3 * BATCH, cache=str(folder / cache))
    config.train.update(SMALL | {"warmup": 0, "lr": 0.05} | changes)
    config.sampling.images = 0
    return config


@pytest.fixture(scope="module")
def objective(folder) -> Objective:
    return make_objective(config(folder))


@pytest.fixture(scope="module")
def program(folder, objective) -> Any:
    """The jitted step, which all tests share: tracing it takes seconds."""
    return place(objective, make_mesh(), config(folder))[1]


@pytest.fixture(scope="module")
def stepped(folder, objective, program) -> Any:
    """The state after two steps, and the frozen parameters."""
    mesh, step = make_mesh(), program
    state, _ = place(objective, mesh, config(folder))
    frozen = jax.device_put(objective.frozen, replicated(mesh))
    for i in range(2):
        state, metrics = step(state, frozen, put_batch(objective.batches(i), mesh))
    assert np.isfinite(metrics["loss"])
    return state, frozen


@pytest.mark.slow
def test_only_the_factors_are_trained(objective, stepped) -> None:
    """All of them: A moves from the second step on, as B is zero before."""
    state, frozen = stepped
    assert objective.params.keys() == {"lora"} and objective.params["lora"].keys() == {*TUNED}
    assert frozen.keys() == {*TUNED}, "with encoded crops a step needs no other network"
    jax.tree.map(np.testing.assert_array_equal, objective.frozen, frozen)
    before, after = flatten(objective.params), flatten(state.params)
    still = [name for name, value in before.items() if np.array_equal(value, after[name])]
    assert not still
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_a_new_lora_changes_nothing_and_a_trained_one_equals_its_merge(objective, stepped) -> None:
    state, frozen = stepped
    lora, batch, key = state.params["lora"], objective.batches(7), jax.random.key(1)
    loss = jax.jit(lambda params, frozen: objective.loss(params, frozen, batch, key)[0])
    whole = {name: merge(frozen[name], lora[name], DEFAULT_ALPHA / RANK) for name in TUNED}
    base, beside, within = (
        float(loss(params, weights))
        for params, weights in (({}, frozen), ({"lora": lora}, frozen), ({}, frozen | whole))
    )
    assert float(loss(objective.params, frozen)) == pytest.approx(base, rel=1e-6)
    assert beside == pytest.approx(within, rel=1e-5)
    assert abs(beside - base) > 1e-4 * base


@pytest.mark.slow
def test_the_export_is_a_file_that_restoring_takes(objective, stepped, folder, tmp_path) -> None:
    """Merged as in training; and the same by PEFT's names, which say no alpha."""
    state, frozen = stepped
    ((name, tree),) = objective.export(state.params).items()
    file = save_weights(tmp_path / f"{name}.safetensors", tree, objective.metadata)
    base = {name: load_tree(folder / f"{name}.safetensors") for name in MICRO.modules}
    wanted = {name: merge(base[name], state.params["lora"][name], DEFAULT_ALPHA / RANK) for name in TUNED}
    peft = save_weights(tmp_path / "peft.safetensors", lora_state(file), {})
    for path in (file, peft):
        found = merged(base, MICRO, [Lora(path)])
        for network in TUNED:
            for key, value in flatten(wanted[network]).items():
                np.testing.assert_allclose(flatten(found[network])[key], value, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_remat_changes_no_gradient(folder, objective) -> None:
    """Layers keep their paths within recomputed blocks, by which they find their factors."""
    again = config(folder)
    again.remat = True
    batch, key = objective.batches(0), jax.random.key(2)
    params = jax.tree.map(lambda x: x + 0.1, objective.params)
    gradients = [
        jax.jit(jax.grad(lambda p, f, made=made: made.loss(p, f, batch, key)[0]))(params, made.frozen)
        for made in (objective, make_objective(again))
    ]
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


class Killed(BaseException):
    """In place of a signal that nothing can catch."""


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_bit_identical(folder, objective, program, tmp_path, monkeypatch) -> None:
    """The exported files have the same bytes; the kill comes after a checkpoint and between two."""
    run = {"steps": 6, "checkpoint_every": 2, "eval_every": 6}
    # One program for all runs; each begins with the objective's start or with its checkpoint.
    monkeypatch.setattr(loop, "make_objective", lambda _: objective)
    monkeypatch.setattr(loop, "place", lambda *given: (place(*given)[0], program))
    monkeypatch.setattr(loop, "compile_step", lambda step, *_: (step, 0.0))
    train(config(folder, **run), tmp_path / "whole")
    done: list[int] = []

    def advance(report: Any) -> None:
        done.append(1)
        if len(done) == 5:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Report, "advance", advance)
        train(config(folder, **run), tmp_path / "killed")
    assert not (tmp_path / "killed" / "export").exists()
    state = train(config(folder, **run), tmp_path / "killed")
    assert int(state.step) == 6
    files = [tmp_path / name / "export" / "lora.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert any(np.any(layer["b"]) for layer in adapted_layers(load_tree(files[0])["unet"]).values())


def test_all_weights_of_both_networks_make_a_whole_folder(folder, tmp_path) -> None:
    objective = make_objective(config(folder, rank=0))
    assert objective.params.keys() == {*TUNED} and not objective.frozen.keys() & {*TUNED}
    for name, params in objective.export(objective.params).items():
        save_weights(tmp_path / f"{name}.safetensors", params, objective.metadata | MICRO.header(name))
    assert Restorer.load(MICRO, tmp_path).params.keys() == {*MICRO.modules}


def test_a_rank_is_at_least_1(folder) -> None:
    with pytest.raises(UserError, match="config.lora.rank is -1, must be at least 1"):
        make_objective(config(folder, rank=-1))


@pytest.mark.slow
def test_validation_restores_with_the_merged_networks(folder) -> None:
    """The metrics of a LoRA are those of the merged networks, restored."""
    settings = config(folder)
    settings.sampling.update(images=2, steps=2, guidance_scale=0.0)
    objective = make_objective(settings)
    values, picture = objective.validate(objective.params, objective.frozen)
    assert {"loss", "psnr", "ssim", "psnr_stage1"} <= values.keys() and picture.shape[2] == 3
    moved = jax.tree.map(lambda x: x + 0.5, objective.params)
    assert objective.validate(moved, objective.frozen)[0]["psnr"] != values["psnr"]


def test_the_layers_are_those_of_a_published_lora() -> None:
    """HYPIR's, of Stable Diffusion's UNet."""
    unet = abstract_params(get_preset("v2.1"), ["unet"])["unet"]
    small = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1,) * len(x.shape), jnp.float32), unet)
    found = adapted_layers(new_lora(small, 1, 0)).keys()
    table = places("unet", get_preset("v2.1").unet)
    with gzip.open(GOLDEN / "hypir_sd2.json.gz") as file:
        keys = [key for key in json.dumps(json.load(file)).split('"') if ".lora_A." in key]
    published = {table[key.split(".lora_A.")[0]].path for key in keys}
    assert len(published) == 257 and found == published


@pytest.mark.parametrize("version", configs_finetune.VERSIONS)
def test_every_version_has_its_configuration(version: str) -> None:
    made = configs_finetune.get_config(version)
    preset = get_preset(version)
    assert made.preset == version and made.data.crop.size % preset.multiple == 0
    if version == "one-step":
        assert made.objective == "finetune_one_step" and made.loss.lpips > 0
        return
    assert made.diffusion.noise_aug == (200 if version == "v2.1" else 0)
    assert made.data.degradation.kind == ("second_order" if version == "v2.1" else "first_order")
    assert (made.weights.rm == "swinir_general") == (version == "v2")


@pytest.mark.parametrize(
    "photos, steps, wanted",
    [
        (1, None, (200, 40, 40, 128)),
        (3, None, (400, 80, 80, 384)),
        (8, None, (500, 100, 100, 1024)),
        (8, 1500, (1500, 300, 100, 1024)),
        (100, 20, (20, 4, 4, 160)),
        (1, 1, (1, 1, 1, 128)),
    ],
)
def test_settings_fit_the_number_of_photos(photos: int, steps: int | None, wanted: tuple[int, ...]) -> None:
    made = configs_finetune.get_config()
    adapt(made, photos, steps)
    train = made.train
    found = (train.steps, train.eval_every, train.checkpoint_every, min(made.data.pool, 1024))
    assert found == (*wanted[:3], max(8, min(wanted[3], train.steps * 8)))
    assert bool(made.data.validation) == (photos == 1)
    assert train.warmup < train.steps


def test_a_version_without_a_control_is_refused(folder) -> None:
    settings = config(folder)
    settings.preset = "hypir"
    with pytest.raises(UserError, match="version hypir has no IRControlNet; fine-tune v1, v2, v2.1 or tiny"):
        make_objective(settings)


@pytest.mark.slow
def test_one_step_trains_its_factors_by_losses_on_images(folder, monkeypatch) -> None:
    """LPIPS has tests of its own. What is exported has the form of the other LoRAs."""
    made = configs_finetune.get_config("one-step")
    made.preset, made.weights.folder, made.lora.rank = "micro", str(folder), RANK
    made.data.source.path = f"{folder}/photos"
    made.data.crop.update(size=32, scale=(0.5, 1.0))
    made.data.update(batch_size=BATCH, validation_size=BATCH)
    monkeypatch.setattr(finetune_one_step, "load_lpips", lambda *_, **__: {})
    monkeypatch.setattr(one_step, "lpips_loss", lambda _, a, b, **__: jnp.mean(jnp.abs(a - b)))
    objective = make_objective(made)
    params = jax.tree.map(lambda x: x + 0.05, objective.params)
    loss = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (value, terms), gradient = loss(params, objective.frozen, objective.batches(0), jax.random.key(0))
    assert np.isfinite(value) and {"l1", "lpips", "grid"} <= terms.keys()
    assert gradient.keys() == {"lora"} and all(np.any(x) for x in jax.tree.leaves(gradient))
    assert flatten(objective.export(params)["lora"]).keys() > flatten(params["lora"]).keys()


@pytest.mark.parametrize(
    "change, told",
    [
        (("weights", "lpips", None), "one-step is fine-tuned by LPIPS, give its weights"),
        (("loss", "grid", None), None),
        (("lora", "rank", 0), "config.lora.rank is 0, must be at least 1"),
    ],
)
def test_one_step_names_settings_that_it_cannot_use(change: tuple[str, str, Any], told: str | None) -> None:
    made, (section, name, value) = configs_finetune.get_config("one-step"), change
    if told is None:
        made.loss = {"l1": 1.0, "adversarial": 1.0}
        told = "config.loss.adversarial is 1.0, must be 0"
    else:
        made[section][name] = value
    with pytest.raises(UserError, match=told):
        make_objective(made)
