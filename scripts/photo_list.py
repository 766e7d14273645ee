"""The list of training photos, `photos.tsv`, and how each is made from the picture that a Debian package has."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePosixPath

from PIL import Image

LIST = Path(__file__).with_name("photos.tsv")
TRAIN, HELD_OUT = "train", "held_out"
MAX_SIDE = 1536
QUALITY = 93


@dataclass(frozen=True)
class Photo:
    """A photo of the set.

    Attributes:
        split: `train` or `held_out`, the folder that it lies in.
        file: its name there.
        package: the Debian package that has it.
        path: as it is installed; what follows a colon is the path inside that `.rcc` archive.
        copyright: who made it, as the package states it.
        licence: as the package states it.
        scale: its sides divided by those installed, unless that gives more than 1536 pixels.
        sha256: of the file as written.
    """

    split: str
    file: str
    package: str
    path: str
    copyright: str
    licence: str
    scale: float
    sha256: str

    @property
    def place(self) -> PurePosixPath:
        """Where the set's folder has it."""
        return PurePosixPath(self.split, self.file)


def read_list(path: Path = LIST) -> list[Photo]:
    """Read a list of photos."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Photo(**{**row, "scale": float(row["scale"])}) for row in rows]


def write_list(photos: Iterable[Photo], path: Path = LIST) -> None:
    """Write a list of photos, sorted by where they lie."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(field.name for field in fields(Photo))
        rows.writerows(astuple(photo) for photo in sorted(photos, key=lambda photo: photo.place))


def scaled(image: Image.Image, scale: float = 1.0) -> Image.Image:
    """Return `image` as RGB, its sides times `scale`, the longer one at most 1536 pixels (Lanczos), the aspect kept."""
    scale = min(scale, MAX_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    rgb = image.convert("RGB")
    return rgb if size == rgb.size else rgb.resize(size, Image.Resampling.LANCZOS)


def encoded(picture: bytes, scale: float) -> bytes:
    """Return the JPEG file of the set that is made from the picture file `picture`.

    Raises:
        OSError: it is no picture.
    """
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        scaled(image, scale).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def digest(content: bytes) -> str:
    """Return the SHA-256 of `content`, hexadecimal."""
    return hashlib.sha256(content).hexdigest()
