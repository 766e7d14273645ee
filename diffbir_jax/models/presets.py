"""Named presets: one table with every size of every network and the files of its weights."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.canvas import Padding
from diffbir_jax.models import one_step
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPText, CLIPTextConfig
from diffbir_jax.models.controlnet import ConditionEncoder, IRControlNet
from diffbir_jax.models.degradation_estimator import DegradationEstimator
from diffbir_jax.models.header import describe
from diffbir_jax.models.modulation import Modulation
from diffbir_jax.models.one_step import OneStep
from diffbir_jax.models.restoration_families import (
    RESTORATION_FAMILIES,
    RestorationConfig,
    describe_restoration,
    family_of,
)
from diffbir_jax.models.restoration_unet import RestorationUNetConfig
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNet, UNetConfig
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig

Task = Literal["sr", "face", "denoise"]
TASKS: tuple[Task, ...] = get_args(Task)
# With that of whole photos, whose faces are restored (`faces/`).
AnyTask = Task | Literal["faces"]


class Files(NamedTuple):
    """Stems of the files that hold a preset's weights, `<stem>.safetensors` each.

    `condition` exists only beside controls that were trained with an encoder of the condition (`ConditionEncoder`), the
    last three only for some published one-step restorers (`OneStep.modules`).
    """

    rm: str = "rm"
    vae: str = "vae"
    unet: str = "unet"
    control: str = "control"
    text: str = "text"
    condition: str = "condition"
    lora: str = "lora"
    modulation: str = "modulation"
    degradation: str = "degradation"


@dataclass(frozen=True)
class Preset:
    """Sizes of the networks that make up one DiffBIR.

    Attributes:
        name: key in `PRESETS`.
        rm: configuration of the restoration module; its type selects the network. None: no module, stage 1 only
            resizes.
        vae: configuration of the autoencoder.
        unet: configuration of the diffusion prior and of its IRControlNet; with a `context_dim`, they read text.
        text: configuration of the text encoder; None: text embeddings come from the caller, or there is no text.
        files: names of the weights files.
        parameterization: the prior's prediction, "eps" or "v".
        zero_terminal_snr: whether the last timestep is pure noise.
        min_side: images are enlarged until their shorter side has this many pixels in stage 1.
        multiple: sides of stage-1 images are padded to multiples of this many pixels before stage 2.
        tile: images with longer sides are restored in tiles of this many pixels (a multiple of 64) by default.
        padding: "edge" (repeat the border) or "constant" (zeros, as the reference); of published one-step restorers
            "grey" or "reflect".
        colour_levels: wavelet levels of the colour correction. Structure larger than about 2^levels pixels comes from
            stage 1 (5 as in the reference; 2 leaves a small generator only the detail that x4 downsampling destroys; 0:
            no correction).
        scales: the least and the largest upscale that the networks were trained for. Beyond them, images pass through
            the stages at the nearest one and the result is resized. None: any upscale, as in the reference.
        reduced_from: from this upscale on, images pass through the stages at the end of `scales` and the result is
            reduced; infinite: never.
        all_detail_from: from this upscale on, results have all of stage 2's detail by default, see `detail`. 1: at any
            upscale, as in the reference.
        detail_gain: factor on the detail that stage 2 adds to stage 1. Pixel losses let a generator of one step add too
            little; 1: as it comes, as in the reference.
        texture_noise: how many times as strong as in the flattest parts of an image what stage 1 removed must be, to
            count as texture, see `restoration/texture.py`.
        meant_from: below this upscale the preset makes images worse, and a run warns; 0: never.
        stage1_only: there is no stage 2; `vae` and `unet` then have no meaning.
        one_step: how a published one-step restorer works, which has no stage 1 and no IRControlNet; None: as DiffBIR.
    """

    name: str
    rm: RestorationConfig | None
    vae: VAEConfig
    unet: UNetConfig
    text: CLIPTextConfig | None = None
    files: Files = Files()
    parameterization: Literal["eps", "v"] = "eps"
    zero_terminal_snr: bool = False
    min_side: int = 512
    multiple: int = 64
    tile: int = 1024
    padding: Padding = "constant"
    colour_levels: int = 5
    scales: tuple[float, float] | None = None
    reduced_from: float = math.inf
    all_detail_from: float = 1.0
    detail_gain: float = 1.0
    texture_noise: float = 30.0
    meant_from: float = 0.0
    stage1_only: bool = False
    one_step: OneStep | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the preset's networks: keys of the parameters and of `files`."""
        if self.stage1_only:
            return () if self.rm is None else ("rm",)
        if self.one_step is not None:
            return ("vae", "unet", *(("text",) if self.text else ()), *self.one_step.modules)
        # The condition's encoder belongs to a control's file, not to the preset.
        absent = {name for name in ("rm", "text") if getattr(self, name) is None} | {"condition"}
        return tuple(name for name in Files._fields[:6] if name not in absent)

    def works_at(self, upscale: float) -> float:
        """The upscale of both stages for results at an upscale (above 0): not beyond `scales`, see `reduced_from`."""
        if self.scales is None:
            return upscale
        least, most = self.scales
        return most if upscale >= min(self.reduced_from, most) else max(upscale, least)

    def detail(self, upscale: float) -> float:
        """The default share of stage 2's detail in results at an upscale (above 0), in [0, 1].

        It rises with the square root of what the upscale adds. An image that is only noisy still has its detail, and
        stage 1 keeps it. A reduced image has lost its detail. Below `reduced_from` stage 1 is alone.
        """
        # The formula below would divide by 0.
        if self.all_detail_from <= 1.0:
            return 1.0
        if upscale < self.reduced_from < math.inf:
            return 0.0
        return math.sqrt(min(1.0, max(0.0, (upscale - 1.0) / (self.all_detail_from - 1.0))))

    def header(self, module: str) -> dict[str, str]:
        """Return the header entries of a weights file for one of `modules`, so that any file name can be recognised.

        Restoration modules and IRControlNets are files that users move; other networks have no entries.
        """
        if module == "rm" and self.rm is not None:
            return describe_restoration(self.rm)
        if module == "control":
            return describe("control", self.unet) | {"hint_channels": str(self.vae.embed_dim)}
        return {}

    def make_rm(self, dtype: DTypeLike = jnp.float32) -> nn.Module:
        """Return the restoration module, computing in `dtype`.

        Raises:
            ValueError: there is none.
        """
        if self.rm is None:
            raise ValueError(f"preset {self.name} has no restoration module")
        return RESTORATION_FAMILIES[family_of(self.rm)].module(self.rm, dtype)

    def make_vae(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> AutoencoderKL:
        """Return the autoencoder; `remat` recomputes its blocks in the backward pass."""
        return AutoencoderKL(self.vae, dtype, remat)

    def make_unet(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> UNet:
        """Return the diffusion prior; `remat` recomputes its blocks in the backward pass."""
        return UNet(self.unet, dtype, remat)

    def make_control(self, dtype: DTypeLike = jnp.float32, remat: bool = False) -> IRControlNet:
        """Return the IRControlNet, conditioned on the latent of the stage-1 image; `remat` as for the prior."""
        return IRControlNet(self.unet, self.vae.embed_dim, dtype, remat)

    def make_condition(self, dtype: DTypeLike = jnp.float32) -> ConditionEncoder:
        """Return the small encoder of the stage-1 image that can replace the autoencoder's encoder."""
        return ConditionEncoder(self.vae.embed_dim, self.vae.downsample, dtype)

    def make_modulation(self, dtype: DTypeLike = jnp.float32) -> Modulation:
        """Return what changes the LoRAs of a one-step restorer by the degradation; it always computes in float32.

        Raises:
            ValueError: there is nothing of the kind.
        """
        if self.one_step is None or self.one_step.modulation is None:
            raise ValueError(f"preset {self.name} has no modulation")
        return Modulation(self.one_step.modulation)

    def make_degradation(self, dtype: DTypeLike = jnp.float32) -> DegradationEstimator:
        """Return the estimator of the degradation that belongs to `make_modulation`; errors as there."""
        self.make_modulation()
        assert self.one_step is not None
        return DegradationEstimator(self.one_step.estimator, dtype)

    def make_text(self, dtype: DTypeLike = jnp.float32) -> CLIPText:
        """Return the text encoder.

        Raises:
            ValueError: there is none.
        """
        if self.text is None:
            raise ValueError(f"preset {self.name} has no text encoder")
        return CLIPText(self.text, dtype)


TINY = Preset(
    name="tiny",
    rm=RestorationUNetConfig(channels=(64, 160), blocks=(2, 4, 3)),
    vae=VAEConfig(
        ch=96,
        ch_mult=(1, 1),
        num_res_blocks=1,
        z_channels=16,
        embed_dim=16,
        scale_factor=1.0,
        patch_size=4,
        # The cost of attention grows with the square of the pixels: too slow on CPUs.
        mid_attention=False,
        shortcut=True,
    ),
    unet=UNetConfig(
        in_channels=16,
        out_channels=16,
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(),
        num_head_channels=32,
        context_dim=None,
    ),
    parameterization="v",
    zero_terminal_snr=True,
    min_side=64,
    multiple=16,
    tile=512,
    padding="edge",
    colour_levels=2,
    meant_from=3.0,
)

# One evaluation of the UNet. Its latents are twice as fine as those of `tiny`, and no layer is normalised over the
# whole image. Both stages were trained for scales 1 to 4.
ONE_STEP = replace(
    TINY,
    name="one-step",
    rm=RestorationUNetConfig(unshuffle=2, channels=(48, 96, 128), blocks=(1, 2, 4, 2, 1)),
    vae=replace(
        TINY.vae,
        ch=16,
        ch_mult=(1, 4),
        z_channels=32,
        embed_dim=32,
        patch_size=2,
        norm="layer",
        dense_blocks=4,
    ),
    unet=replace(
        TINY.unet, in_channels=32, out_channels=32, model_channels=32, channel_mult=(1, 2, 2), norm="layer"
    ),
    parameterization="eps",
    zero_terminal_snr=False,
    meant_from=0.0,
    scales=(1.0, 4.0),
    reduced_from=1.5,
    all_detail_from=4.0,
    colour_levels=4,
    detail_gain=1.1,
    texture_noise=2.0,
)

# DiffBIR as published, with the reference's choice of files: SwinIR, BSRNet or SCUNet before Stable Diffusion 2.1 base.
# v2.1 replaces the latter by a fine-tune to v and zero terminal SNR.
V1 = Preset(
    name="v1",
    rm=SwinIRConfig(),
    vae=VAEConfig(),
    unet=UNetConfig(),
    text=CLIPTextConfig(),
    files=Files(rm="swinir_general", control="control_general"),
)
V2 = replace(V1, name="v2", rm=BSRNetConfig(), files=Files(rm="bsrnet", control="control_v2"))
V2_1 = replace(
    V1,
    name="v2.1",
    files=Files("swinir_realesrgan", "vae_zsnr", "unet_zsnr", "control_v2.1", "text_zsnr"),
    parameterization="v",
    zero_terminal_snr=True,
)

# Real-ESRGAN x4plus (Wang et al. 2021), an RRDBNet like BSRNet, by itself.
REALESRGAN = replace(
    V2,
    name="realesrgan",
    text=None,
    files=Files(rm="realesrgan-x4plus"),
    min_side=1,
    padding="edge",
    scales=(4.0, 4.0),
    stage1_only=True,
)

# One-step restorers by others on the same Stable Diffusion: their own UNets, some with files beside them.
_ONE_STEP = replace(V2, rm=None, multiple=8, tile=768)
HYPIR = replace(
    _ONE_STEP, name="hypir", files=Files(unet="unet_hypir"), tile=512, padding="grey", one_step=one_step.HYPIR
)
OSEDIFF, OSEDIFF_FACE = (
    replace(
        _ONE_STEP, name=name, files=Files(unet=f"unet_{name}", vae=f"vae_{name}"), one_step=one_step.OSEDIFF
    )
    for name in ("osediff", "osediff-face")
)
_FILES = Files(unet="unet_pisa-sr", lora="lora_pisa-sr")
PISA_SR = replace(_ONE_STEP, name="pisa-sr", files=_FILES, one_step=one_step.PISA_SR)
_FILES = Files(unet="unet_s3diff", vae="vae_turbo", text="text_turbo", lora="lora_s3diff")
S3DIFF = replace(
    _ONE_STEP,
    name="s3diff",
    files=_FILES._replace(modulation="modulation_s3diff"),
    multiple=64,
    padding="reflect",
    min_side=1,
    one_step=one_step.S3DIFF,
)

PRESETS = {
    preset.name: preset
    for preset in (
        *(TINY, ONE_STEP, V1, V2, V2_1, REALESRGAN),
        *(HYPIR, OSEDIFF, OSEDIFF_FACE, PISA_SR, S3DIFF),
    )
}
# Presets for tasks that differ from the entry in `PRESETS`.
VARIANTS: dict[tuple[str, Task], Preset] = {
    ("v1", "face"): replace(V1, files=Files(rm="swinir_face", control="control_face")),
    ("v2", "face"): replace(V2, rm=SwinIRConfig(), files=V2.files._replace(rm="swinir_face")),
    ("v2", "denoise"): replace(V2, rm=SCUNetConfig(), files=V2.files._replace(rm="scunet")),
    ("v2.1", "face"): replace(V2_1, files=V2_1.files._replace(rm="swinir_face")),
}


def get_preset(name: str, task: Task = "sr") -> Preset:
    """Return a preset by name, for a task.

    Raises:
        ValueError: there is no preset with that name, or no such task.
    """
    if name not in PRESETS:
        raise UserError(f"version {name!r} given, allowed are {', '.join(PRESETS)}")
    if task not in TASKS:
        raise UserError(f"task {task!r} given, allowed are {', '.join(TASKS)}")
    # A task without a variant uses the preset as it is.
    return VARIANTS.get((name, task), PRESETS[name])


def with_stage2() -> list[str]:
    """Return the names of the presets that have both stages."""
    return [name for name, preset in PRESETS.items() if not preset.stage1_only]
