"""The user's choices for sampling."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.typed import check_fields
from diffbir_jax.sampling.guidance import Loss, Space
from diffbir_jax.sampling.operators import Spec, parse
from diffbir_jax.sampling.samplers import SETTINGS, check_settings
from diffbir_jax.sampling.timesteps import Spacing

TIMESTEPS = 1000
MAX_SEED = 2**32 - 1
# Sides of diffusion tiles are multiples of the UNet's downsampling in pixels, their offsets multiples of one latent.
TILE_MULTIPLE, STRIDE_MULTIPLE = 64, 8
# Beyond this, sliders only add artefacts.
MOST_SLIDER = 4.0
StartPoint = Literal["noise", "cond", "input"]
Method = Literal["project", "gradient"]
CHOICES = {"start_point": StartPoint, "spacing": Spacing, "operator_method": Method}
# How a known degradation is used; they mean nothing without `operator`.
WITH_OPERATOR = {"operator_method": "project", "operator_scale": 1.0, "operator_repeats": 1}
RANGES = {
    "seed": (0, MAX_SEED),
    "guidance_start": (0, TIMESTEPS),
    "guidance_stop": (0, TIMESTEPS),
    "guidance_repeats": (1, 100),
    "operator_repeats": (1, 100),
    "noise_aug": (0, TIMESTEPS - 1),
    "pixel": (0.0, MOST_SLIDER),
    "semantic": (0.0, MOST_SLIDER),
    "model_t": (0, TIMESTEPS - 1),
    "coeff_t": (0, TIMESTEPS - 1),
}
SHARES = ("start_noise", "detail", "texture")
FINITE = ("guidance_scale", "strength", "cfg_scale", "operator_scale")
# What messages say is allowed.
ALLOWED = {
    "start": "shares of the schedule in (0, 1]",
    **dict.fromkeys(SHARES, "shares from 0 to 1"),
    **dict.fromkeys(FINITE, "finite numbers of at least 0"),
    **{name: f"{low} to {high}" for name, (low, high) in RANGES.items()},
}
# Options of published one-step restorers, and those that mean nothing to them.
ONE_STEP_ONLY = ("pixel", "semantic", "model_t", "coeff_t")
NOT_ONE_STEP = (
    *(
        "steps",
        "start",
        "start_noise",
        "sampler",
        "start_point",
        "spacing",
        "noise_aug",
        "strength",
        "rescale_cfg",
    ),
    *("eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "order"),
)


@dataclass(frozen=True)
class Options:
    """How stage 2 samples. New numbers do not recompile, except for `steps` and for turning a scale on or off.

    Attributes:
        steps: sampling steps (1 to 1000 `start`).
        start: share of the noise schedule at which sampling starts: 1 is pure noise, less is the stage-1 latent noised
            to that level (0 < start <= 1).
        start_noise: share of that level's noise that is added to the stage-1 latent at the start. 1 is diffusion's; use
            less for a generator of one evaluation that was trained with less (0 to 1).
        detail: share of the generator's detail in the result, 0 to 1: 1 is all of it, 0 the stage-1 image. Flat
            regions, where the weight W of guidance is near 1, lose theirs first (`tile_programs.detail_share`). None is
            the preset's share for the upscale, see `Preset.detail`.
        texture: share of the input's fine texture that comes back where stage 1 took it for noise, 0 to 1, times what
            `detail` leaves of 1. See `restoration.texture`.
        guidance_scale: s of region-adaptive guidance at 512x512 pixels; larger is more faithful to stage 1, 0 is off.
        guidance_loss: "w_mse" (the reference), "paper" (weight inside the norm) or "mse" (unweighted).
        guidance_space: "rgb" compares decoded images (the paper), "latent" their latents (a fraction of the cost).
        guidance_start: guide only at timesteps below this one (0 to 1000).
        guidance_stop: guide only at this timestep and above (0 to 1000).
        guidance_repeats: gradient steps per prediction (1 to 100).
        strength: factor on the control tensors (1 as in training).
        cfg_scale: classifier-free guidance scale (1 is off; needs a preset with text).
        seed: of the noise (0 to 2^32 - 1); an image draws the same noise in any batch.
        sampler: a name in `samplers.SAMPLERS`.
        start_point: what is noised to the level where sampling starts. "cond" is the stage-1 latent, "input" that of
            the enlarged input, for generators that were trained to see it. "noise" is pure noise with `start` 1; with
            less it is "cond".
        spacing: how the steps are spread: "uniform" (the reference), "trailing", "karras" or "exponential"; see
            `timesteps.Span`.
        eta: share of fresh noise in each step (0 to 1). This and the next five belong to some samplers only
            (`samplers.settings_of`); None is the sampler's default.
        s_churn: noise added over the whole run, as a multiple of the present noise.
        s_tmin: least noise level at which `s_churn` adds noise.
        s_tmax: largest such level.
        s_noise: factor on all noise except the start's.
        order: slopes that edm_lms uses (1 to 4).
        noise_aug: noise the condition to this timestep (0 to 999). v2.1 was trained with timesteps below 200; 0 adds
            none.
        rescale_cfg: let the classifier-free guidance scale rise from 1 to 1 + cfg_scale during sampling.
        pos_prompt: text to sample towards.
        neg_prompt: text to sample away from.
        pixel: slider of PiSA-SR, how much of the degradation is removed (0 to 4); None is 1. This and the next three
            belong to published one-step restorers.
        semantic: slider of PiSA-SR, how much detail is generated (0 to 4); None is 1.
        model_t: the timestep that the network is told (0 to 999); None is that of its training.
        coeff_t: the timestep whose noise level turns the prediction into the result (0 to 999): more removes and
            generates more; None is that of its training.
        operator: the known degradation of the input, in words that `operators.parse` reads; None: it is not known.
        operator_method: "project" replaces what the operator keeps of each prediction by the input (DDNM), "gradient"
            moves predictions against the gradient of the squared difference.
        operator_scale: factor on the steps of "gradient"; 1 is the best step through a linear decoder.
        operator_repeats: steps of "gradient" per prediction (1 to 100).
        tile: side of the diffusion tiles in pixels (a multiple of 64); None leaves it to the plan.
        tile_stride: offset from tile to tile in pixels (a multiple of 8, at most `tile`); None is half a tile.
    """

    steps: int = 50
    start: float = 1.0
    start_noise: float = 1.0
    detail: float | None = None
    texture: float = 0.0
    guidance_scale: float = 0.0
    guidance_loss: Loss = "w_mse"
    guidance_space: Space = "rgb"
    guidance_start: int = TIMESTEPS
    guidance_stop: int = 0
    guidance_repeats: int = 1
    strength: float = 1.0
    cfg_scale: float = 1.0
    seed: int = 0
    sampler: str = "spaced"
    start_point: StartPoint = "noise"
    spacing: Spacing = "uniform"
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    order: int | None = None
    noise_aug: int = 0
    rescale_cfg: bool = False
    pos_prompt: str = ""
    neg_prompt: str = ""
    pixel: float | None = None
    semantic: float | None = None
    model_t: int | None = None
    coeff_t: int | None = None
    operator: str | None = None
    operator_method: Method = "project"
    operator_scale: float = 1.0
    operator_repeats: int = 1
    tile: int | None = None
    tile_stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse values of other types and outside their ranges."""
        check_fields(self, ALLOWED)
        self._need("start", 0.0 < self.start <= 1.0)
        for name in SHARES:
            self._need(name, getattr(self, name) is None or 0.0 <= getattr(self, name) <= 1.0)
        for name in FINITE:
            self._need(name, 0.0 <= getattr(self, name) < float("inf"))
        if not 1 <= self.steps <= self.timesteps:
            raise UserError(
                f"steps is {self.steps}; allowed with start {self.start:g} are 1 to {self.timesteps}"
            )
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name} is {getattr(self, name)!r}; use one of {get_args(kind)}")
        for name, (low, high) in RANGES.items():
            self._need(name, getattr(self, name) is None or low <= getattr(self, name) <= high)
        # An empty window would turn guidance off without a message.
        if self.guidance_stop >= self.guidance_start:
            raise UserError(
                f"guidance_stop is {self.guidance_stop} and guidance_start {self.guidance_start}: there is no timestep "
                "between; sampling goes from 1000 to 0, so start must be larger"
            )
        # A setting that the sampler ignores would mislead, so it is an error.
        check_settings(self.sampler, self.settings)
        self._check_operator()
        self._check_tiles()

    def record(self) -> dict[str, object]:
        """All fields by name; those of a known degradation only if there is one."""
        record = dataclasses.asdict(self)
        absent = () if self.operator is not None else ("operator", *WITH_OPERATOR)
        return {name: value for name, value in record.items() if name not in absent}

    @property
    def known(self) -> Spec | None:
        """The known degradation."""
        return None if self.operator is None else parse(self.operator)

    def _need(self, name: str, fits: bool) -> None:
        """Raise UserError for a value that does not fit."""
        if not fits:
            raise UserError(f"{name} is {getattr(self, name)}; allowed are {ALLOWED[name]}")

    @property
    def settings(self) -> dict[str, float]:
        """The sampler's own settings that differ from its defaults."""
        return {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}

    @property
    def timesteps(self) -> int:
        """Number of the schedule's timesteps that sampling covers, the cleanest ones (1 to 1000)."""
        return max(1, round(self.start * TIMESTEPS))

    @property
    def tiling(self) -> tuple[int, int] | None:
        """Side and stride of the diffusion tiles in pixels; None without tiles."""
        if self.tile is None:
            return None
        return self.tile, self.tile // 2 if self.tile_stride is None else self.tile_stride

    def _check_operator(self) -> None:
        # Reading the words checks them.
        if self.known is not None:
            for name in ("operator_scale", "operator_repeats"):
                if self.operator_method == "project" and getattr(self, name) != WITH_OPERATOR[name]:
                    raise UserError(f"{name} is for operator_method gradient; leave it out, or choose that")
            return
        for name, usual in WITH_OPERATOR.items():
            if getattr(self, name) != usual:
                raise UserError(f"{name} is {getattr(self, name)!r} without `operator`; give both or neither")

    def _check_tiles(self) -> None:
        if self.tiling is None:
            if self.tile_stride is not None:
                raise UserError(f"tile_stride is {self.tile_stride} without tiles; give `tile` as well")
            return
        tile, stride = self.tiling
        if tile < TILE_MULTIPLE or tile % TILE_MULTIPLE:
            raise UserError(f"tile is {tile}; allowed are multiples of {TILE_MULTIPLE} pixels")
        if not 0 < stride <= tile or stride % STRIDE_MULTIPLE:
            raise UserError(
                f"tile_stride is {stride}; allowed are multiples of {STRIDE_MULTIPLE} pixels up to the tile's {tile}"
            )
