"""What a user chooses about sampling."""

from dataclasses import dataclass

from diffbir_jax.sampling.guidance import Loss, Space

TIMESTEPS = 1000
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Options:
    """How stage 2 samples. New numbers do not recompile, save for `steps` and for turning a scale on or off.

    Attributes:
        steps: sampling steps (1 to 1000 `start`).
        start: share of the noise schedule to begin at: 1 starts from pure noise, less from the stage-1 latent noised
            to that level (0 < start <= 1).
        guidance_scale: s of region-adaptive guidance at 512x512 pixels; larger is more faithful to stage 1, 0 is off.
        guidance_loss: "w_mse" (the reference), "paper" (weight inside the norm) or "mse" (unweighted).
        guidance_space: "rgb" compares decoded images (the paper), "latent" their latents (a fraction of the cost).
        strength: factor on the control tensors (1 as trained).
        cfg_scale: classifier-free guidance scale (1 is off; needs a preset with text).
        seed: of the noise (0 to 2^32 - 1); an image draws the same noise in any company.
    """

    steps: int = 50
    start: float = 1.0
    guidance_scale: float = 0.0
    guidance_loss: Loss = "w_mse"
    guidance_space: Space = "rgb"
    strength: float = 1.0
    cfg_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not 0.0 < self.start <= 1.0:
            raise ValueError(f"start is {self.start}; allowed are shares of the schedule in (0, 1]")
        for name in ("guidance_scale", "strength", "cfg_scale"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are finite numbers of at least 0")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; allowed are 0 to {MAX_SEED}")
        if not 1 <= self.steps <= self.timesteps:
            raise ValueError(
                f"steps is {self.steps}; allowed with start {self.start:g} are 1 to {self.timesteps}"
            )

    @property
    def timesteps(self) -> int:
        """How many of the schedule's timesteps sampling covers, the cleanest ones (1 to 1000)."""
        return max(1, round(self.start * TIMESTEPS))
