"""Every key and shape of the published checkpoints, without their values or any memory."""

import gzip
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from diffbir_jax.conversion.abstract import (
    abstract_bsrnet,
    abstract_clip,
    abstract_controlnet,
    abstract_scunet,
    abstract_swinir,
    abstract_unet,
    abstract_vae,
)
from diffbir_jax.conversion.architectures import (
    BSRNET,
    CONTROL,
    OLD_ESRGAN,
    REALESRGAN,
    SCUNET,
    SRVGG,
    SWINIR,
    UNET,
    VAE,
)
from diffbir_jax.conversion.engine import ConversionError, export, torch_shapes
from diffbir_jax.conversion.families import recognise
from diffbir_jax.conversion.from_torch import make_plans
from diffbir_jax.conversion.shapes import Shapes
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.conversion.to_torch import swinir_buffers
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.srvgg import SRVGGConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from tests.conversion import small

CHECKPOINTS = Path(__file__).parents[1] / "golden" / "checkpoints"
# What each published file becomes: name -> (the published sizes, the shapes of our network).
NETWORKS = {
    "unet": (UNetConfig(), abstract_unet),
    "vae": (VAEConfig(), abstract_vae),
    "text": (CLIPTextConfig(), abstract_clip),
    "control": (UNetConfig(), abstract_controlnet),
    "swinir": (SwinIRConfig(), abstract_swinir),
    "bsrnet": (BSRNetConfig(), abstract_bsrnet),
    "scunet": (SCUNetConfig(), abstract_scunet),
}
STABLE_DIFFUSION = "stable_diffusion_v2-1"
PUBLISHED = {
    STABLE_DIFFUSION: ["unet", "vae", "text"],
    "ircontrolnet": ["control"],
    "swinir": ["swinir"],
    "bsrnet": ["bsrnet"],
    "scunet": ["scunet"],
}


