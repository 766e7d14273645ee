"""spandrel's SwinIR, SCUNet and RRDBNet on our exported weights: the networks and the layout in which they leave."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures.SwinIR import SwinIR as PeerSwinIR

from diffbir_jax.conversion.abstract import abstract_bsrnet, abstract_scunet, abstract_swinir
from diffbir_jax.conversion.engine import Params, Rule, export
from diffbir_jax.conversion.restoration import bsrnet_rules, scunet_rules, swinir_rules
from diffbir_jax.models.bsrnet import BSRNet
from diffbir_jax.models.scunet import SCUNet
from diffbir_jax.models.swinir import SwinIR
from tests.models.reference import BSRNET, SCUNET, SWINIR, filled
from tests.peers.compare import assert_equal, image, nchw, tensors


def exported(params: Params, rules: Iterable[Rule]) -> dict[str, torch.Tensor]:
    return tensors(export(params, list(rules)))


def loaded(state: dict[str, torch.Tensor], architecture: str) -> torch.nn.Module:
    """What spandrel makes of a state dict whose architecture it recognises by itself."""
    descriptor = ModelLoader().load_from_state_dict(state)
    assert descriptor.architecture.id == architecture
    return descriptor.model.eval()


def compare(ours: Any, params: Params, peer: torch.nn.Module, lq: np.ndarray) -> None:
    with torch.inference_mode():
        wanted = peer(nchw(lq))
    assert_equal(jax.jit(ours.apply)({"params": params}, lq), wanted)


@pytest.mark.parametrize("naming, suffix", [("bsrnet", "RRDB_trunk"), ("realesrgan", "body")])
def test_rrdbnet(naming: Any, suffix: str) -> None:
    config = dataclasses.replace(BSRNET, growth=32)  # spandrel knows no other growth
    params = filled("bsrnet", bsrnet_rules(config), abstract_bsrnet(config))
    state = exported(params, bsrnet_rules(config, naming))
    assert any(key.startswith(suffix) for key in state)
    compare(BSRNet(config), params, loaded(state, "ESRGAN"), image(24, 20))


def test_scunet() -> None:
    """At sides of whole windows: elsewhere spandrel pads by reflection, the original and we by repeating the edge."""
    params = filled("scunet", scunet_rules(SCUNET), abstract_scunet(SCUNET))
    peer = loaded(exported(params, scunet_rules(SCUNET)), "SCUNet")
    compare(SCUNet(SCUNET), params, peer, image(64, 128))


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_swinir() -> None:
    params = filled("swinir", swinir_rules(SWINIR), abstract_swinir(SWINIR))
    state = exported(params, swinir_rules(SWINIR))
    peer = PeerSwinIR(
        embed_dim=SWINIR.embed_dim,
        depths=[SWINIR.depth] * SWINIR.num_layers,
        num_heads=[SWINIR.num_heads] * SWINIR.num_layers,
        window_size=SWINIR.window,
        mlp_ratio=SWINIR.mlp_ratio,
        upscale=8,
        upsampler="nearest+conv",
        start_unshuffle=SWINIR.unshuffle,
    )
    # spandrel unshuffles by a function, the original by a layer before the first convolution.
    state = {key.replace("conv_first.1.", "conv_first."): x for key, x in state.items()}
    rest = peer.load_state_dict(state, strict=False)
    assert not rest.unexpected_keys
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in rest.missing_keys)
    compare(SwinIR(SWINIR), params, peer.eval(), image(128, 192))
