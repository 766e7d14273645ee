"""The kinds of restoration modules that a preset or a weights file may name."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn

from diffbir_jax.console.errors import UserError
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.header import describe, revive
from diffbir_jax.models.restoration_unet import RestorationUNet, RestorationUNetConfig
from diffbir_jax.models.scunet import SCUNet, SCUNetConfig
from diffbir_jax.models.srvgg import SRVGG, SRVGGConfig
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig

RestorationConfig = RestorationUNetConfig | SwinIRConfig | BSRNetConfig | SCUNetConfig | SRVGGConfig


class RestorationFamily(NamedTuple):
    """A kind of restoration module.

    Attributes:
        config: dataclass of its sizes, with the properties `multiple` (input sides are multiples of it, in pixels) and
            `scale` (output side / input side).
        module: the network, called as module(config, dtype).
        enlarge_first: whether a small image is enlarged to the preset's `min_side` before the network, as the reference
            does for SwinIR, and not after it.
    """

    config: type
    module: Callable[..., nn.Module]
    enlarge_first: bool


RESTORATION_FAMILIES = {
    "restoration_unet": RestorationFamily(RestorationUNetConfig, RestorationUNet, True),
    "swinir": RestorationFamily(SwinIRConfig, SwinIR, True),
    "bsrnet": RestorationFamily(BSRNetConfig, BSRNet, False),
    "scunet": RestorationFamily(SCUNetConfig, SCUNet, False),
    "srvgg": RestorationFamily(SRVGGConfig, SRVGG, False),
}


def family_of(config: RestorationConfig) -> str:
    """Return the name of a restoration module's family."""
    # `is`, not isinstance: a subclass would be another family.
    return next(name for name, family in RESTORATION_FAMILIES.items() if type(config) is family.config)


def describe_restoration(config: RestorationConfig) -> dict[str, str]:
    """Return the description of a restoration module for its weights file's header: `family` and `config` (JSON)."""
    return describe(family_of(config), config)


def restoration_config(header: Mapping[str, str]) -> RestorationConfig:
    """Return the configuration that `describe_restoration` wrote.

    Raises:
        ValueError: the header names no known family, or sizes that the family does not have.
    """
    family = header.get("family", "")
    if family not in RESTORATION_FAMILIES:
        raise UserError(
            f"family {family!r} given, allowed are {', '.join(RESTORATION_FAMILIES)}; convert the file again with "
            "diffbir convert"
        )
    return revive(RESTORATION_FAMILIES[family].config, header.get("config", ""))
