"""An image on its way through the stages: its tiles, and its arrays on the host."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.bytes import enlarge, resize_bytes, to_depth
from diffbir_jax.imaging.canvas import Blender, Padding, cut_padded, from_depth, resize_float
from diffbir_jax.imaging.checks import check_layout, check_proportions, check_range, not_finite
from diffbir_jax.imaging.tiling import Grid
from diffbir_jax.models.presets import Preset
from diffbir_jax.models.shared_norms import Norms, merge_norms
from diffbir_jax.restoration import one_step
from diffbir_jax.restoration.geometry import measure, stage_grid
from diffbir_jax.restoration.known import Knowledge
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import NOTHING
from diffbir_jax.restoration.texture import with_texture

# Weights of the luma (ITU-R BT.601).
LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


class Request(NamedTuple):
    """An image to restore.

    Attributes:
        image: (H, W, 3) RGB: uint8, uint16, or float32 in [0, 1]. Results have its dtype; floats are not clipped.
        index: chooses the noise, so that a result does not depend on what is restored beside it.
        clean: (h, w, 3) RGB like `image`, the image after stage 1, from another tool; resized if need be.
        mask: (h, w) uint8, a factor on the guidance weight: 255 is 1, 0 leaves stage 2 free; resized if need be.
        noise: (1 + calls, h, w, c) float32 for the latents of the padded image, in place of random numbers: the start,
            then one per call of the network. Of published one-step restorers (N, h, w, c), one per tile of the encoder.
            It makes runs of other implementations repeatable here.
        behind: (h, w, 3) RGB of the dtype of `image`, the photo restored by another tool; `faces` pastes faces into it.
        caption: words for what the image shows, which come before the options' prompt; for presets that read text.
    """

    image: np.ndarray
    index: int = 0
    clean: np.ndarray | None = None
    mask: np.ndarray | None = None
    noise: np.ndarray | None = None
    behind: np.ndarray | None = None
    caption: str = ""


class Frame:
    """An image that is being restored. Its arrays are empty before their stage, and after the last one that needs them.

    Attributes:
        position: of the request.
        depth: dtype of the input and of results.
        upscaled: the input, enlarged; empty once it is not needed any more.
        clean: (*work, 3) in about [0, 1] after stage 1: float32, or float16 for tiled images (80 dB PSNR to float32).
        start: what sampling starts from: the input for the encoder, (*work, 3), then its latent like `latent`; empty if
            sampling starts from `latent`.
        latent: (h, w, c) of the padded image, scaled.
        weight: (h, w, 1) of guidance in latent space.
        hint: (h, w, c), the input of the control; without channels if the control sees the latent.
        reference: (*output, 3), the input, where colours come from it and not from `clean`; None: from `clean`.
        degrees: (n,) of degradation, for restorers that estimate it.
        last: whether the next result is the last one; it may then overwrite the stage-1 image.
        gray: whether the input has no colour; then no stage may add colour, unless the operator took it.
        known: what the input says about the result by a known degradation; None: that is not known.
        upscale: output side divided by input side.
        error: why it failed, or None.
    """

    def __init__(
        self,
        position: int,
        request: Request,
        upscale: float,
        preset: Preset,
        plan: Plan,
        dtype: DTypeLike = np.float32,
    ):
        """Take a request; `dtype` is what the networks compute in, for messages.

        Raises:
            ValueError: an image of another shape or dtype, other proportions, an `upscale` that leaves no pixel, or a
                caption for a preset that reads no text.
        """
        self.position, self.request, self.preset, self.plan = position, request, preset, plan
        self.dtype, self.depth = dtype, request.image.dtype
        self.upscaled = enlarge(request.image, upscale)
        check_range(request.image)
        self.gray = is_gray(request.image)
        self.upscale = upscale
        self.sides, self.shape = measure(request.image.shape, self.upscaled.shape[:2], preset, plan)
        self.error: Exception | None = None
        self.last = False
        if request.caption and preset.text is None:
            raise UserError(f"preset {preset.name} reads no text; leave `caption` out")
        if request.clean is not None:
            check_layout(request.clean, (3,), "stage-1 image")
            check_proportions(request.clean, request.image, "stage-1 image")
        self.mask = None if request.mask is None else self._fit_mask(request.mask)
        self.clean = NOTHING
        self.start = NOTHING
        self.latent = NOTHING
        self.weight = NOTHING
        self.hint = NOTHING
        self.reference: np.ndarray | None = None
        self.degrees: np.ndarray | None = None
        self.known: Knowledge | None = None

    def know(self, known: Knowledge) -> None:
        """Take what the input says by a known degradation."""
        self.known = known
        self.gray = self.gray and not known.spec.gray

    def _fit_mask(self, mask: np.ndarray) -> np.ndarray:
        check_layout(mask, (), "mask")
        check_proportions(mask, self.request.image, "mask")
        return resize_float(from_depth(mask[..., None]), self.sides.work).clip(0.0, 1.0)

    def lq(self) -> np.ndarray:
        """Stage 1's input: bytes, or float32 in about [0, 1] where it is enlarged to the preset's minimum."""
        if self.preset.rm is not None and self.preset.rm.scale > 1:
            return self.request.image
        image = self._at_trained()
        return image if image.shape[:2] == self.sides.lq else resize_float(from_depth(image), self.sides.lq)

    def _at_trained(self) -> np.ndarray:
        """The input, enlarged to what the preset was trained for."""
        inside = self.sides.trained == self.sides.output
        return self.upscaled if inside else resize_bytes(self.request.image, self.sides.trained)

    def skip_stage1(self) -> None:
        """Use the request's stage-1 image, or without one the enlarged input."""
        ready = self.request.clean
        if ready is None and self.preset.one_step is not None:
            given, sides = self.request.image, self.sides
            self.clean, self.reference = one_step.prepare(
                self.preset, given, self.upscale, sides.output, sides.work
            )
            return
        image = self._at_trained() if ready is None else ready
        self.clean = resize_float(from_depth(image), self.sides.work)

    def release(self, keep_start: bool = False) -> None:
        """Release the input; with `keep_start`, keep what sampling starts from."""
        if keep_start:
            self.start = self._input_at_work()
        nothing = np.zeros((0, 0, 3), self.depth)
        self.request, self.upscaled = self.request._replace(image=nothing, clean=None), nothing

    def _input_at_work(self) -> np.ndarray:
        """The enlarged input with the sides of the stage-1 image."""
        image = self._at_trained()
        return (
            image if image.shape[:2] == self.sides.work else resize_float(from_depth(image), self.sides.work)
        )

    def rm_grid(self) -> Grid:
        """Tiles of stage 1's input."""
        return stage_grid(self.sides.lq_padded, self.shape.rm, self.plan.rm)

    def grid(self, stage: str) -> Grid:
        """Tiles of a stage of stage 2, in pixels of the padded image."""
        return stage_grid(self.sides.padded, getattr(self.shape, stage), getattr(self.plan, stage))

    def lq_tiles(self) -> Iterator[np.ndarray]:
        """The tiles of stage 1's input, (h, w, 3) float32 in [0, 1] each."""
        lq, grid = self.lq(), self.rm_grid()
        for start in grid.starts:
            yield from_depth(cut_padded(lq, start, grid.size, self.preset.padding))

    def take_clean(self, tiles: Iterator[np.ndarray]) -> None:
        """Make stage 1's result from its tiles."""
        scale = 1 if self.preset.rm is None else self.preset.rm.scale
        grid, (height, width) = self.rm_grid(), self.sides.lq
        clean = self._blended(tiles, grid.scaled(scale), (height * scale, width * scale), 3, "stage 1")
        self.clean = resize_float(clean, self.sides.work)

    def regain_texture(self, share: float) -> None:
        """Give the stage-1 image a share of the input's texture, see `with_texture`."""
        if share:
            factor = self.preset.texture_noise
            self.clean = with_texture(self.clean, self._input_at_work(), share, factor)

    def clean_tile(self, start: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A tile of the padded stage-1 image, float32."""
        return np.asarray(cut_padded(self.clean, start, size, self.preset.padding), np.float32)

    def start_tile(self, start: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A tile of the padded input, float32."""
        return from_depth(cut_padded(self.start, start, size, self.preset.padding))

    def mask_tile(self, start: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A tile of the mask, (*size, 1) float32."""
        if self.mask is None:
            return np.ones((*size, 1), np.float32)
        return cut_padded(self.mask, start, size, self.preset.padding)

    def take_latent(self, tiles: Iterator[np.ndarray], hint: bool) -> None:
        """Make latents, guidance weight and, with `hint`, the hint from tiles with these channels, in this order."""
        channels = self.preset.vae.embed_dim
        found = self._encoded(tiles, hint)
        self.latent, self.weight, self.hint = np.split(found, [channels, channels + 1], axis=-1)

    def take_start(self, tiles: Iterator[np.ndarray], hint: bool) -> None:
        """Make the latent that sampling starts from, the first channels of tiles like those of `take_latent`."""
        self.start = self._encoded(tiles, hint)[..., : self.preset.vae.embed_dim].copy()

    def _encoded(self, tiles: Iterator[np.ndarray], hint: bool) -> np.ndarray:
        config = self.preset.vae
        grid, count = self.grid("encode").scaled(1, config.downsample), (1 + hint) * config.embed_dim + 1
        return self._blended(tiles, grid, grid.sides, count, "the encoder", np.float32)

    def take_image(self, tiles: Iterator[np.ndarray]) -> np.ndarray:
        """Make the result from its tiles, (*output, 3) of the input's dtype."""
        grid, work = self.grid("decode"), self.sides.work
        if self.preset.one_step is not None:
            image = self._blended(tiles, grid, work, 3, "stage 2", np.float32)
            sides, style = self.sides.output, self.reference
            return self._finished(one_step.finish(self.preset.one_step, image, self.clean, style, sides))
        if self.known is not None:
            # Of the whole image, because blur reaches over tiles.
            image = self._blended(tiles, grid, work, 3, "stage 2", np.float32)
            return self._finished(self.known.finish(image))
        if work == self.sides.output:
            return self._blended(tiles, grid, work, 3, "stage 2", self.depth, self._reused(work))
        return self._at_output(self._blended(tiles, grid, work, 3, "stage 2", np.float32))

    def _finished(self, image: np.ndarray) -> np.ndarray:
        """A corrected result in the input's dtype. Of a gray input it is gray: corrections round channels apart."""
        return to_depth(np.repeat(image[..., :1], 3, axis=-1) if self.gray else image, self.depth)

    def take_decoded(self, tiles: Iterator[np.ndarray]) -> np.ndarray:
        """Blend the result's tiles to (*work, 3) float32, and nothing else."""
        return self._blended(tiles, self.grid("decode"), self.sides.work, 3, "stage 2", np.float32)

    def _at_output(self, image: np.ndarray) -> np.ndarray:
        """Resize an image from stage 2's sides to the output's, in the input's dtype."""
        clip = self.sides.trained != self.sides.output
        return to_depth(resize_float(image, self.sides.output, clip), self.depth)

    def _reused(self, sides: tuple[int, int]) -> np.ndarray | None:
        """Memory of the stage-1 image for the last result, if it can be had: large images are held once.

        A row of the result takes no more bytes than one of stage 1. It is written after all tiles that read the rows
        that it replaces.
        """
        if not self.last or self.clean.dtype != np.float16 or self.depth.itemsize > 2:
            return None
        return self.clean.reshape(-1).view(self.depth)[: 3 * sides[0] * sides[1]].reshape(*sides, 3)

    def take_map(self, tiles: Iterator[np.ndarray]) -> np.ndarray:
        """Make a map, (*output) uint8, from its tiles (h, w, 1) on the encoder's grid."""
        found = self._blended(tiles, self.grid("encode"), self.sides.work, 1, "guidance", np.float32)
        return to_depth(resize_float(found, self.sides.output), np.uint8)[..., 0]

    def shown_clean(self) -> np.ndarray:
        """Stage 1's result, (*output, 3) of the input's dtype."""
        return self._at_output(self.clean)

    def owned(self, stage: str) -> np.ndarray:
        """Which latent pixels each tile of a stage owns, (N, h, w, 1) float32."""
        grid = self.grid(stage).scaled(1, self.preset.vae.downsample)
        return grid.owned()[..., None].astype(np.float32)

    def merged(self, stage: str, parts: list[Norms]) -> Norms:
        """Statistics of the image from those of its tiles."""
        share = self.owned(stage).sum(axis=(1, 2, 3))
        return merge_norms(parts, share / share.sum())

    def _blended(
        self,
        tiles: Iterator[np.ndarray],
        grid: Grid,
        sides: tuple[int, int],
        channels: int,
        stage: str,
        dtype: DTypeLike | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Blend tiles to (*sides, channels) of `dtype`; by default float32, for several tiles float16."""
        dtype = dtype or (np.float32 if len(grid.starts) == 1 else np.float16)
        out = np.empty((*sides, channels), dtype) if out is None else out
        blender = Blender(grid, self._writer(out, stage))
        for _ in grid.starts:
            blender.add(next(tiles))
        return out

    def _writer(self, out: np.ndarray, stage: str) -> Callable[[int, np.ndarray], None]:
        def put(top: int, rows: np.ndarray) -> None:
            part = out[top : top + len(rows)]
            rows = rows[: len(part), : out.shape[1]]
            if self.gray and out.shape[-1] == 3:
                rows = np.repeat(rows @ LUMA, 3, axis=-1)
            if not np.isfinite(rows).all():
                self.error = self.error or not_finite(stage, self.dtype)
                rows = np.nan_to_num(rows)
            part[...] = to_depth(rows, out.dtype) if out.dtype.kind == "u" else rows

        return put


def is_gray(image: np.ndarray) -> bool:
    """Whether the three channels of (H, W, 3) are equal everywhere."""
    return bool(np.all(image[..., :2] == image[..., 1:]))


def padded_whole(frame: Frame, tile: Callable[[np.ndarray, tuple[int, int]], np.ndarray]) -> np.ndarray:
    """The whole padded image as one tile; `tile` is a method of the frame that cuts tiles."""
    return tile(np.zeros(2, np.int32), frame.sides.padded)


def stacked(images: Sequence[np.ndarray], sides: tuple[int, int], beside: Padding = "constant") -> np.ndarray:
    """Pad images to canvases, (B, *sides, C) float32, with zeros or by repeating their borders."""
    out = np.empty((len(images), *sides, images[0].shape[2]), np.float32)
    for place, image in zip(out, images):
        place[...] = cut_padded(image, np.zeros(2, np.int32), sides, beside)
    return out
