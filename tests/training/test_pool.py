"""Stage 2 on crops that were encoded once: the same loss, one frozen network, and a file that knows what it is of."""

import dataclasses
import importlib
import json
import threading

import jax
import numpy as np
import pytest

from diffbir_jax.console.errors import OtherRunError
from diffbir_jax.data import setup
from diffbir_jax.training import pool
from diffbir_jax.training.distributed import own_rows
from diffbir_jax.training.objective import make_objective
from diffbir_jax.training.pool import LatentBatches
from diffbir_jax.training.position import position_of, resume
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import save_weights
from tests.micro import random_params
from tests.models.reference import away_from_zero
from tests.training.micro import BATCH, SMALL, make_photos, surrounded
from tests.training.test_control_images import TEXT

PRESET = dataclasses.replace(TEXT, name="micro")
KEY = jax.random.key(3)


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The preset `micro` reads text; captions differ from crop to crop; promotion is what optax relies on."""
    with surrounded(PRESET) as patch:
        patch.setattr(setup, "choose", lambda captions, rng, config: f"photo {rng.integers(10**6)}")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos and the preset's weights."""
    folder = make_photos(tmp_path_factory.mktemp("pool"))
    for name, like in abstract_params(PRESET, ["rm", "vae", "unet", "text"]).items():
        save_weights(folder / f"{name}.safetensors", away_from_zero(like), PRESET.header(name))
    return folder


def micro(folder, cache=None, condition="vae", captions=None):
    """The smallest run; its pool is the first training batch of a run that encodes in the step."""
    config = importlib.import_module("configs.bsr").get_config("tiny")
    config.preset = "micro"
    config.weights.folder = str(folder)
    config.model.control.condition = condition
    config.data.source.path = f"{folder}/photos"
    config.data.update(batch_size=BATCH, validation_size=BATCH + 1, held_out_every=6, captions=captions)
    config.data.update(pool=BATCH, cache=cache and str(cache))
    config.data.crop.size = 16
    config.train.update(SMALL | {"warmup": 0})
    config.sampling.images = 0
    return config


@pytest.fixture(scope="module")
def cache(folder):
    """A file that a run without captions made."""
    path = folder / "made" / "pool.npz"
    make_objective(micro(folder, path))
    return path


@pytest.mark.parametrize(("condition", "captions"), [("vae", None), ("conv", {"p_long": 0.5})])
@pytest.mark.slow
def test_the_loss_is_that_of_the_images(folder, tmp_path, condition, captions):
    """Within float16 of what is kept; the noise of the condition and the weights of timesteps are drawn alike."""
    plain, cached = (
        make_objective(micro(folder, path, condition, captions)) for path in (None, tmp_path / "a.npz")
    )
    assert (plain.frozen.keys(), cached.frozen.keys()) == ({"rm", "vae", "unet", "text"}, {"unet"})
    params = plain.params | {"control": random_params(PRESET)["control"]}
    expected, _ = jax.jit(plain.loss)(params, plain.frozen, plain.batches(0), KEY)
    loss, _ = jax.jit(cached.loss)(params, cached.frozen, cached.batches(7), KEY)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    other, _ = jax.jit(cached.loss)(params, cached.frozen, cached.batches(7), jax.random.key(4))
    assert abs(other / expected - 1) > 1e-2  # so that the tolerance means something
    assert {x.dtype.name for x in cached.batches.pool.values()} == {"float16"}
    contexts = cached.batches.pool["context"]
    assert len(np.unique(contexts, axis=0)) == len(contexts) == (BATCH if captions else 1)
    assert cached.batches(7)["context"].shape == (BATCH, 77, 8)
    if condition == "vae":
        images, latents = (x.validate(x.params, x.frozen)[0] for x in (plain, cached))
        assert latents == pytest.approx(images, rel=1e-3)


def test_a_second_run_reads_the_file(folder, cache, monkeypatch):
    monkeypatch.setattr(pool, "_encode_all", None)
    config = micro(folder, cache)
    config.data.update(workers=1, max_broken=0.5)  # crops do not depend on them
    first, second = (make_objective(config).batches(3) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda config: config.update(precision="bf16"), "precision=bf16"),
        (lambda config: config.model.update(stage1=False), "condition=vae"),
        (lambda config: config.data.update(pool=BATCH + 1), "data="),
        (lambda config: config.data.update(captions={"p_long": 0.5}), "data="),
        (lambda config: config.update(seed=1), "seed=1"),
    ],
)
def test_a_pool_of_another_run_is_refused(folder, cache, change, part):
    config = micro(folder, cache)
    change(config)
    with pytest.raises(
        OtherRunError, match=rf"pool\.npz was made for \(.*\), this run needs \(.*{part}.*\): d"
    ) as error:
        make_objective(config)
    assert error.value.place == cache and error.value.differs == "data"
    assert "\n" not in str(error.value)


