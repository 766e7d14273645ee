"""Averaged weights where trainers keep them: they are taken first, or the user hears where they are."""

import numpy as np
import pytest

from diffbir_jax.conversion.contents import Contents, contents, unwrap
from diffbir_jax.conversion.prefixes import select
from tests.conversion import small

LAST = {"a": np.zeros((2, 3), np.float32), "b": np.ones(3, np.float32)}
BETTER = {key: x + 2 for key, x in LAST.items()}
COUNTERS = {"decay": np.ones((), np.float32), "num_updates": np.ones(1, np.int64)}


@pytest.mark.parametrize(
    "average",
    [{"shadow": BETTER, "decay": 0.999}, {"module": BETTER, **COUNTERS}, {"any_name": BETTER}, BETTER],
)
@pytest.mark.parametrize("name", ["ema", "params_ema"])
def test_an_average_is_taken_from_under_any_name(tmp_path, average, name):
    found = contents(tmp_path, {"model": LAST, name: average})
    assert np.asarray(found.state["b"]).tolist() == [3, 3, 3]
    assert found.notes[0].startswith(f"takes the weights in '{name}'; the file also has model")


@pytest.mark.parametrize("name", ["model_ema", "ema_model", "net.avg", "shadow", "swa_model"])
@pytest.mark.parametrize(
    "average", [BETTER, {f"module.{key}": x for key, x in BETTER.items()} | COUNTERS, {"shadow": BETTER}]
)
def test_an_average_beside_the_weights_is_taken_whatever_its_name(tmp_path, name, average):
    root = {"epoch": 3, "model": {"state_dict": LAST}, name: average}
    found = contents(tmp_path, root)
    values = {key.removeprefix("module."): x for key, x in found.state.items()}
    assert np.asarray(values["b"]).tolist() == [3, 3, 3]
    assert f"takes the weights in '{name}'; the file also has model (--key NAME takes another)" in found.notes
    assert np.asarray(contents(tmp_path, root, "model").state["b"]).tolist() == [1, 1, 1]


def test_dicts_that_hold_themselves_end(tmp_path):
    root: dict = dict(LAST)
    root |= {"model": root, "model_ema": {"shadow": root, "module": root}}
    assert np.asarray(contents(tmp_path, root).state["b"]).tolist() == [1, 1, 1]


def test_the_average_of_another_network_is_not_taken(tmp_path):
    root = {"model": LAST, "disc_ema": {"a": np.zeros((7, 7), np.float32)}}
    found = contents(tmp_path, root)
    assert np.asarray(found.state["b"]).tolist() == [1, 1, 1]
    assert (
        found.notes[0]
        == "takes the weights in 'model'; the file also has disc_ema (--key NAME takes another)"
    )


def test_the_only_average_among_dicts_of_other_names_is_taken(tmp_path):
    found = contents(tmp_path, {"generator": LAST, "generator_ema": BETTER})
    assert np.asarray(found.state["b"]).tolist() == [3, 3, 3]
    assert found.notes[0].startswith("takes the weights in 'generator_ema'; the file also has generator ")


@pytest.mark.parametrize("average", [COUNTERS, {"one": BETTER, "two": BETTER}, {"decay": 0.9}, {}, None])
def test_what_is_no_average_is_left(average):
    assert unwrap({"params": LAST, "ema": average}) is LAST


def test_an_average_elsewhere_is_named(tmp_path):
    root = {"state_dict": LAST, "callbacks": {"EMA": {"weights": BETTER}}}
    found = contents(tmp_path, root)
    where = "callbacks.EMA.weights"
    assert found.notes[0] == f"the file also has averaged weights in {where} (--key {where} takes them)"
    assert np.asarray(contents(tmp_path, root, where).state["b"]).tolist() == [3, 3, 3]


def test_names_without_dots_of_any_network():
    """What Stable Diffusion's average is, for another network; buffers are not averaged."""
    state = {f"model.{key}": x for key, x in small.swinir().items()}
    average = {"model_ema." + key[6:].replace(".", ""): -x for key, x in state.items()}
    both = Contents(state | average | {"model.layers.0.attn_mask": np.ones(3, np.float32)})
    found = select(both)[1]
    assert found.notes == (
        "takes model.*; the file also has averaged weights (--prefix model_ema. takes them)",
    )
    np.testing.assert_array_equal(found.state["norm.bias"], state["model.norm.bias"])
    found = select(both, "model_ema.")[1]
    np.testing.assert_array_equal(found.state["norm.bias"], -state["model.norm.bias"])
    assert found.notes[-1] == "takes the averaged weights model_ema.* in place of model.*"
