"""`FaceRestorer`: restores photos as `Restorer` restores images, and their faces with networks for aligned faces.

Photos go through it in groups. The crops of all faces of a group share batches of one shape; then the backgrounds
follow, and each photo is pasted together as soon as its background is there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypedDict

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import moved, reduction, resizing
from diffbir_jax.faces.align import to_result
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.cuts import Cut, cut_faces, fitting_zoom
from diffbir_jax.faces.find import Detector, Face, detect
from diffbir_jax.faces.flags import BACKGROUNDS
from diffbir_jax.faces.identity import SFace
from diffbir_jax.faces.paste import Patch, paste
from diffbir_jax.faces.reports import FaceReport
from diffbir_jax.imaging.bytes import enlarge, resize_bytes
from diffbir_jax.imaging.checks import check_proportions
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import NOTHING, Outcome, Progress, Restored
from diffbir_jax.sampling.options import Options

Background = Literal["sr", "resize", "none"]
# A group of photos ends with so many photos, faces or pixels of results.
PHOTOS, FACES, PIXELS = 16, 64, 2**24


@dataclass(frozen=True)
class Way:
    """How photos with faces are restored.

    Attributes:
        choice: which faces, and how they are pasted.
        background: "sr": the photo restored; "resize": the photo resized by Pillow's bicubic filter; "none": there is
            no whole photo, only faces. A request's `behind` comes before it.
        detector: finds the faces; None: the shipped one.
        judge: compares identities before and after; None: nobody.
        zoom: crops have 512 / zoom pixels and are restored to 512: 1, 2 or 4; None: as the preset needs it.
    """

    choice: Faces = field(default_factory=Faces)
    background: Background = "sr"
    detector: Detector | None = None
    judge: SFace | None = None
    zoom: int | None = None

    def __post_init__(self) -> None:
        """Check the words; UserError for one that there is not."""
        if self.background not in BACKGROUNDS:
            raise UserError(f"`background` is {self.background!r}; use {', '.join(BACKGROUNDS)}, or pictures")


class _Shared(TypedDict):
    """What crops and backgrounds share, as arguments of `Restorer.restore_many`."""

    count: int
    keep: bool
    stage1_only: bool
    listen: Callable[[Progress], None] | None


class _Ground(_Shared):
    """The same for backgrounds."""

    plan: Plan | None
    with_fidelity: bool


class _Photo(NamedTuple):
    """A photo of a group: the request, its place among all, its faces, the crops and the reasons of those left."""

    position: int
    request: Request
    faces: list[Face]
    cuts: list[Cut]
    left: dict[int, str]

    @property
    def sides(self) -> tuple[int, int]:
        return self.request.image.shape[0], self.request.image.shape[1]

    def size(self, upscale: float) -> tuple[int, int]:
        """Height and width of the result."""
        return round(self.sides[0] * upscale), round(self.sides[1] * upscale)


# Results of a face by the position of its photo and its place there.
_After = dict[tuple[int, int], tuple[Restored, ...]]


class FaceRestorer:
    """Restores photos and, apart from them, their faces."""

    def __init__(
        self,
        faces: Restorer,
        behind: Restorer | None = None,
        way: Way | None = None,
        plan: Plan | None = None,
        found: Callable[[int], None] | None = None,
    ):
        """Take the networks.

        Args:
            faces: restores aligned crops.
            behind: restores backgrounds; by default `faces`.
            way: what is done.
            plan: how crops are cut; by default one that does not look at the memory.
            found: called with the number of crops of each photo, before they are restored.
        """
        self.faces, self.behind = faces, faces if behind is None else behind
        self.way, self.plan, self.found = way or Way(), plan, found
        self.zoom = fitting_zoom(faces) if self.way.zoom is None else self.way.zoom

    @property
    def compiled(self) -> int:
        """How many different programs there were so far, see `Restorer.compiled`."""
        both = {id(each): each.compiled for each in (self.faces, self.behind)}
        return sum(both.values())

    def check(self, options: Options) -> None:
        """Raise UserError if the networks cannot use the options."""
        self.faces.check(options)
        self.behind.check(options)

    def restore_many(
        self,
        requests: Iterable[Request],
        upscale: float = 1.0,
        options: Options | None = None,
        *,
        plan: Plan | None = None,
        count: int = 1,
        keep: bool = True,
        with_fidelity: bool = False,
        stage1_only: bool = False,
        listen: Callable[[Progress], None] | None = None,
    ) -> Iterator[Outcome]:
        """Restore any number of photos; one that fails does not stop the others. Requests are read group by group.

        Args:
            requests: photos. `behind` is the background, if another tool made it.
            upscale: side of the result divided by that of the photo (above 0).
            options: how to sample; by default the operating point of the preset for faces.
            plan: how backgrounds are cut.
            count: results per photo, each with other noise.
            keep: whether results carry stage 1, of faces and background, and the enlarged photo.
            with_fidelity: whether results show where guidance holds backgrounds.
            stage1_only: take everything through stage 1 alone.
            listen: called with a `Progress` after each batch of tiles.

        Yields:
            an `Outcome` per photo, whose `about` is a tuple of `FaceReport`, from left to right. With the background
            "none" it has no results.
        """
        options = options or self.faces.options()
        shared = _Shared(count=count, keep=keep, stage1_only=stage1_only, listen=listen)
        for group in self._groups(requests, upscale):
            if isinstance(group, Outcome):
                yield group
                continue
            after, failed = self._restored_faces(group, options, shared)
            yield from (Outcome(position, error=error) for position, error in failed.items())
            group = [photo for photo in group if photo.position not in failed]
            ground = _Ground(**shared, plan=plan, with_fidelity=with_fidelity)
            grounds = self._grounds(group, upscale, options, ground)
            for photo, ground in grounds:
                yield ground if ground.error else self._whole(photo, ground.results, after, upscale)

    def _groups(self, requests: Iterable[Request], upscale: float) -> Iterator[list[_Photo] | Outcome]:
        """Yield groups of photos with their crops, and at once the outcomes of what is no photo."""
        group: list[_Photo] = []
        for position, request in enumerate(requests):
            try:
                photo = self._looked_at(position, request, upscale)
            except (UserError, MemoryError) as error:
                yield Outcome(position, error=error)
                continue
            if self.found is not None:
                self.found(len(photo.cuts))
            group.append(photo)
            if _full(group, upscale):
                yield group
                # Not cleared: whoever has the group still needs it.
                group = []
        if group:
            yield group

    def _looked_at(self, position: int, request: Request, upscale: float) -> _Photo:
        check_photo(request, upscale)
        faces = detect(request.image, self.way.detector)
        return _Photo(position, request, faces, *cut_faces(request.image, faces, self.way.choice, self.zoom))

    def _restored_faces(
        self, group: list[_Photo], options: Options, shared: _Shared
    ) -> tuple[_After, dict[int, Exception]]:
        """The results of all crops of a group, and the errors by the positions of the photos."""
        order = [(photo.position, cut.place) for photo in group for cut in photo.cuts]
        if not order:
            return {}, {}
        crops = (Request(cut.before, cut.index(photo.request.index)) for photo in group for cut in photo.cuts)
        after: _After = {}
        failed: dict[int, Exception] = {}
        for outcome in self.faces.restore_many(crops, self.zoom, options, plan=self.plan, **shared):
            if outcome.error is None:
                after[order[outcome.position]] = outcome.results
            else:
                failed[order[outcome.position][0]] = outcome.error
        return after, failed

    def _grounds(
        self, group: list[_Photo], upscale: float, options: Options, shared: _Ground
    ) -> Iterator[tuple[_Photo, Outcome]]:
        """Yield the backgrounds of a group: restored, resized, given, or none."""
        restored = [p for p in group if self.way.background == "sr" and p.request.behind is None]
        for photo in group:
            if photo not in restored:
                yield photo, self._ready_ground(photo, upscale, shared["count"], shared["keep"])
        if restored:
            requests = (photo.request for photo in restored)
            for outcome in self.behind.restore_many(requests, upscale, options, **shared):
                photo = restored[outcome.position]
                yield photo, outcome._replace(position=photo.position)

    def _ready_ground(self, photo: _Photo, upscale: float, count: int, keep: bool) -> Outcome:
        if self.way.background == "none":
            return Outcome(photo.position)
        given, size = photo.request.behind, photo.size(upscale)
        large = enlarge(photo.request.image, upscale) if given is None or keep else NOTHING
        ground = large if given is None else resize_bytes(given, size)
        restored = Restored(ground, ground, large) if keep else Restored(ground)
        return Outcome(photo.position, (restored,) * count)

    def _whole(self, photo: _Photo, grounds: Sequence[Restored], after: _After, upscale: float) -> Outcome:
        """Paste the restored faces of a photo into each of its backgrounds, and report on all its faces."""
        faces = [after[photo.position, cut.place] for cut in photo.cuts]
        results: list[Restored] = []
        for sample, ground in enumerate(grounds):
            image = self._pasted(photo, ground.image, [each[sample].image for each in faces])
            # Stage 1 has no noise.
            stage1 = results[0].stage1 if results else ground.stage1
            if not results and stage1.size:
                stage1 = self._pasted(photo, stage1, [each[sample].stage1 for each in faces])
            results.append(ground._replace(image=image, stage1=stage1))
        shown = results[0].image if results else None
        restored = dict(zip((cut.place for cut in photo.cuts), zip(photo.cuts, faces)))
        reports = [
            self._report(photo, shown, *restored[place], upscale)
            if place in restored
            else FaceReport(face, photo.left[place])
            for place, face in enumerate(photo.faces)
        ]
        return Outcome(photo.position, tuple(results), about=tuple(reports))

    def _pasted(self, photo: _Photo, ground: np.ndarray, faces: Sequence[np.ndarray]) -> np.ndarray:
        choice = self.way.choice
        patches = [Patch(pixels, cut.face.points, cut.matrix) for pixels, cut in zip(faces, photo.cuts)]
        return paste(
            ground,
            patches,
            photo.sides,
            shape=choice.shape,
            keep_low=choice.keep_low,
            strength=choice.strength,
            compat=choice.compat,
        )

    def _report(
        self, photo: _Photo, image: np.ndarray | None, cut: Cut, after: Sequence[Restored], upscale: float
    ) -> FaceReport:
        size = photo.size(upscale) if image is None else (image.shape[0], image.shape[1])
        first, *others = (restored.image for restored in after)
        # Without a whole photo the crop is what shows the face.
        shown, matrix = (first, cut.matrix) if image is None else (image, resizing(photo.sides, size))
        identity = None
        if self.way.judge is not None:
            points = cut.face.points
            identity = self.way.judge.likeness(photo.request.image, points, shown, moved(matrix, points))
        scale = 1 / reduction(to_result(cut.matrix, photo.sides, size))
        return FaceReport(cut.face, "", scale, identity, cut.before, first, tuple(others))


def _full(group: Sequence[_Photo], upscale: float) -> bool:
    """Whether a group holds enough to be computed."""
    pixels = sum(height * width for height, width in (photo.size(upscale) for photo in group))
    return len(group) >= PHOTOS or sum(len(p.cuts) for p in group) >= FACES or pixels >= PIXELS


def check_photo(request: Request, upscale: float) -> None:
    """Raise UserError unless a request is of an RGB photo with a background like it, and the result has pixels."""
    image, behind = request.image, request.behind
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"the photo is {image.dtype} of shape {image.shape}; give (H, W, 3) RGB")
    if not (np.isfinite(upscale) and upscale > 0) or round(min(image.shape[:2]) * upscale) < 1:
        raise UserError(
            f"`upscale` is {upscale!r}; give a finite number above 0 that leaves a pixel of the photo"
        )
    if behind is None:
        return
    if behind.dtype != image.dtype or behind.ndim != 3 or behind.shape[2] != 3:
        raise UserError(
            f"the background is {behind.dtype} of shape {behind.shape}; give (h, w, 3) {image.dtype} like the photo"
        )
    check_proportions(behind, image, "background")
