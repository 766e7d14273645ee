"""`--to-torch` writes what a PyTorch module loads with `strict=True`: every key, the constants included."""

from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file
from spandrel.architectures.SwinIR import SwinIR as PeerSwinIR

from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.to_torch import export_files
from tests.conversion import small
from tests.models.reference import SWINIR


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_swinir_loads_strictly(tmp_path: Path) -> None:
    save_file(small.swinir(), tmp_path / "x.safetensors")
    convert_file(tmp_path / "x.safetensors", tmp_path / "ours")
    export_files(tmp_path / "ours", tmp_path)
    peer = PeerSwinIR(
        embed_dim=SWINIR.embed_dim,
        depths=[SWINIR.depth] * SWINIR.num_layers,
        num_heads=[SWINIR.num_heads] * SWINIR.num_layers,
        window_size=SWINIR.window,
        mlp_ratio=SWINIR.mlp_ratio,
        upscale=8,
        upsampler="nearest+conv",
        start_unshuffle=SWINIR.unshuffle,
        img_size=64,
    )
    constants = {key: x.clone() for key, x in peer.named_buffers() if key.startswith("layers.")}
    assert len(constants) == SWINIR.num_layers * SWINIR.depth * 3 // 2
    state = torch.load(tmp_path / "swinir.pth", weights_only=True)
    # spandrel unshuffles by a function, the original by a layer before the first convolution.
    peer.load_state_dict(
        {key.replace("conv_first.1.", "conv_first."): x for key, x in state.items()}, strict=True
    )
    for key, x in constants.items():
        assert state[key].dtype == x.dtype
        assert torch.equal(state[key], x), key
