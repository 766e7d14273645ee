"""What `--lora FILE[:SCALE]` names. Nothing here imports JAX."""

import math
from dataclasses import dataclass
from pathlib import Path

from diffbir_jax.console.errors import UserError


@dataclass(frozen=True)
class Lora:
    """A LoRA file to merge into the networks.

    Attributes:
        path: the file.
        scale: factor on what it adds: 1 as it was trained, 0 nothing, below 0 the contrary.

    Raises:
        UserError: the scale is no finite number.
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f"the scale of {self.path} is {self.scale}; give a finite number, such as 0.8")


def lora_of(given: "str | Path | Lora") -> Lora:
    """Return a LoRA from "FILE" or "FILE:SCALE", from a path, or as it is.

    >>> lora_of("snow.safetensors:0.5").scale
    0.5
    """
    if isinstance(given, Lora):
        return given
    if isinstance(given, Path):
        return Lora(given.expanduser())
    name, colon, scale = given.rpartition(":")
    # A colon may belong to the name: only a number behind it is a scale.
    try:
        return (
            Lora(Path(name).expanduser(), float(scale)) if colon and name else Lora(Path(given).expanduser())
        )
    except UserError:
        raise
    except ValueError:
        return Lora(Path(given).expanduser())
