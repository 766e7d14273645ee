"""Which keys are the network's: prefixes, averaged copies, and what stands beside them."""

import numpy as np
import pytest

from diffbir_jax.conversion.contents import Contents
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.prefixes import select
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.weights.safetensors import load_weights
from tests.conversion import made, small

pytestmark = pytest.mark.filterwarnings("ignore:.*right for a network of your own")
SWINIR = small.swinir()
ONE = np.ones(1, np.float32)


def prefixed(prefix, sign=1):
    return {f"{prefix}{key}": sign * x for key, x in SWINIR.items()}


def selected(state, prefix=None):
    family, found = select(Contents(state), prefix)
    return family.title, found


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "net.",
        "controlnet.",
        "_orig_mod.",
        "module._orig_mod.net.",
        "a.b.c.",
        "preprocess_model.",
    ],
)
def test_any_common_prefix(prefix):
    title, found = selected(prefixed(prefix))
    assert title == "SwinIR" and found.state.keys() == SWINIR.keys()


@pytest.mark.parametrize("title", small.FAMILIES)
@pytest.mark.parametrize("prefix", ["model.", "module.net."])
def test_every_family(title, prefix):
    state = small.FAMILIES[title][0]()
    family, found = selected({prefix + key: x for key, x in state.items()})
    assert family == title and found.state.keys() == state.keys()


def test_parts_of_keys_that_tools_add_anywhere():
    """Compiled or wrapped layers inside a network, and some keys with a prefix, others without."""
    inner = {key.replace("layers.0.", "layers.0._orig_mod."): x for key, x in SWINIR.items()}
    assert selected(inner)[1].state.keys() == SWINIR.keys()
    mixed = {(f"module.{key}" if i % 2 else key): x for i, (key, x) in enumerate(SWINIR.items())}
    assert selected(mixed)[1].state.keys() == SWINIR.keys()


def test_other_things_beside_it_are_named_and_left():
    rest = {"n_averaged": ONE, "net_d.conv.weight": ONE, "net_d.conv.bias": ONE, "loss.weight": ONE}
    found = selected(prefixed("net_g.") | rest)[1]
    assert found.state.keys() == SWINIR.keys()
    assert found.notes == ("takes the keys net_g.*", "left out: loss.*, n_averaged, net_d.* (4 keys)")
    found = selected(SWINIR | rest)[1]
    assert found.state.keys() == SWINIR.keys()
    assert found.notes == ("left out: loss.*, n_averaged, net_d.* (4 keys)",)


def test_layers_of_another_network_are_not_left_out():
    assert "conv_extra.weight" in selected(SWINIR | {"conv_extra.weight": ONE})[1].state


def test_the_average_is_taken_where_there_are_two_and_it_is_said():
    both = prefixed("net_g.") | prefixed("net_g_ema.", -1)
    found = selected(both)[1]
    np.testing.assert_array_equal(found.state["norm.bias"], -SWINIR["norm.bias"])
    assert found.notes[0] == (
        "takes the averaged weights net_g_ema.*; the file also has net_g. (--prefix NAME takes another)"
    )
    for name in ("net_g", "net_g."):
        found = selected(both, name)[1]
        np.testing.assert_array_equal(found.state["norm.bias"], SWINIR["norm.bias"])
        assert found.notes == (f"takes the keys {name}*", f"left out: net_g_ema.* ({len(SWINIR)} keys)")


def test_two_networks_are_asked_for():
    both = prefixed("one.") | prefixed("two.", -1)
    with pytest.raises(
        CheckpointError, match=r"2 such networks, with the prefixes one., two.: choose by --prefix"
    ):
        selected(both)
    np.testing.assert_array_equal(selected(both, "two.")[1].state["norm.bias"], -SWINIR["norm.bias"])
    with pytest.raises(CheckpointError, match="no key starts with --prefix three; keys start with one, two"):
        selected(both, "three")


def averaged(state):
    names = [key for key in state if key.startswith("model.")]
    return {"model_ema." + key.removeprefix("model.").replace(".", ""): -state[key] for key in names}


def test_stable_diffusion_with_an_average():
    state = small.stable_diffusion()
    both = state | averaged(state)
    key = "model.diffusion_model.out.2.bias"
    found = selected(both)[1]
    np.testing.assert_array_equal(found.state[key], state[key])
    assert found.notes == (
        "takes model.*; the file also has averaged weights (--prefix model_ema. takes them)",
    )
    found = selected(both, "model_ema.")[1]
    np.testing.assert_array_equal(found.state[key], -state[key])
    assert found.notes == ("takes the averaged weights model_ema.* in place of model.*",)
    assert selected(state)[1].notes == ()


def test_half_an_average_is_refused():
    state = small.stable_diffusion()
    half = dict(list(averaged(state).items())[:7])
    with pytest.raises(
        CheckpointError, match=r"model_ema.\* has 7 of the \d+ weights of model.\*: leave --prefix out"
    ):
        selected(state | half, "model_ema.")
    with pytest.raises(CheckpointError, match="no key starts with --prefix model_ema."):
        selected(state, "model_ema.")


@pytest.mark.parametrize("modern", [True, False])
def test_the_whole_way_from_a_trainers_file(tmp_path, modern):
    """What PyTorch Lightning leaves: a prefix, losses and a discriminator beside it, and objects."""
    value = {
        "epoch": 3,
        "callbacks": {made.Call("lightning.callbacks", "ModelCheckpoint"): {}},
        "state_dict": prefixed("net.") | {"disc.weight": ONE},
    }
    notes: list[str] = []
    convert_file(made.write(tmp_path / "w.ckpt", value, modern), tmp_path / "a", say=notes.append)
    convert_file(made.write(tmp_path / "bare.pth", SWINIR), tmp_path / "b")
    a, b = ((tmp_path / name / "swinir.safetensors").read_bytes() for name in "ab")
    assert a == b
    assert notes == [
        "left out beside the weights: epoch, callbacks",
        "objects of these classes were not built: lightning.callbacks.ModelCheckpoint",
        "takes the keys net.*",
        "left out: disc.* (1 key)",
    ]


def test_key_and_prefix(tmp_path):
    value = {"params": prefixed("one.") | prefixed("two.", -1), "params_ema": prefixed("one.", 2)}
    path = made.write(tmp_path / "w.pth", value)
    from diffbir_jax.conversion.architectures import SWINIR as KIND
    from tests.models import reference

    def bias(folder, **choice):
        convert_file(path, tmp_path / folder, **choice)
        target = KIND.abstract(reference.SWINIR)
        return load_weights(tmp_path / folder / "swinir.safetensors", target)["norm"]["bias"]

    np.testing.assert_array_equal(bias("a"), 2 * SWINIR["norm.bias"])
    np.testing.assert_array_equal(bias("b", key="params", prefix="two."), -SWINIR["norm.bias"])
    with pytest.raises(CheckpointError, match="w.pth: the file has 2 such networks"):
        bias("c", key="params")
