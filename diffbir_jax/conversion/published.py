"""The published one-step restorers: what their files hold, and which files of ours they become.

All of them change Stable Diffusion 2.1 (S3Diff: SD-Turbo), so they are converted together with that base.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffbir_jax.conversion.engine import raise_all
from diffbir_jax.conversion.lora import Adapter, is_lora
from diffbir_jax.conversion.stored import Shaped
from diffbir_jax.models.lora import DEFAULT_ALPHA

TURBO = {"unet": "unet_turbo", "vae": "vae_turbo", "text": "text_turbo"}
# Which file of a method a name without suffix is, where its keys are those of another one.
FACES = {"osediff_face": "osediff-face"}


@dataclass(frozen=True)
class Method:
    """A published one-step restorer, or a LoRA of any other origin.

    Attributes:
        version: its name for `--version`, and the end of the names of its files.
        title: its usual name.
        mark: regular expression of a whole key that only this method has.
        layers: (network, regular expression of adapters) -> how many layers they change together; other numbers are
            an incomplete file. Empty: any.
        alpha: of its LoRAs; None: equal to the rank.
        kept: regular expression of the adapters that stay factors.
        trained: layer of the UNet in the file -> the layer that it replaces.
        modulated: whether S3Diff's modulation lies beside the LoRAs.
        base: stems of the base's files.
    """

    version: str
    title: str
    mark: str
    layers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    alpha: float | None = DEFAULT_ALPHA
    kept: str = "(?!)"
    trained: Mapping[str, str] = field(default_factory=dict)
    modulated: bool = False
    base: Mapping[str, str] = field(default_factory=lambda: {name: name for name in ("unet", "vae", "text")})

    def keeps(self, adapter: Adapter) -> bool:
        """Whether an adapter stays factors."""
        return re.fullmatch(self.kept, adapter.name) is not None

    def check(self, adapters: list[Adapter]) -> None:
        """Raise ConversionError unless the adapters change as many layers as published."""
        problems = []
        for (network, name), wanted in self.layers.items():
            found = [a for a in adapters if a.network == network and re.fullmatch(name, a.name)]
            if (count := sum(len(adapter.layers) for adapter in found)) != wanted:
                problems.append(f"{count} layers of {network} have an adapter {name}, {wanted} are published")
        raise_all(f"the file is not all of {self.title}", problems)


S3DIFF = Method(
    "s3diff",
    "S3Diff",
    r"state_embeddings\.state_dict_unet_block\.weight",
    {("unet", "default"): 257, ("vae", "vae_skip"): 31},
    kept=".*",
    trained={"state_dict_unet.conv_in": "conv_in"},
    modulated=True,
    base=TURBO,
)
PISA_SR = Method(
    "pisa-sr",
    "PiSA-SR",
    r".*\.lora_[AB]\.default_\w+_pix\.weight",
    {("unet", r"default_\w+_pix"): 258, ("unet", r"default_\w+_sem"): 258},
    kept=r".*_sem",
)
OSEDIFF = Method(
    "osediff",
    "OSEDiff",
    r"state_dict_vae\..*\.lora_[AB]\.default_encoder\.weight",
    {("unet", r"default_\w+"): 258, ("vae", "default_encoder"): 32},
    trained={"state_dict_unet.conv_in.base_layer": "conv_in"},
)
# Its keys are those of any LoRA of PEFT, so all of them must be there, and nothing else.
HYPIR = Method(
    "hypir",
    "HYPIR",
    r"(?!state_dict_|conv_in).*\.lora_[AB]\.default\.weight",
    {("unet", "default"): 257},
    None,
)
METHODS = (S3DIFF, PISA_SR, OSEDIFF)


def method_of(state: Mapping[str, Shaped]) -> Method | None:
    """Return what a file holds: a published method, a LoRA, or nothing of the kind."""
    for method in METHODS:
        if any(re.fullmatch(method.mark, key) for key in state):
            return method
    wanted = 2 * sum(HYPIR.layers.values())
    if len(state) == wanted and all(re.fullmatch(HYPIR.mark, key) for key in state):
        return HYPIR
    return Method("lora", "LoRA", "") if state and all(map(is_lora, state)) else None
