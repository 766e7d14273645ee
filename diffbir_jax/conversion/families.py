"""The kinds of checkpoints: one table of families, each recognised by a key that no other family has."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion import diffusers
from diffbir_jax.conversion.architectures import (
    BSRNET,
    CONTROL,
    OLD_ESRGAN,
    REALESRGAN,
    SCUNET,
    SRVGG,
    SWINIR,
    TEXT,
    UNET,
    VAE,
    Architecture,
    vae_sizes,
)
from diffbir_jax.conversion.features import CONVNEXT, DINO_VIT
from diffbir_jax.conversion.lora import is_lora
from diffbir_jax.conversion.one_step import ESTIMATOR, PREDICTOR
from diffbir_jax.conversion.stored import CheckpointError

# Schedule tables and averaged copies that training leaves in a Stable Diffusion file. The file of v1 also has a copy of
# the VAE's encoder for the condition.
TRAINING_REST = (
    r"betas|logvar|lvlb_weights|posterior_\w+|(\w+_)?alphas_cumprod(_prev)?",
    r"(model_ema|cond_encoder)\..*",
)


@dataclass(frozen=True)
class Network:
    """One network inside a checkpoint: the name of its file without suffix, and the prefix of its keys."""

    stem: str
    prefix: str
    architecture: Architecture


@dataclass(frozen=True)
class Family:
    """A layout of checkpoints.

    Attributes:
        title: its usual name.
        mark: regular expression of a whole key that only this family has.
        networks: the networks in it.
        ignore: regular expressions of whole keys that hold no weights.
        also: regular expression of a second key that it must have.
    """

    title: str
    mark: str
    networks: tuple[Network, ...]
    ignore: tuple[str, ...] = ()
    also: str = ""

    def stems(self, name: str | None, published: tuple[str, ...] = ()) -> list[str]:
        """Names of the files to write.

        Args:
            name: the user's choice: the name of a single network, or a part of the names of several.
            published: the names for a published file, if it is one.
        """
        stems = [network.stem for network in self.networks]
        if name:
            return [name] if len(stems) == 1 else [f"{stem}_{name}" for stem in stems]
        # Published names start with the network's name, such as unet and unet_zsnr.
        return [next((s for s in published if s.startswith(stem)), stem) for stem in stems]


STABLE_DIFFUSION = (
    Network("unet", "model.diffusion_model.", UNET),
    Network("vae", "first_stage_model.", VAE),
    Network("text", "cond_stage_model.", TEXT),
)
DIFFUSERS = (
    Network("unet", "unet.", replace(UNET, sizes=diffusers.unet_sizes, rules=diffusers.unet_rules)),
    Network("vae", "vae.", replace(VAE, sizes=vae_sizes, rules=diffusers.vae_rules)),
    Network(
        "text",
        "text_encoder.",
        replace(
            TEXT,
            sizes=diffusers.clip_sizes,
            rules=diffusers.clip_rules,
            ignore=lambda config: (r"text_model\.embeddings\.position_ids", r"text_projection\.weight"),
        ),
    ),
)

# The first family whose mark is found is used.
FAMILIES = (
    Family(
        "DiffBIR v1, all in one",
        r"(preprocess_model|cond_encoder)\..*",
        (
            *STABLE_DIFFUSION,
            Network("control", "control_model.", CONTROL),
            Network("swinir", "preprocess_model.", SWINIR),
        ),
        TRAINING_REST,
        r"model\.diffusion_model\..*",
    ),
    Family("Stable Diffusion 2.1", r"model\.diffusion_model\..*", STABLE_DIFFUSION, TRAINING_REST),
    Family("Stable Diffusion 2.1, diffusers", r"unet\.(down|up)_blocks\..*", DIFFUSERS),
    Family("IRControlNet", r"zero_convs\..*", (Network("control", "", CONTROL),)),
    Family("SwinIR", r"layers\.\d+\.residual_group\..*", (Network("swinir", "", SWINIR),)),
    Family("BSRNet", r"RRDB_trunk\..*", (Network("bsrnet", "", BSRNET),)),
    Family("Real-ESRGAN", r"body\.\d+\.rdb\d\..*", (Network("realesrgan", "", REALESRGAN),)),
    Family("ESRGAN, old layout", r"model\.1\.sub\.\d+\.RDB\d\..*", (Network("esrgan", "", OLD_ESRGAN),)),
    Family(
        "SRVGG", r"body\.0\.(weight|bias)", (Network("srvgg", "", SRVGG),), also=r"body\.[1-9]\d*\.weight"
    ),
    Family("S3Diff's degradation estimator", r"fc_degree\..*", (Network("degradation", "", ESTIMATOR),)),
    Family(
        "InvSR's noise predictor",
        r"encoder\.time_embedding\..*",
        (Network("noise_predictor", "", PREDICTOR),),
    ),
    Family("SCUNet", r"m_(head|body|tail)\..*", (Network("scunet", "", SCUNET),)),
    Family(
        "CLIP's ConvNeXt",
        r"trunk\.stages\.\d+\.blocks\.\d+\.conv_dw\.weight",
        (Network("convnext", "", CONVNEXT),),
    ),
    Family(
        "DINOv2",
        r"blocks\.\d+\.attn\.qkv\.weight",
        (Network("dino", "", DINO_VIT),),
        also=r"cls_token|pos_embed",
    ),
)


# What people take for Stable Diffusion 2.1: parts of its keys are the same. A key that only they have, and the name.
RELATIVES = {
    r"(.*\.)?conditioner\.embedders\..*|(unet\.)?add_embedding\..*": "Stable Diffusion XL",
    r"(.*\.)?cond_stage_model\.transformer\.text_model\..*": "Stable Diffusion 1",
    r"(.*\.)?joint_blocks\..*": "Stable Diffusion 3",
    r"(.*\.)?double_blocks\..*": "Flux",
}


def check_relatives(keys: Iterable[str]) -> None:
    """Raise CheckpointError for the weights of a model that DiffBIR is not made of: every key would be a problem."""
    keys = list(keys)
    for mark, title in RELATIVES.items():
        if any(re.fullmatch(mark, key) for key in keys):
            raise CheckpointError(
                f"the weights of {title}; DiffBIR is made of Stable Diffusion 2.1: give that file"
            )


def recognise(keys: Iterable[str]) -> Family:
    """The family of a checkpoint.

    Raises:
        CheckpointError: no family fits; the message lists the known ones and some of the keys.
    """
    keys = list(keys)
    for family in FAMILIES:
        marks = [mark for mark in (family.mark, family.also) if mark]
        if all(any(re.fullmatch(mark, key) for key in keys) for mark in marks):
            return family
    raise unknown(keys)


def unknown(keys: Iterable[str]) -> CheckpointError:
    """The error for keys that fit no family: it lists the known ones and some of the keys."""
    keys = list(keys)
    if any(map(is_lora, keys)):
        return CheckpointError(
            "a LoRA or a one-step restorer, which changes another network: give that network as --base"
        )
    known, some = (
        "; ".join(family.title for family in FAMILIES),
        ", ".join(shown(key, 60) for key in sorted(keys)[:5]),
    )
    return CheckpointError(
        f"unknown family of weights; known are: {known}. Some of the {len(keys)} keys: {some}"
    )
