"""Safetensors files that end in zeros: unfinished downloads, and networks that are so."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.conversion import unfinished
from diffbir_jax.conversion.files import CheckpointError, read_tensors

ONES, ZEROS = np.ones(200, np.float32), np.zeros(200, np.float32)


def written(path, state, kept=None):
    """A file; of its bytes from `kept` on only zeros."""
    save_file(state, path)
    content = path.read_bytes()
    kept = len(content) if kept is None else kept
    path.write_bytes(content[:kept] + bytes(len(content) - kept))
    return path


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize("missing", [2 * 800 + 256, 3 * 800 - 4, 5 * 800, 6 * 800])
def test_an_unfinished_download(tmp_path, monkeypatch, chunk, missing):
    monkeypatch.setattr(unfinished, "CHUNK", chunk)
    state = dict.fromkeys("abcdef", ONES)
    size = written(tmp_path / "whole", state).stat().st_size
    path = written(tmp_path / "w.safetensors", state, size - missing)
    with pytest.raises(
        CheckpointError, match=r"w.safetensors has only zeros in its last \d tensors, from \w on"
    ):
        read_tensors(path)


@pytest.mark.parametrize(
    "state",
    [
        {"a": ONES, "b": ONES, "zero_convs.0": ZEROS},
        dict.fromkeys("abc", ONES) | {"zero_convs.0": ZEROS, "zero_convs.1": ZEROS},  # a new ControlNet
        {"a": ONES, "b.lora_A": ONES, "b.lora_B": ZEROS},
        {"a": ONES, "b": np.append(ONES, np.zeros(63, np.float32)), "c": ZEROS, "d": np.zeros(9, np.float32)},
        {"a": ONES, "b": np.concatenate([ONES, ZEROS])},  # padding
        {"a": ZEROS},
        {"a": np.zeros((0, 3), np.float32)},
    ],
)
def test_networks_that_end_in_zeros(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    assert read_tensors(tmp_path / "w.safetensors").keys() == state.keys()
