"""Every key and shape of the published checkpoints, without their values or any memory."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from diffbir_jax.conversion.checkpoints import (
    abstract_controlnet,
    abstract_swinir,
    abstract_unet,
    abstract_vae,
    convert_controlnet,
    convert_stable_diffusion,
    convert_swinir,
    unwrap,
)
from diffbir_jax.conversion.engine import ConversionError, torch_shapes
from diffbir_jax.conversion.tables import controlnet_rules, swinir_rules, unet_rules, vae_rules
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig

CHECKPOINTS = Path(__file__).parents[1] / "golden" / "checkpoints"


def published(name: str) -> dict[str, np.ndarray]:
    """A checkpoint of zeros that take no memory."""
    shapes = json.loads(gzip.decompress((CHECKPOINTS / f"{name}.json.gz").read_bytes()))
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def shapes(tree):
    return jax.tree.map(lambda x: tuple(x.shape), tree)


def test_swinir():
    config = SwinIRConfig()
    assert shapes(convert_swinir(published("swinir"), config)) == shapes(abstract_swinir(config))


def test_controlnet():
    config = UNetConfig()
    assert shapes(convert_controlnet(published("ircontrolnet"), config)) == shapes(
        abstract_controlnet(config)
    )


def test_stable_diffusion_as_published():
    """Wrapped, and with the schedule tables and averaged weights that training leaves in the file."""
    state = published("stable_diffusion_v2-1")
    for key in ("betas", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1"):
        state[key] = np.zeros(1000, np.float32)
    state["model_ema.decay"] = np.zeros((), np.float32)
    params = convert_stable_diffusion({"state_dict": state}, UNetConfig(), VAEConfig())
    assert shapes(params) == {
        "unet": shapes(abstract_unet(UNetConfig())),
        "vae": shapes(abstract_vae(VAEConfig())),
    }


def test_problems_of_both_networks_are_reported():
    state = published("stable_diffusion_v2-1")
    del state["model.diffusion_model.out.2.bias"]
    state["first_stage_model.quant_conv.bias"] = np.zeros(3, np.float32)
    state["control_model.input"] = np.zeros(1, np.float32)
    with pytest.raises(ConversionError) as error:
        convert_stable_diffusion(state, UNetConfig(), VAEConfig())
    message = str(error.value)
    assert "(3 problems)" in message
    assert "missing model.diffusion_model.out.2.bias (4,)" in message
    assert "misshapen first_stage_model.quant_conv.bias: got (3,), expected (8,)" in message
    assert "unexpected control_model.input" in message


def test_unwrap():
    x = np.zeros(1)
    assert unwrap({"state_dict": {"module.a": x, "module.b": x}}).keys() == {"a", "b"}
    assert unwrap({"module.a": x, "b": x}).keys() == {"module.a", "b"}


ODD = UNetConfig(
    model_channels=32,
    channel_mult=(2, 2, 3),
    num_res_blocks=1,
    attention_levels=(2,),
    num_head_channels=32,
    context_dim=None,
    transformer_depth=2,
)


FLAT = VAEConfig(ch=16, ch_mult=(2, 2, 1), num_res_blocks=1, mid_attention=False)
PATCHED = VAEConfig(ch=16, ch_mult=(1, 3), patch_size=4)
SHORT = SwinIRConfig(embed_dim=24, num_layers=3, depth=3, num_heads=2, unshuffle=4, num_feat=16)


@pytest.mark.parametrize(
    "rules, abstract, config",
    [
        (unet_rules, abstract_unet, ODD),
        (controlnet_rules, abstract_controlnet, ODD),
        (vae_rules, abstract_vae, FLAT),
        (vae_rules, abstract_vae, PATCHED),
        (swinir_rules, abstract_swinir, SHORT),
    ],
)
def test_tables_follow_the_configuration(rules, abstract, config):
    table = list(rules(config))
    assert torch_shapes(table, abstract(config)).keys() == {rule.key for rule in table}
