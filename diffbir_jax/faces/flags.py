"""The flags of faces in whole photos; read before JAX and OpenCV are imported."""

import argparse

from diffbir_jax.console.numbers import real, refused

# Words of --background; anything else is a folder.
BACKGROUNDS = ("sr", "resize", "none")
SHAPES = ("ellipse", "square")
# The least face that is restored, in pixels of the photo. Small photos are enlarged for the detector, which then also
# sees faces in a few pixels; many of these are none (docs/faces.md).
LEAST = 12.0
# Where argparse puts them.
FACE_FLAGS = (
    *("background", "face_size", "face_strength", "only_largest", "skip_sharp", "save_faces", "mask"),
    "compat",
)


def face_size(text: str) -> tuple[float, float | None]:
    """Read MIN,MAX; either may be left out, then MIN is `LEAST` or, if that is less, MAX."""
    low, _, high = text.partition(",")
    try:
        most = float(high) if high else None
        sizes = float(low) if low else min(LEAST, most or LEAST), most
    except ValueError:
        sizes = -1.0, None
    # `not` also refuses NaN.
    if not 0 <= sizes[0] <= (float("inf") if sizes[1] is None else sizes[1]):
        raise refused(text, "MIN,MAX with 0 <= MIN <= MAX, such as 20,400, 20 or ,400")
    return sizes


def strength(text: str) -> float:
    """Read a share from 0 to 1."""
    value = real(text)
    if not 0 <= value <= 1:
        raise refused(text, "numbers from 0 to 1")
    return value


def add_face_flags(group: argparse._ArgumentGroup) -> None:
    """Declare what --task faces does with photos and their faces."""
    add = group.add_argument
    background = (
        "what faces are pasted into: sr, the photo restored; resize, the photo resized; none, nothing: only crops are "
        "written; or a folder of pictures named as the inputs (default: sr)"
    )
    add("--background", default="sr", metavar="sr|resize|none|DIR", help=background)
    size = (
        "do not restore smaller and larger faces; side of the box in pixels of the photo; 0: no face is too small "
        f"(default: {LEAST:g})"
    )
    add("--face-size", type=face_size, default=(LEAST, None), metavar="MIN,MAX", help=size)
    share = "share of the restored faces in the result, 0 to 1 (default: 1)"
    add("--face-strength", type=strength, default=1.0, metavar="X", help=share)
    add("--only-largest", action="store_true", help="restore only the largest face of a photo (default: off)")
    sharp = "do not restore faces that show detail at 256 pixels and little noise (default: off)"
    add("--skip-sharp", action="store_true", help=sharp)
    crops = (
        "also write the crops before and after as <stem>_face_01_before.png and so on, numbered from the left "
        "(default: off)"
    )
    add("--save-faces", action="store_true", help=crops)
    mask = "shape that is pasted: ellipse, around the face; square, nearly the whole crop (default: ellipse)"
    add("--mask", choices=SHAPES, default="ellipse", help=mask)
    compat = "crop and paste as the reference does, with its seams (default: off)"
    add("--compat", action="store_true", help=compat)
