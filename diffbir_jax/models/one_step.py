"""What published one-step restorers do around Stable Diffusion; docs/published_one_step.md compares them."""

from dataclasses import dataclass
from typing import Literal

from diffbir_jax.models.degradation_estimator import DegradationEstimatorConfig
from diffbir_jax.models.modulation import ModulationConfig

Enlargement = Literal["bicubic", "pillow", "bilinear"]


@dataclass(frozen=True)
class OneStep:
    """A restorer that encodes an image, calls the UNet once at a fixed timestep, and decodes the result.

    Attributes:
        timestep: what the UNet is told.
        coefficient: the timestep whose signal and noise turn the prediction into x0; None: x0 = z - prediction.
        enlarge: how the input is enlarged, see `imaging.preparation`.
        colour: where the colours of the result come from: "wavelet" takes the input's low frequencies, "adain" its mean
            and contrast.
        tile: side of the UNet's tiles in pixels.
        overlap: pixels that they share.
        square: cut only images of more than tile^2 pixels, into squares no longer than their shorter side.
        vae_tile: side of the autoencoder's tiles in pixels.
        vae_overlap: pixels that they share.
        own_norms: whether the autoencoder normalises tiles by their own statistics, not by the image's.
        clip: whether decoded images are clipped before the colour correction.
        sliders: whether a second LoRA, for semantic detail, lies beside the UNet and two sliders weigh both.
        modulation: sizes of what changes the LoRAs by the image's degradation; None: nothing does.
        estimator: sizes of what estimates the degradation.
    """

    timestep: int
    coefficient: int | None
    enlarge: Enlargement
    colour: Literal["wavelet", "adain"]
    tile: int = 768
    overlap: int = 256
    square: bool = True
    vae_tile: int = 1024
    vae_overlap: int = 128
    own_norms: bool = False
    clip: bool = True
    sliders: bool = False
    modulation: ModulationConfig | None = None
    estimator: DegradationEstimatorConfig = DegradationEstimatorConfig()

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the networks beside UNet, autoencoder and text encoder."""
        if self.modulation is not None:
            return ("lora", "modulation", "degradation")
        return ("lora",) if self.sliders else ()


HYPIR = OneStep(
    200,
    200,
    "bicubic",
    "wavelet",
    512,
    square=False,
    vae_tile=512,
    vae_overlap=256,
    own_norms=True,
    clip=False,
)
OSEDIFF = OneStep(999, 999, "pillow", "adain")
PISA_SR = OneStep(1, None, "pillow", "adain", sliders=True)
S3DIFF = OneStep(999, 999, "bilinear", "wavelet", modulation=ModulationConfig())
