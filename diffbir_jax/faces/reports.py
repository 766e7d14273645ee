"""What became of the faces of a photo: in words, as records, as crops on disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from diffbir_jax.faces.find import Face
from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.imaging.writing import write_png

NO_FACE = "no face"
NO_CROP = ", so no crop is written"


class FaceRecord(TypedDict):
    """A `FaceReport` without its crops, as JSON holds it."""

    number: int
    box: list[float]
    points: list[list[float]]
    score: float
    left: str
    scale: float
    identity: float | None


class FacesRecord(TypedDict):
    """The reports on all faces of a photo, as JSON holds them."""

    faces: list[FaceRecord]
    found: str


class FaceReport(NamedTuple):
    """What became of a face.

    Attributes:
        face: its box, points and score, in pixels of the photo.
        left: why it was left as the background has it; empty if it was restored.
        scale: pixels of the result along one pixel of the restored crop. Above 1 the face is enlarged, and softer.
        identity: cosine between the face in the photo and in the result; None if nobody judged it.
        before: (S, S, 3) the crop of the photo; None if the face was left.
        after: (512, 512, 3) the restored crop; None likewise.
        others: the restored crops of further samples, with other noise.
    """

    face: Face
    left: str = ""
    scale: float = 1.0
    identity: float | None = None
    before: np.ndarray | None = None
    after: np.ndarray | None = None
    others: tuple[np.ndarray, ...] = ()

    def as_record(self, number: int) -> FaceRecord:
        """The report without crops, in a form that JSON can hold; `number` counts faces from the left."""
        return {
            "number": number,
            "box": [round(float(value), 2) for value in self.face.box],
            "points": np.round(self.face.points, 2).tolist(),
            "score": round(self.face.score, 4),
            "left": self.left,
            "scale": round(self.scale, 4),
            "identity": None if self.identity is None else round(self.identity, 4),
        }

    def crops(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the crops with the ends of their files' names; none of a face that was left."""
        after = [pixels for pixels in (self.after, *self.others) if pixels is not None]
        if self.before is not None:
            yield "before", self.before
        for sample, pixels in enumerate(after, 1):
            yield "after" if len(after) == 1 else f"after_{sample}", pixels


def summary(faces: Sequence[FaceReport], whole: bool = True) -> str:
    """Say in some words what became of all faces of a photo.

    Args:
        faces: of the photo.
        whole: whether there is a whole photo in which faces are left, and not only crops.
    """
    left = [report.left for report in faces if report.left]
    counted = NO_FACE if not faces else "1 face" if len(faces) == 1 else f"{len(faces)} faces"
    place = "left as background" if whole else "left out"
    reasons = f", {len(left)} {place} ({', '.join(dict.fromkeys(left))})" if left else ""
    return counted + reasons + (NO_CROP if not whole and len(left) == len(faces) else "")


def faces_record(faces: Sequence[FaceReport], whole: bool = True) -> FacesRecord:
    """The reports on all faces of a photo in a form that JSON can hold, with what they come to in words.

    Arguments as in `summary`.
    """
    return {
        "faces": [report.as_record(number) for number, report in enumerate(faces, 1)],
        "found": summary(faces, whole),
    }


def crop_file(start: Path, number: int, end: str) -> Path:
    """The file of a face's crop; the arguments are those of `write_crops`, the face's number and `FaceReport.crops`."""
    return start.with_name(f"{start.name}_{number:02d}_{end}.png")


def write_crops(faces: Sequence[FaceReport], start: Path, depth: type | None = None) -> list[Path]:
    """Write the crops of restored faces as PNG; all faces are counted, from left to right.

    Args:
        faces: of a photo, from left to right.
        start: folder and beginning of the files' names.
        depth: dtype of the files, uint8 or uint16; None: that of the crops.

    Returns:
        the files: START_01_before.png and START_01_after.png, and so on; of several samples START_01_after_1.png.

    Raises:
        ImageFileError: a file cannot be written.
    """
    files = []
    for number, report in enumerate(faces, 1):
        for end, pixels in report.crops():
            files.append(crop_file(start, number, end))
            deep = depth or (np.uint16 if pixels.dtype == np.float32 else pixels.dtype)
            write_png(files[-1], pixels if pixels.dtype == deep else to_depth(from_depth(pixels), deep))
    return files
