"""Plans for photos with faces: how crops and backgrounds are cut, and the memory that pasting takes beside that."""

from collections.abc import Callable
from typing import Literal

import jax

from diffbir_jax.faces.align import SIDE
from diffbir_jax.faces.paste import ROWS
from diffbir_jax.faces.restoring import FACES, PIXELS, FaceRestorer
from diffbir_jax.models.platform import target_platform
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.planner import PROGRAM, Forecast, Size, Sizes, make_plan, size_of
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted

# Bytes that the detector takes for photos whose longest side has so many pixels or more; measured (docs/faces.md).
DETECTOR, LONGEST = 300 * 2**20, 2560
# Bytes per pixel of a strip that is pasted, see `paste`.
STRIP = 100


def crop_sizes(both: FaceRestorer) -> tuple[Size, Size]:
    """The sides of a crop and of the restored crop."""
    small = SIDE // both.zoom
    return (small, small), (SIDE, SIDE)


def crops_plan(
    both: FaceRestorer,
    wanted: Wanted,
    photos: Sizes,
    memory: int | None = None,
    norms: Literal["image", "tile"] = "image",
    count: int = FACES,
    look: Callable[[Executor], None] | None = None,
) -> Forecast:
    """Choose how crops are cut: for `count` of them; photos may then have more or fewer faces.

    Args:
        both: the networks, loaded.
        wanted: what is made of every photo.
        photos: (height, width) of each photo and of its result.
        memory: bytes that may be taken; by default most of what there is.
        norms: see `Plan`.
        count: of crops. Programs for batches of several take longer to compile.
        look: see `make_plan`.

    Raises:
        PlanError: no plan fits.
    """
    many = [crop_sizes(both)] * count
    return _plan(both.faces, many, wanted, memory, norms, beside(both, wanted, photos), look)


def photos_plan(both: FaceRestorer, wanted: Wanted, photos: Sizes, memory: int | None = None) -> Forecast:
    """Choose how backgrounds are cut; arguments and errors as in `crops_plan`."""
    return _plan(both.behind, photos, wanted, memory, "image", beside(both, wanted, photos))


def _plan(
    restorer: Restorer,
    images: Sizes,
    wanted: Wanted,
    memory: int | None,
    norms: Literal["image", "tile"],
    other: int,
    look: Callable[[Executor], None] | None = None,
) -> Forecast:
    made = wanted._replace(stage1_only=wanted.stage1_only or restorer.preset.stage1_only)
    return make_plan(restorer, restorer.programs, images, made, memory, norms=norms, beside=other, look=look)


def beside(both: FaceRestorer, wanted: Wanted, photos: Sizes) -> int:
    """Bytes that a run with faces takes beside what restores crops or backgrounds.

    On CPUs the process holds a group of photos, its crops and what is pasted. On accelerators that is on the host, and
    the networks of the other part are beside.
    """
    if target_platform() != "cpu":
        return max(_own(both.faces, both.behind), _own(both.behind, both.faces))
    largest = max((_area(photo) + _area(result) for photo, result in photos), default=0)
    group = min(len(photos) * largest, max(PIXELS, largest))
    layers = wanted.count * (2 if wanted.keep else 1)
    crops = FACES * ((SIDE // both.zoom) ** 2 + layers * SIDE**2)
    wide = max((max(result) for _, result in photos), default=0)
    longest = max((max(photo) for photo, _ in photos), default=0)
    detector = DETECTOR * min(1.0, longest / LONGEST) ** 2
    return int(
        3 * (group + largest * layers + crops) + STRIP * min(ROWS, wide) * wide + detector + 4 * PROGRAM
    )


def _own(one: Restorer, other: Restorer) -> int:
    """Bytes of the parameters of a restorer that the other one does not share."""
    theirs = {id(leaf) for leaf in jax.tree.leaves(other.params)}
    return size_of(leaf for leaf in jax.tree.leaves(one.params) if id(leaf) not in theirs)


def _area(size: Size) -> int:
    return size[0] * size[1]
