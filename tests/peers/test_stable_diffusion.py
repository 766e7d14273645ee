"""diffusers' UNet and autoencoder and transformers' text encoder, saved by them and read as a diffusers folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL as PeerVAE
from diffusers import UNet2DConditionModel

from diffbir_jax.conversion.abstract import abstract_clip, abstract_unet, abstract_vae
from diffbir_jax.conversion.diffusers import clip_rules, read_folder, unet_rules, vae_rules
from diffbir_jax.conversion.engine import Params, Rule, convert
from diffbir_jax.models.clip import CLIPText
from diffbir_jax.models.unet import UNet
from diffbir_jax.models.vae import AutoencoderKL
from tests.golden.weights import fill
from tests.models.reference import CLIP, UNET, VAE
from tests.peers.compare import assert_equal, image, nchw, random, tensors

UNET_WIDTHS = [UNET.model_channels * multiple for multiple in UNET.channel_mult]
VAE_WIDTHS = [VAE.ch * multiple for multiple in VAE.ch_mult]


def randomised(peer: Any, name: str) -> Any:
    """Give every parameter a value of its own: at their usual start all normalisations are alike."""
    state = peer.state_dict()
    peer.load_state_dict(tensors({key: fill(name, key, x.shape) for key, x in state.items()}))
    return peer.eval()


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    cross, plain = ["CrossAttn"] * 3, [""]
    return randomised(
        UNet2DConditionModel(
            block_out_channels=UNET_WIDTHS,
            down_block_types=[f"{kind}DownBlock2D" for kind in cross + plain],
            up_block_types=[f"{kind}UpBlock2D" for kind in plain + cross],
            layers_per_block=UNET.num_res_blocks,
            cross_attention_dim=UNET.context_dim,
            # By this name diffusers means the number of heads.
            attention_head_dim=[width // UNET.num_head_channels for width in UNET_WIDTHS],
            use_linear_projection=True,
        ),
        "unet",
    )


@pytest.fixture(scope="module")
def vae() -> PeerVAE:
    return randomised(
        PeerVAE(
            block_out_channels=VAE_WIDTHS,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=VAE.num_res_blocks,
        ),
        "vae",
    )


@pytest.fixture(scope="module")
def text() -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(
        hidden_size=CLIP.width,
        intermediate_size=4 * CLIP.width,
        num_hidden_layers=CLIP.layers - 1,  # such folders leave out the block that is never run
        num_attention_heads=CLIP.heads,
        hidden_act="gelu",
        vocab_size=CLIP.vocab,
        max_position_embeddings=CLIP.tokens,
    )
    return randomised(transformers.CLIPTextModel(config), "clip")


@pytest.fixture(scope="module")
def state(unet: Any, vae: Any, text: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("diffusers")
    for name, peer in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        peer.save_pretrained(folder / name)
    return dict(read_folder(folder))


def converted(state: dict[str, Any], part: str, rules: Iterable[Rule], target: Params) -> Params:
    own = {key.removeprefix(f"{part}."): x for key, x in state.items() if key.startswith(f"{part}.")}
    return convert(own, list(rules), target)


def controls() -> list[np.ndarray]:
    """One array per skip connection of the encoder on 16x24 latents, and one for the middle block."""
    rates, widths = [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8], UNET_WIDTHS
    channels = [widths[0]] * 4 + [widths[1]] * 3 + [widths[2]] * 3 + [widths[3]] * 3
    return [random(2, 16 // rate, 24 // rate, width) for rate, width in zip(rates, channels)]


@pytest.mark.parametrize("controlled", [False, True])
def test_unet(unet: UNet2DConditionModel, state: dict[str, Any], controlled: bool) -> None:
    params = converted(state, "unet", unet_rules(UNET), abstract_unet(UNET))
    x, context, t = random(2, 16, 24, 4), random(2, 77, 64), np.array([981, 3], np.int32)
    control = controls() if controlled else None
    added = [nchw(y) for y in control] if control else [None]
    with torch.inference_mode():
        wanted = unet(
            nchw(x),
            torch.from_numpy(t),
            torch.from_numpy(context),
            down_block_additional_residuals=tuple(added[:-1]) or None,
            mid_block_additional_residual=added[-1],
        ).sample
    assert_equal(jax.jit(UNet(UNET).apply)({"params": params}, x, t, context, control), wanted)


def test_vae_encoder(vae: PeerVAE, state: dict[str, Any]) -> None:
    params = converted(state, "vae", vae_rules(VAE), abstract_vae(VAE))
    pixels = 2 * image(64, 48) - 1
    with torch.inference_mode():
        wanted = vae.encode(nchw(pixels)).latent_dist
    encode = jax.jit(lambda params, x: AutoencoderKL(VAE).apply({"params": params}, x, method="encode"))
    mean, logvar = encode(params, pixels)
    assert_equal(mean, wanted.mean)
    assert_equal(jnp.clip(logvar, -30, 20), wanted.logvar)


def test_vae_decoder(vae: PeerVAE, state: dict[str, Any]) -> None:
    params = converted(state, "vae", vae_rules(VAE), abstract_vae(VAE))
    z = random(2, 8, 6, 4)
    with torch.inference_mode():
        wanted = vae.decode(nchw(z)).sample
    decode = jax.jit(lambda params, z: AutoencoderKL(VAE).apply({"params": params}, z, method="decode"))
    assert_equal(decode(params, z), wanted)


def test_text_encoder(text: transformers.CLIPTextModel, state: dict[str, Any]) -> None:
    params = converted(state, "text_encoder", clip_rules(CLIP), abstract_clip(CLIP))
    tokens = np.random.default_rng(0).integers(0, CLIP.vocab, (2, CLIP.tokens))
    with torch.inference_mode():
        wanted = text(torch.from_numpy(tokens)).last_hidden_state
    assert_equal(jax.jit(CLIPText(CLIP).apply)({"params": params}, jnp.asarray(tokens, jnp.int32)), wanted)