def test_a_pool_of_another_order_is_refused(folder, cache, monkeypatch):
    """As those are that were made before epochs of few examples were drawn as a whole."""
    monkeypatch.setattr("diffbir_jax.data.loader.FEW", 0)
    with pytest.raises(
        ValueError,
        match=r"was made for \(.*training=\w{16}/\w{16}/by-epoch .*needs \(.*training=\w{16}/\w{16} ",
    ):
        make_objective(micro(folder, cache))


def test_a_pool_of_other_draws_is_refused(folder, cache, monkeypatch):
    """As those are that were made before the same settings drew what they do now."""
    monkeypatch.setattr("diffbir_jax.data.setup.DRAWS", 1)
    with pytest.raises(ValueError, match=r"was made for \(.*training=.*needs \(.*training="):
        make_objective(micro(folder, cache))


def test_a_pool_of_other_photos_or_weights_is_refused(folder, cache, tmp_path):
    """Under the same settings."""
    config = micro(folder, cache)
    like = abstract_params(PRESET, ["text"])["text"]
    other = jax.tree.map(lambda x: 1.5 * x, away_from_zero(like))
    config.weights.text = str(save_weights(tmp_path / "text.safetensors", other, {}))
    with pytest.raises(ValueError, match=r"was made for \(.*text="):
        make_objective(config)
    photo = folder / "photos" / "more.png"
    photo.write_bytes((folder / "photos" / "00.png").read_bytes())
    try:
        with pytest.raises(ValueError, match=r"was made for \(.*training="):
            make_objective(micro(folder, cache))
    finally:
        photo.unlink()


def test_a_run_does_not_go_on_with_another_pool():
    latents = {"z0": np.zeros((8, 2, 2, 4), np.float16)}
    before, after = (LatentBatches(latents, 4, 0, name) for name in ("vae=1", "vae=2"))
    saved = json.loads(json.dumps(position_of(before, 40)))
    resume(LatentBatches(latents, 4, 0, "vae=1"), saved)
    with pytest.raises(ValueError, match="pool was vae=1, is vae=2"):
        resume(after, saved)


def test_processes_take_their_rows_of_one_batch(monkeypatch):
    rows = np.arange(8, dtype=np.float16)[:, None, None, None]
    batch = LatentBatches({"z0": rows, "context": rows[:1]}, 4, 0)(5)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(own_rows(batch, 4))
    assert {len(part[name]) for part in parts for name in batch} == {2}
    np.testing.assert_array_equal(np.concatenate([part["z0"] for part in parts]), batch["z0"])


def test_other_processes_wait_for_the_first_one(folder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_encode_all", None)
    monkeypatch.setattr(pool, "is_first", lambda: False)
    copy, path = tmp_path / "copy.npz", tmp_path / "pool.npz"
    copy.write_bytes(cache.read_bytes())
    timer = threading.Timer(0.2, copy.replace, [path])
    timer.start()
    batches = make_objective(micro(folder, path)).batches
    timer.join()
    assert len(batches.pool["z0"]) == BATCH


def test_a_file_is_written_under_a_name_of_the_process(tmp_path, monkeypatch):
    """Two that write the same pool do not write into each other's file, and the later one takes its place."""
    names = []
    monkeypatch.setattr(pool.np, "savez", lambda file, **_: names.append(file.name) or file.write(b"done"))
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        pool._write(tmp_path / "pool.npz", {})
    assert names[0] != names[1]
    assert [path.name for path in tmp_path.iterdir()] == ["pool.npz"]


def test_what_was_broken_when_the_pool_was_made_is_told_by_every_run(tmp_path, folder):
    photo = folder / "photos" / "04.png"
    content = photo.read_bytes()
    photo.write_bytes(content[:200])
    try:
        config = micro(folder, tmp_path / "pool.npz")
        config.data.update(max_broken=1.0, pool=4 * BATCH)
        first, second = (make_objective(config).batches for _ in range(2))
    finally:
        photo.write_bytes(content)
    assert first.broken == second.broken
    assert [("04.png" in message) for message in second.broken.values()] == [True]
