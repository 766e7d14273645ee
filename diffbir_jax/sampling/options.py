"""What a user chooses about sampling."""

from dataclasses import dataclass
from typing import Literal, get_args

from diffbir_jax.sampling.guidance import Loss, Space
from diffbir_jax.sampling.samplers import find_sampler

TIMESTEPS = 1000
MAX_SEED = 2**32 - 1
# Sides of diffusion tiles are multiples of what the UNet halves in pixels, their offsets of one latent.
TILE_MULTIPLE, STRIDE_MULTIPLE = 64, 8
StartPoint = Literal["noise", "cond"]


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
        sampler: a name in `samplers.SAMPLERS`.
        start_point: what sampling with `start` 1 begins with: "noise", or "cond", the stage-1 latent noised to the
            last timestep.
        eta: share of fresh noise in each step (0 to 1) of the samplers that have one; None is the sampler's own.
        rescale_cfg: let the classifier-free guidance scale rise from 1 to 1 + cfg_scale on the way.
        pos_prompt: text to sample towards.
        neg_prompt: text to sample away from.
        tile: side of the diffusion tiles in pixels (a multiple of 64); None samples the image as a whole.
        tile_stride: offset from tile to tile in pixels (a multiple of 8, at most `tile`); None is half a tile.
    """

    steps: int = 50
    start: float = 1.0
    guidance_scale: float = 0.0
    guidance_loss: Loss = "w_mse"
    guidance_space: Space = "rgb"
    strength: float = 1.0
    cfg_scale: float = 1.0
    seed: int = 0
    sampler: str = "spaced"
    start_point: StartPoint = "noise"
    eta: float | None = None
    rescale_cfg: bool = False
    pos_prompt: str = ""
    neg_prompt: str = ""
    tile: int | None = None
    tile_stride: int | None = None

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
        if self.start_point not in get_args(StartPoint):
            raise ValueError(f"start_point is {self.start_point!r}; use one of {get_args(StartPoint)}")
        find_sampler(self.sampler, self.eta)
        self._check_tiles()

    @property
    def timesteps(self) -> int:
        """How many of the schedule's timesteps sampling covers, the cleanest ones (1 to 1000)."""
        return max(1, round(self.start * TIMESTEPS))

    @property
    def tiling(self) -> tuple[int, int] | None:
        """Side and stride of the diffusion tiles in pixels; None without tiles."""
        if self.tile is None:
            return None
        return self.tile, self.tile // 2 if self.tile_stride is None else self.tile_stride

    def _check_tiles(self) -> None:
        if self.tiling is None:
            if self.tile_stride is not None:
                raise ValueError(f"tile_stride is {self.tile_stride} without tiles; give `tile` as well")
            return
        tile, stride = self.tiling
        if tile < TILE_MULTIPLE or tile % TILE_MULTIPLE:
            raise ValueError(f"tile is {tile}; allowed are multiples of {TILE_MULTIPLE} pixels")
        if not 0 < stride <= tile or stride % STRIDE_MULTIPLE:
            raise ValueError(
                f"tile_stride is {stride}; allowed are multiples of {STRIDE_MULTIPLE} pixels up to the tile's {tile}"
            )
