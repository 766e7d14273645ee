"""Plans for photos with faces: how crops and backgrounds are cut, and the memory that pasting takes beside that."""


import jax

from diffbir_jax.faces.align import SIDE
from diffbir_jax.faces.restoring import FACES, PIXELS, FaceRestorer
from diffbir_jax.restoration.planner import PROGRAM, Forecast, Size, Sizes, make_plan
from diffbir_jax.restoration.results import Wanted

# Bytes that the detector takes at its largest size, for photos of 2560 pixels; measured (docs/faces.md).
DETECTOR = 200 * 2**20
# Longest side at which the detector takes that.
LONGEST = 2560
# Bytes per pixel of the strip that is pasted, and rows of it (`paste.ROWS`).
STRIP, ROWS = 100, 512


def crops_plan(
    both: FaceRestorer, wanted: Wanted, photos: Sizes, memory: int | None = None
) -> Forecast:
    """Choose how crops are cut: they fill batches, however many faces there are.

    Args:
        both: the networks, loaded.
        wanted: what is made of every photo.
        photos: (height, width) of each photo and of its result.
        memory: bytes that may be taken; by default most of what there is.

    Raises:
        PlanError: no plan fits.
    """
    small = SIDE // both.zoom
    many = [((small, small), (SIDE, SIDE))] * FACES
    faces = both.faces
    stage1_only = wanted.stage1_only or faces.preset.stage1_only
    return make_plan(
        faces,
        faces.programs,
        many,
        wanted._replace(stage1_only=stage1_only),
        memory,
        beside=beside(both, wanted, photos),
    )


def photos_plan(both: FaceRestorer, wanted: Wanted, photos: Sizes, memory: int | None = None) -> Forecast:
    """Choose how backgrounds are cut; arguments and errors as in `crops_plan`."""
    stage1_only = wanted.stage1_only or both.behind.preset.stage1_only
    restorer = both.behind
    return make_plan(
        restorer,
        restorer.programs,
        photos,
        wanted._replace(stage1_only=stage1_only),
        memory,
        beside=beside(both, wanted, photos),
    )


def beside(both: FaceRestorer, wanted: Wanted, photos: Sizes) -> int:
    """Bytes that a run with faces takes beside what restores crops or backgrounds.

    On CPUs the process holds a group of photos, its crops and what is pasted. On accelerators that is on the host, and
    the networks of the other part are beside.
    """
    if jax.default_backend() != "cpu":
        return max(_own(both.faces, both.behind), _own(both.behind, both.faces))
    largest = max((_area(photo) + _area(result) for photo, result in photos), default=0)
    group = min(len(photos) * largest, max(PIXELS, largest))
    layers = wanted.count * (2 if wanted.keep else 1)
    crops = FACES * ((SIDE // both.zoom) ** 2 + layers * SIDE**2)
    wide = max((max(result) for _, result in photos), default=0)
    strip = STRIP * min(ROWS, wide) * wide
    longest = max((max(photo) for photo, _ in photos), default=0)
    detector = DETECTOR * min(1.0, longest / LONGEST) ** 2
    return int(3 * (group + largest * layers + crops) + strip + detector + 4 * PROGRAM)


def _own(one: object, other: object) -> int:
    """Bytes of the parameters of `one` that `other` does not share."""
    theirs = {id(leaf) for leaf in jax.tree.leaves(getattr(other, "params", {}))}
    mine = jax.tree.leaves(getattr(one, "params", {}))
    return sum(leaf.nbytes for leaf in mine if id(leaf) not in theirs)


def _area(size: Size) -> int:
    return size[0] * size[1]


