"""The table of checkpoint forms in docs/published.md, and the inputs that were refused or misread before."""

import struct
from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.conversion.architectures import BSRNET, SWINIR
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.swinir import SwinIRConfig
from scripts.checkpoint_forms import rows
from tests.conversion import made, small
from tests.conversion.made import Call

DOCS = Path(__file__).parents[2] / "docs" / "published.md"
pytestmark = pytest.mark.filterwarnings("ignore:.*right for a network of your own")


@pytest.mark.slow  # it traces Stable Diffusion
def test_the_documented_table_is_what_happens():
    """`python scripts/checkpoint_forms.py` prints it."""
    lines = rows()
    assert len(lines) > 40
    assert "\n".join(lines) in DOCS.read_text(encoding="utf-8")


def converted(tmp_path, name, value):
    notes: list[str] = []
    (entry,) = convert_file(made.write(tmp_path / name, value), tmp_path / "out", say=notes.append)
    return entry, notes


def test_lightning_class_key(tmp_path):
    callback = Call("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    state = small.weights(BSRNET, BSRNetConfig(num_feat=16, num_blocks=1, growth=8))
    entry, notes = converted(
        tmp_path, "x.ckpt", {"state_dict": state, "epoch": 1, "callbacks": {callback: {}}}
    )
    assert entry.module == "bsrnet"
    assert notes[-1].endswith("not built: pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")


def test_numpy_scalar(tmp_path):
    double = Call("numpy", "dtype", ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    best = Call("numpy.core.multiarray", "scalar", (double, struct.pack("<d", 27.5)))
    value = {"epoch": 3, "best_psnr": best, "state_dict": small.swinir()}
    entry, notes = converted(tmp_path, "x.pth", value)
    assert (entry.module, notes) == ("swinir", ["left out beside the weights: epoch, best_psnr"])


def test_averaged(tmp_path):
    state = {f"module.{key}": x for key, x in small.swinir().items()}
    entry, notes = converted(tmp_path, "x.pth", {**state, "n_averaged": np.ones((), np.int64)})
    assert (entry.module, notes) == ("swinir", ["left out: n_averaged (1 key)"])


def test_lightning_prefix_net(tmp_path):
    state = {f"net.{key}": x for key, x in small.swinir().items()}
    entry, notes = converted(tmp_path, "x.ckpt", {"epoch": 3, "state_dict": state})
    assert (entry.module, notes[-1]) == ("swinir", "takes the keys net.*")


def test_official_swinir(tmp_path):
    config = SwinIRConfig(24, 2, 2, 3, unshuffle=1, num_feat=16, scale=4)
    value = {"params_ema": small.weights(SWINIR, config)}
    entry, notes = converted(tmp_path, "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth", value)
    assert (entry.module, notes) == ("swinir", [])
    found = {name: entry.details["config"][name] for name in ("upsampler", "scale", "unshuffle", "num_heads")}
    assert found == {"upsampler": "nearest+conv", "scale": 4, "unshuffle": 1, "num_heads": 3}


def test_absurd_index(tmp_path):
    value = {"conv_first.weight": np.zeros((16, 3, 3, 3), np.float32)}
    value["body.99999999.rdb1.conv1.weight"] = np.zeros((8, 16, 3, 3), np.float32)
    with pytest.raises(
        CheckpointError, match="body.99999999.* has the number 99999999: networks have at most"
    ):
        converted(tmp_path, "x.pth", value)
