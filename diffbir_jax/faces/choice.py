"""Which faces of a photo are restored, and how they are pasted."""

from dataclasses import dataclass

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.typed import check_fields
from diffbir_jax.faces.find import Face
from diffbir_jax.faces.flags import LEAST, SHAPES
from diffbir_jax.faces.masks import Shape

# What messages say is allowed.
ALLOWED = {
    "least": "numbers of pixels from 0",
    "most": "numbers of pixels from 0, and None",
    "strength": "numbers from 0 to 1",
}


@dataclass(frozen=True)
class Faces:
    """Which faces are restored, and how they are pasted.

    Attributes:
        least: faces whose box is smaller are left as the background has them; side in pixels of the photo.
        most: faces whose box is larger are left likewise; None: no limit.
        only_largest: restore only the largest face of a photo.
        skip_sharp: leave faces that are sharp already, see `sharpness.is_sharp`.
        strength: share of the restored faces in the result, 0 to 1.
        shape: of the masks, see `paste`.
        keep_low: whether the result has the low frequencies of the background.
        compat: crop and paste as the reference does, see `align.crop` and `paste`.
    """

    least: float = LEAST
    most: float | None = None
    only_largest: bool = False
    skip_sharp: bool = False
    strength: float = 1.0
    shape: Shape = "ellipse"
    keep_low: bool = True
    compat: bool = False

    def __post_init__(self) -> None:
        """Check values; UserError for one that no run can use."""
        check_fields(self, ALLOWED)
        if self.shape not in SHAPES:
            raise UserError(f"mask is {self.shape!r}; allowed are {', '.join(SHAPES)}")
        if not self.least >= 0 or (self.most is not None and not self.least <= self.most):
            raise UserError(
                f"faces from {self.least:g} to {self.most} pixels; give a least size of 0 or more, up to the most"
            )
        if not 0 <= self.strength <= 1:
            raise UserError(f"the strength of faces is {self.strength:g}; allowed are 0 to 1")

    def reason(self, face: Face, largest: Face | None) -> str:
        """Why a face is not restored, in words; empty if it is, as far as its box decides."""
        if face.size < self.least:
            return f"smaller than {self.least:g} pixels"
        if self.most is not None and face.size > self.most:
            return f"larger than {self.most:g} pixels"
        return "not the largest face" if self.only_largest and face is not largest else ""


def largest_of(faces: list[Face]) -> Face | None:
    """The face with the largest box; None if there is none."""
    return max(faces, key=lambda face: face.size, default=None)
