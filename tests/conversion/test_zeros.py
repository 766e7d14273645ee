"""Holes in files without checksums."""

import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.conversion.architectures import SRVGG
from diffbir_jax.conversion.engine import CONV, DENSE, SAME, Rule
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.zeros import zeros_in
from diffbir_jax.models.srvgg import SRVGGConfig
from tests.conversion import small

CONFIG = SRVGGConfig(32, 2)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return small.weights(SRVGG, CONFIG)


@pytest.mark.parametrize("at", [0, 1, 1000, 5001])
def test_a_lost_block_of_the_disk_is_named(tmp_path, state, at):
    """Wherever it begins inside the tensor. Tests of networks have other sizes than the published ones."""
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    whole, lost = path.read_bytes(), "body.2.weight"
    place = whole.index(state[lost].tobytes()) + at
    path.write_bytes(whole[:place] + bytes(4096) + whole[place + 4096 :])
    with pytest.warns(UserWarning, match=rf"^long runs of zeros in {lost} \(a part\): right for new"):
        convert_file(path, tmp_path / "out")


def test_a_lost_weight_is_named(tmp_path, state):
    save_file(state | {"body.2.weight": np.zeros_like(state["body.2.weight"])}, tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match=r"long runs of zeros in body.2.weight \(all\)"):
        convert_file(tmp_path / "w.safetensors", tmp_path / "out")


def test_a_whole_file_gives_no_warning(tmp_path, state):
    """Its biases are zeros, as those of new networks are."""
    new = {key: np.zeros_like(x) if x.ndim == 1 else x for key, x in state.items()}
    save_file(new, tmp_path / "w.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*right for a network of your own")
        convert_file(tmp_path / "w.safetensors", tmp_path / "out")


@pytest.mark.parametrize(
    ("array", "layout", "told"),
    [
        (np.zeros(4096), SAME, []),
        (np.zeros(0), SAME, []),
        (np.zeros((1, 1)), DENSE, []),
        (np.zeros((16, 17)), DENSE, ["a (all)"]),
        (np.append(np.zeros(511), 1), SAME, ["a (a part)"]),
        # Pruned: many zeros, nowhere a row of them.
        (np.tile([0.0, 0, 0, 1], 1000), SAME, []),
        # 600 zeros in the file's order, which the layout of Flax scatters.
        (CONV.to_flax(np.arange(64 * 9 * 64).reshape(64, 64, 3, 3) // 600), CONV, ["a (a part)"]),
    ],
)
def test_what_counts(array, layout, told):
    assert zeros_in(Rule("a", "a", layout), array.astype(np.float32)) == told