def published(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    """A checkpoint of zeros that take no memory."""
    shapes = json.loads(gzip.decompress((CHECKPOINTS / f"{name}.json.gz").read_bytes()))
    return {prefix + key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def shapes(tree):
    return jax.tree.map(lambda x: tuple(x.shape), tree)


def plans(state):
    family = recognise(state)
    return {plan.stem: plan for plan in make_plans(state, family, family.stems(None))}


def assert_published(found, names):
    assert list(found) == names
    for name, plan in found.items():
        config, abstract = NETWORKS[name]
        assert plan.config == config
        assert shapes(plan.target) == shapes(abstract(config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_map_completely(name):
    assert_published(plans(published(name)), PUBLISHED[name])


def test_every_manifest_is_tested():
    assert {path.name.removesuffix(".json.gz") for path in CHECKPOINTS.iterdir()} == PUBLISHED.keys()


def test_stable_diffusion_with_what_training_leaves_in_the_file():
    state = published(STABLE_DIFFUSION)
    for key in ("betas", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1"):
        state[key] = np.zeros(1000, np.float32)
    state["model_ema.decay"] = np.zeros((), np.float32)
    state["cond_stage_model.model.attn_mask"] = np.zeros((77, 77), np.float32)
    assert_published(plans(state), ["unet", "vae", "text"])


def test_text_towers_that_come_from_a_diffusers_folder():
    """They end with the last block that is run; all blocks they have are needed."""
    text = "cond_stage_model.model"
    unused = (f"{text}.transformer.resblocks.23.", f"{text}.text_projection", f"{text}.logit_scale")
    state = {k: x for k, x in published(STABLE_DIFFUSION).items() if not k.startswith(unused)}
    state[f"{text}.transformer.text_model.embeddings.position_ids"] = np.zeros((1, 77), np.int64)
    found = plans(state)
    assert_published(found, ["unet", "vae", "text"])
    assert f"{text}.transformer.resblocks.22.ln_1.bias" in {rule.key for rule in found["text"].table}


def test_all_of_v1_in_one_file():
    state = published(STABLE_DIFFUSION) | published("ircontrolnet", "control_model.")
    encoder = {key: x for key, x in state.items() if key.startswith("first_stage_model.encoder.")}
    state |= {key.replace("first_stage_model", "cond_encoder"): x for key, x in encoder.items()}
    state |= published("swinir", "preprocess_model.")
    assert_published(plans(state), ["unet", "vae", "text", "control", "swinir"])


def test_problems_of_all_networks_are_reported():
    state = published(STABLE_DIFFUSION)
    del state["model.diffusion_model.out.2.bias"]
    del state["cond_stage_model.model.ln_final.weight"]
    state["first_stage_model.quant_conv.bias"] = np.zeros(3, np.float32)
    state["control_model.input"] = np.zeros(1, np.float32)
    with pytest.raises(ConversionError) as error:
        plans(state)
    message = str(error.value)
    assert "(4 problems)" in message
    assert "missing model.diffusion_model.out.2.bias (4,)" in message
    assert "missing cond_stage_model.model.ln_final.weight (1024,)" in message
    assert "misshapen first_stage_model.quant_conv.bias: got (3,), expected (8,)" in message
    assert "unexpected control_model.input (1,)" in message


@pytest.mark.parametrize(
    "name, kind, key, shape",
    [
        ("swinir", SWINIR, "conv_first.1.weight", (7, 192, 3, 3)),
        ("swinir", SWINIR, "layers.0.residual_group.blocks.0.attn.relative_position_bias_table", (225, 7)),
        ("scunet", SCUNET, "m_head.0.weight", (66, 3, 3, 3)),
        ("bsrnet", BSRNET, "conv_first.weight", ()),
        ("ircontrolnet", CONTROL, "input_blocks.0.0.weight", (33, 8, 3, 3)),
    ],
)
def test_impossible_sizes_are_reported_against_the_published_ones(name, kind, key, shape):
    state = published(name)
    wanted = state[key].shape
    state[key] = np.zeros(shape, np.float32)
    with pytest.raises(ConversionError) as error:
        plans(state)
    assert str(error.value).splitlines()[1:] == [f"  misshapen {key}: got {shape}, expected {wanted}"]


@pytest.mark.parametrize(
    "name, kind", [("swinir", SWINIR), ("bsrnet", BSRNET), ("scunet", SCUNET), ("ircontrolnet", CONTROL)]
)
def test_the_way_back_has_every_published_key_and_shape(name, kind):
    config = kind.config()
    ghosts = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), kind.abstract(config))
    state = export(ghosts, list(kind.rules(config))) | (swinir_buffers(config) if kind is SWINIR else {})
    assert {key: x.shape for key, x in state.items()} == {key: x.shape for key, x in published(name).items()}


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


@pytest.mark.parametrize("kind, config", [(UNET, ODD), (CONTROL, ODD), (VAE, FLAT), (VAE, PATCHED)])
def test_tables_follow_the_configuration(kind, config):
    table = list(kind.rules(config))
    assert torch_shapes(table, kind.abstract(config)).keys() == {rule.key for rule in table}


@pytest.mark.parametrize(
    "kind, config",
    [
        (SWINIR, SwinIRConfig(24, 3, 3, 2, window=4, mlp_ratio=3, unshuffle=4, num_feat=16)),
        (BSRNET, BSRNetConfig(num_feat=16, num_blocks=2, growth=8, scale=2)),
        (REALESRGAN, BSRNetConfig(num_feat=16, num_blocks=2, growth=8, scale=2, unshuffle=2)),
        (REALESRGAN, BSRNetConfig(num_feat=16, num_blocks=2, growth=8, scale=1, unshuffle=4)),
        (OLD_ESRGAN, BSRNetConfig(num_feat=16, num_blocks=12, growth=8, scale=2)),
        (SRVGG, SRVGGConfig(num_feat=16, num_conv=5, scale=3)),
        *((SWINIR, config) for config in SWINIR.others),
        (SCUNET, SCUNetConfig(32, (1, 2, 3, 2, 1, 2, 3), head_dim=16, window=4)),
        (CONTROL, UNetConfig(model_channels=96, num_head_channels=32, context_dim=40)),
        (VAE, VAEConfig(ch=64)),
    ],
)
def test_sizes_are_read_off_the_shapes(kind, config):
    assert kind.sizes(Shapes(torch_shapes(list(kind.rules(config)), kind.abstract(config)))) == config
    assert kind.revive(kind.describe(config)["config"]) == config


@pytest.mark.parametrize("text", ["", "[]", '{"side": 3}', '{"upsampler": "bicubic"}'])
def test_damaged_descriptions(text):
    with pytest.raises(ValueError, match="does not describe a SwinIRConfig"):
        SWINIR.revive(text)


def problems(state):
    try:
        plans(state)
    except ConversionError as error:
        return str(error).splitlines()[1:]
    return []


def of_a_small_swinir(upsampler, scale):
    config = SwinIRConfig(12, 2, 2, 2, unshuffle=1, num_feat=8, upsampler=upsampler, scale=scale)
    return lambda: small.weights(SWINIR, config)


SMALL = {title: make for title, (make, stems) in small.FAMILIES.items() if len(stems) == 1}
SMALL |= {
    f"SwinIR {upsampler} x{scale}": of_a_small_swinir(upsampler, scale)
    for upsampler, scale in (
        ("pixelshuffle", 3),
        ("pixelshuffle", 4),
        ("pixelshuffledirect", 2),
        ("nearest+conv", 4),
        ("none", 1),
    )
}


@pytest.mark.parametrize("title", SMALL)
def test_a_missing_key_is_one_problem(title):
    """Sizes come from more than one key."""
    whole = SMALL[title]()
    assert problems(whole) == []
    # Buffers hold no weights. The UNet's many blocks say nothing of its sizes.
    skipped = r".*(_index|attn_mask)$|input_blocks\.[2-9]|middle|zero_convs\.[2-9]|.*\.1[0-9]\."
    keys = [key for key in whole if not re.match(skipped, key)]
    for key in keys:
        found = problems({k: x for k, x in whole.items() if k != key})
        assert len(found) == 1 and found[0].startswith(f"  missing {key} "), (key, found)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("model.diffusion_model.input_blocks.0.0.weight", marks=pytest.mark.slow),
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.model.token_embedding.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    ],
)
def test_a_missing_key_of_stable_diffusion_is_one_problem(key):
    state = small.stable_diffusion()
    del state[key]
    (found,) = problems(state)
    assert found.startswith(f"  missing {key} ")


@pytest.mark.parametrize("number", ["99999999", "100", "9" * 5000])
def test_absurd_numbers_are_refused_at_once(number):
    state = {
        "conv_first.weight": np.zeros((16, 3, 3, 3)),
        f"body.{number}.rdb1.conv1.weight": np.zeros((8, 16, 3, 3)),
    }
    with pytest.raises(
        CheckpointError, match="networks have at most 100 blocks in a row; the file is damaged"
    ):
        plans(state)


def test_absurd_windows_are_refused_at_once():
    key = "layers.{}.residual_group.blocks.{}.attn.relative_position_bias_table"
    state = small.swinir() | {
        key.format(i, j): np.broadcast_to(0.0, (10**6, 2)) for i in range(2) for j in range(2)
    }
    with pytest.raises(CheckpointError, match="attention windows of 500 pixels; allowed are 1 to 32"):
        plans(state)


def test_networks_for_grey_photos_are_refused_with_the_reason():
    state = small.weights(BSRNET, BSRNetConfig(num_feat=16, num_blocks=1, growth=8))
    state["conv_first.weight"] = state["conv_first.weight"][:, :1]
    with pytest.raises(CheckpointError, match="conv_first.weight takes 1 channel, grey photos"):
        plans(state)
