"""Training from a data source, through the loader and the train loop."""

import importlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffbir_jax.data.degradation import make_degradation
from diffbir_jax.data.example import DataError
from diffbir_jax.data.setup import DRAWS, SETTINGS
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.training import rm
from diffbir_jax.training.loop import train
from diffbir_jax.training.sources import training_batches
from tests.models.reference import away_from_zero
from tests.training.micro import BATCH, MICRO, make_photos, micro_config
from tests.training.test_loop import assert_bit_identical, signal_at

CONFIGS = ("rm_swinir", "bsr", "bfr", "bid")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """The preset `micro` with weights that take no time to draw, and the type promotion that optax relies on."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    monkeypatch.setattr(rm, "init", lambda module, key, lq: away_from_zero(abstract(module, lq)))
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def folder(tmp_path):
    """13 photos, one of them cut off."""
    broken = make_photos(tmp_path) / "photos" / "04.png"
    broken.write_bytes(broken.read_bytes()[:-50])
    return tmp_path


def config(folder, **data):
    config = micro_config("rm", folder)
    config.train.update(steps=12, checkpoint_every=4, eval_every=12)
    config.data = ConfigDict(
        {
            "source": {"kind": "folder", "path": f"{folder}/photos"},
            "held_out_every": 6,
            "crop": {"kind": "random", "size": 16},
            "flip": True,
            "rotate": True,
            "degradation": {"kind": "first_order"},
            "batch_size": BATCH,
            "validation_size": BATCH,
            "max_broken": 0.2,
        }
        | data
    )
    return config


@pytest.mark.slow
def test_an_interrupted_run_is_bit_identical_with_any_number_of_workers(folder, monkeypatch, capsys):
    """Stopped in the first epoch with threads, gone on with two processes; the loop's own place is the step."""
    whole = train(config(folder), folder / "whole")
    with monkeypatch.context() as patch:
        signal_at(patch, 5, 15)
        assert int(train(config(folder), folder / "broken").step) == 5
    state = train(config(folder, workers=2), folder / "broken")
    assert int(state.step) == 12
    assert_bit_identical(state, whole)
    for name in ("whole", "broken"):
        lines = (folder / name / "broken.txt").read_text().splitlines()
        assert len(lines) == 1 and "04.png" in lines[0] and "cut off" in lines[0]
    assert "1 broken examples were replaced so far, see broken.txt; new: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_size": 2 * BATCH},
            r"batch_size was 4, is 8\. Set them back, or begin anew with a new `workdir`",
        ),
        ({"held_out_every": 5}, "source was .*, is "),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"degradation": {"kind": "denoise"}}, "recipe was .*, is "),
        ({"DRAWS": 1}, "recipe was .*, is "),
    ],
)
def test_a_resumed_run_must_find_the_same_data(folder, monkeypatch, change, message):
    def once(seed=0, DRAWS=DRAWS, **data):
        monkeypatch.setattr("diffbir_jax.data.setup.DRAWS", DRAWS)
        settings = config(folder, **data)
        settings.seed = seed
        settings.train.steps = 1
        return train(settings, folder / "run")

    once()
    with pytest.raises(ValueError, match=message):
        once(**change)


def test_too_many_broken_photos_end_the_run(folder):
    with pytest.raises(DataError, match=r"^1 of 11 examples are broken, more than data\.max_broken = 0\.01"):
        train(config(folder, max_broken=0.01), folder / "run")


def test_held_out_examples_are_of_the_same_source_or_of_another(folder, tmp_path_factory):
    other = make_photos(tmp_path_factory.mktemp("other"), count=4)
    train_set, held_out = training_batches(config(folder))
    assert (len(train_set.items.source), len(held_out.items.source)) == (11, 2)
    train_set, held_out = training_batches(
        config(folder, validation={"kind": "folder", "path": f"{other}/photos"})
    )
    assert (len(train_set.items.source), len(held_out.items.source)) == (13, 4)


def test_a_setting_that_there_is_not_is_refused(folder):
    with pytest.raises(ValueError, match=r"config\.data has no setting worker; there are source, "):
        training_batches(config(folder, worker=2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"crop": {"kind": "random", "sizes": 16}}, "crop.*sizes.*size"),
        ({"crop": {"kind": "random"}}, "crop lacks a field"),
        ({"captions": {"p_longest": 0.1}}, "captions.*p_longest.*p_long"),
    ],
)
def test_a_field_of_a_setting_that_there_is_not_is_refused(folder, data, message):
    with pytest.raises(DataError, match=message):
        training_batches(config(folder, **data))


def test_settings_that_all_data_have_are_asked_for(folder):
    settings = config(folder)
    del settings.data["crop"]
    with pytest.raises(ValueError, match=r"config\.data lacks crop"):
        training_batches(settings)


def test_a_configuration_of_data_alone_is_refused(folder):
    with pytest.raises(ValueError, match=r"names no config\.objective: look at it with .*preview"):
        train(ConfigDict({"preset": "micro", "data": config(folder).data}), folder / "run")


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_describe_data_that_can_be_made(folder, name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    whole = get_config()
    assert set(whole.data) <= set(SETTINGS)
    make_degradation(whole.data.degradation.to_dict())
    tiny = get_config("tiny")
    tiny.data.source.path = f"{folder}/photos"
    tiny.data.update(batch_size=BATCH, held_out_every=6)
    batch = training_batches(tiny)[0](0)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == dict.fromkeys(
        ("hq", "lq"), ((BATCH, 112, 112, 3), np.uint8)
    )
    with pytest.raises(ValueError, match="no variant 'big'; give none, or NAME:tiny"):
        get_config("big")


def test_the_tiny_variant_trains_by_the_loop(folder):
    tiny = importlib.import_module("configs.rm_swinir").get_config("tiny")
    tiny.preset = "micro"
    tiny.data.source.path = f"{folder}/photos"
    tiny.data.update(batch_size=BATCH, validation_size=BATCH, held_out_every=6, max_broken=0.2)
    tiny.data.crop.size = 16
    tiny.train.update(steps=2)
    assert int(train(tiny, folder / "run").step) == 2
    assert (folder / "run" / "export" / "rm.safetensors").is_file()
