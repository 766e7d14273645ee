"""Key tables of the small networks beside published one-step restorers: S3Diff's estimator and modulation, InvSR's."""

import jax
import jax.numpy as jnp

from diffbir_jax.conversion.architectures import Architecture
from diffbir_jax.conversion.engine import Params, Rule
from diffbir_jax.conversion.rules import Rules, conv, dense, norm
from diffbir_jax.conversion.shapes import Shapes
from diffbir_jax.models.apply import abstract
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from diffbir_jax.models.modulation import Modulation, ModulationConfig
from diffbir_jax.models.noise_predictor import NoisePredictor, NoisePredictorConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig


def estimator_rules(config: DegradationEstimatorConfig) -> Rules:
    """`DegradationEstimator` as in S3Diff's de_net.pth."""
    for tower in range(config.degrees):
        path, number = f"tower_{tower}", 0
        yield from conv(f"conv_first.{tower}", f"{path}/conv_in")
        for stage in range(len(config.widths)):
            for i in range(config.blocks):
                for part in ("conv1", "conv2"):
                    yield from conv(f"body.{tower}.{number}.{part}", f"{path}/stage_{stage}_block_{i}_{part}")
                number += 1
            if config.changes(stage):
                yield from conv(f"body.{tower}.{number}", f"{path}/stage_{stage}_change")
                number += 1
        yield from dense(f"fc_degree.{tower}.0", f"{path}/dense_1")
        yield from dense(f"fc_degree.{tower}.2", f"{path}/dense_2")


def modulation_rules(config: ModulationConfig) -> Rules:
    """`Modulation` as in S3Diff's s3diff.pkl."""
    yield Rule("w", "frequencies/w")
    for name in ("unet", "vae"):
        yield Rule(f"state_embeddings.state_dict_{name}_block.weight", f"{name}/embedding")
        yield from dense(f"state_dict_{name}_de_mlp.0", f"{name}/image")
        yield from dense(f"state_dict_{name}_block_mlp.0", f"{name}/part")
        yield from dense(f"state_dict_{name}_fuse_mlp", f"{name}/out")


def predictor_rules(config: NoisePredictorConfig) -> Rules:
    """`NoisePredictor` as in InvSR's noise_predictor_sd_turbo_v5.pth."""
    for i in (1, 2):
        yield from dense(f"encoder.time_embedding.linear_{i}", f"time_{i}")
    yield from conv("encoder.conv_in", "conv_in")
    for level, width in enumerate(config.widths):
        block, before = f"encoder.down_blocks.{level}", config.widths[max(level - 1, 0)]
        for i in range(config.layers):
            widens = i == 0 and before != width
            yield from _block(f"{block}.resnets.{i}", f"down_{level}_block_{i}", widens)
            yield from _attention(f"{block}.attentions.{i}", f"down_{level}_attention_{i}")
        if level + 1 < len(config.widths):
            yield from conv(f"{block}.downsamplers.0.conv", f"down_{level}_downsample")
    for i in range(2):
        yield from _block(f"encoder.mid_block.resnets.{i}", f"mid_block_{i}", False)
    yield from _attention("encoder.mid_block.attentions.0", "mid_attention")
    yield from norm("encoder.conv_norm_out", "norm_out")
    yield from conv("encoder.conv_out", "conv_out")


def _block(key: str, path: str, shortcut: bool) -> Rules:
    for i in (1, 2):
        yield from norm(f"{key}.norm{i}", f"{path}/norm{i}")
        yield from conv(f"{key}.conv{i}", f"{path}/conv{i}")
    yield from dense(f"{key}.time_emb_proj", f"{path}/time")
    if shortcut:
        yield from conv(f"{key}.conv_shortcut", f"{path}/shortcut")


def _attention(key: str, path: str) -> Rules:
    yield from norm(f"{key}.group_norm", f"{path}/norm")
    for name in "qkv":
        yield from dense(f"{key}.to_{name}", f"{path}/{name}")
    yield from dense(f"{key}.to_out.0", f"{path}/out")


def abstract_estimator(config: DegradationEstimatorConfig) -> Params:
    """Shapes of `DegradationEstimator`'s parameters."""
    return abstract(DegradationEstimator(config), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))


def abstract_modulation(config: ModulationConfig) -> Params:
    """Shapes of `Modulation`'s parameters."""
    return abstract(Modulation(config), jax.ShapeDtypeStruct((1, config.degrees), jnp.float32))


def abstract_predictor(config: NoisePredictorConfig) -> Params:
    """Shapes of `NoisePredictor`'s parameters."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return abstract(NoisePredictor(config), image, jax.ShapeDtypeStruct((1,), jnp.int32))


def estimator_sizes(shapes: Shapes) -> DegradationEstimatorConfig:
    """Sizes of the estimator; a stage that changes the width is the third, as in the published network."""
    usual = DegradationEstimatorConfig()
    narrow = shapes.size("conv_first.0.weight", 0, usual.widths[0])
    wide = shapes.size("fc_degree.0.0.weight", 1, usual.widths[-1])
    last = shapes.count(r"body\.0\.(\d+)\.", 4 * usual.blocks + 1)
    hidden = shapes.size("fc_degree.0.0.weight", 0, usual.hidden)
    return DegradationEstimatorConfig((narrow,) * 3 + (wide,), max(1, (last - 1) // 4), usual.strides, hidden)


def modulation_sizes(shapes: Shapes) -> ModulationConfig:
    """Sizes of the modulation."""
    usual = ModulationConfig()

    def rank(name: str, default: int) -> int:
        return round(shapes.size(f"state_dict_{name}_fuse_mlp.bias", 0, default**2) ** 0.5)

    return ModulationConfig(rank("unet", usual.unet_rank), rank("vae", usual.vae_rank))


def predictor_sizes(shapes: Shapes) -> NoisePredictorConfig:
    """Sizes of the noise predictor; the number of channels per head is not in the file."""
    usual = NoisePredictorConfig()
    first = shapes.size("encoder.conv_in.weight", 0, usual.widths[0])
    second = shapes.size("encoder.conv_out.weight", 1, usual.widths[1])
    layers = shapes.count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.", usual.layers)
    time = shapes.size("encoder.time_embedding.linear_1.weight", 0, usual.time_dim)
    wave = shapes.size("encoder.time_embedding.linear_1.weight", 1, usual.wave_dim)
    return NoisePredictorConfig((first, second), layers, min(usual.head_dim, first // 2), time, wave)


ESTIMATOR = Architecture(
    "degradation_estimator", DegradationEstimatorConfig, estimator_sizes, estimator_rules, abstract_estimator
)
MODULATION = Architecture(
    "modulation", ModulationConfig, modulation_sizes, modulation_rules, abstract_modulation
)
PREDICTOR = Architecture(
    "noise_predictor", NoisePredictorConfig, predictor_sizes, predictor_rules, abstract_predictor
)
# Sizes of the networks that LoRAs change.
SIZES = {"unet": UNetConfig, "control": UNetConfig, "vae": VAEConfig, "text": CLIPTextConfig}
