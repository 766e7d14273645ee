"""Rebuild the photo set that the `tiny` preset was trained on, from Debian packages of desktop backgrounds.

    python scripts/build_photos.py work/photos

Needs apt-get and dpkg-deb (Debian or a derivative with its package lists up to date; no root), about 170 MB of
download and half a minute. Pictures are scaled to at most 1536 pixels and written as JPEG of quality 93, and a
README.md beside them names author and licence of each, as the packages state them. With the packages of Debian 12
the files are equal, byte for byte, to those that were trained on.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image
from tqdm import tqdm

PACKAGES = {
    "lomiri-wallpapers-16.04": [
        "usr/share/backgrounds/Bridge_by_Sander_Klootwijk.jpg",
        "usr/share/backgrounds/free_by_Peter_Nerlich.jpg",
        "usr/share/backgrounds/greentock_by_Peter_Nerlich.jpg",
        "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "usr/share/backgrounds/Picture_1A_by_freespace.jpg",
        "usr/share/backgrounds/seeding_by_Clements_Engelhardt.jpg",
        "usr/share/backgrounds/sunset_by_Aitzol_Berasategi.jpg",
    ],
    "lomiri-wallpapers-20.04": [
        "usr/share/backgrounds/Infinite-Sea_by_Aury88.jpg",
        "usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg",
    ],
    "mate-backgrounds": [
        f"usr/share/backgrounds/mate/nature/{name}.jpg"
        for name in (
            *("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow"),
            *("RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"),
        )
    ],
    "plasma-workspace-wallpapers": [
        f"usr/share/wallpapers/{name}/contents/images/{file}"
        for file, names in {
            "1920x1080.jpg": (
                *("BytheWater", "ColdRipple", "DarkestHour", "FallenLeaf", "Grey"),
                *("Kite", "OneStandsOut", "Path", "summer_1am"),
            ),
            "2560x1600.jpg": ("ColorfulCups",),
            "5120x2880.jpg": ("SafeLanding",),
            "5120x2880.png": ("Patak",),
        }.items()
        for name in names
    ],
}
MAX_SIDE = 1536
QUALITY = 93


class BuildError(Exception):
    """The set cannot be built here; the message says why and what to do."""


def fetch(package: str, folder: Path) -> Path:
    """Download and unpack a Debian package by name into `folder`; return the unpacked root.

    Raises:
        BuildError: if the tools are missing or the package cannot be had.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise BuildError(f"{tool} not found: run this on Debian or a derivative (a container will do)")
    download = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob(f"{package}_*.deb"))
    if download.returncode or not archives:
        raise BuildError(f"cannot download {package}: run 'apt-get update' first\n{download.stderr.strip()}")
    root = folder / package
    subprocess.run(["dpkg-deb", "-x", archives[0], root], check=True)
    return root


def output_name(path: str) -> str:
    """Return the file name in the set of a picture installed as `path`."""
    parts = PurePosixPath(path).parts
    # Plasma names the folder after the picture and the file after its size.
    stem = parts[3] if parts[2] == "wallpapers" else PurePosixPath(path).stem
    return f"{stem.lower()}.jpg"


def scaled(image: Image.Image) -> Image.Image:
    """Return `image` as RGB with its longer side at most 1536 pixels (Lanczos), the aspect kept."""
    scale = min(1.0, MAX_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    rgb = image.convert("RGB")
    return rgb if size == rgb.size else rgb.resize(size, Image.Resampling.LANCZOS)


def authorship(copyright_file: str, path: str) -> tuple[str, str]:
    """Find (copyright holders, licence) of the picture `path` in the text of a Debian copyright file.

    The format is Debian's machine-readable one: the last paragraph whose `Files` match holds. Patterns name the
    source tree, so that only base names can be compared.
    """
    found = ("unknown", "unknown")
    for fields in _paragraphs(copyright_file):
        patterns = [p for p in fields.get("Files", "").split() if not p.startswith("debian/")]
        if any(fnmatch.fnmatch(PurePosixPath(path).name, PurePosixPath(p).name) for p in patterns):
            found = (fields.get("Copyright", "unknown"), fields.get("License", "unknown").split()[0])
    return found


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                separator = "; " if name == "Copyright" else " "
                fields[name] = f"{fields.get(name, '')}{separator}{line.strip()}"
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        yield fields


def build(target: Path) -> list[str]:
    """Write the set into `target`; return the installed paths that the packages do not have."""
    target.mkdir(parents=True, exist_ok=True)
    missing, rows = [], []
    total = sum(len(paths) for paths in PACKAGES.values())
    with tempfile.TemporaryDirectory() as folder, tqdm(total=total, unit="photo") as progress:
        for package, paths in PACKAGES.items():
            progress.set_description(package)
            root = fetch(package, Path(folder))
            copyright_file = (root / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8")
            for path in paths:
                if (root / path).is_file():
                    with Image.open(root / path) as image:
                        scaled(image).save(target / output_name(path), quality=QUALITY, subsampling=0)
                    rows.append((output_name(path), package, path, *authorship(copyright_file, path)))
                else:
                    missing.append(f"{package}: {path}")
                progress.update()
    _write_readme(target / "README.md", rows)
    return missing


def _write_readme(path: Path, rows: list[tuple[str, ...]]) -> None:
    lines = ["# Training photos", "", "Written by `scripts/build_photos.py` from Debian packages.", ""]
    lines += ["| file | package | installed as | copyright | licence |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in sorted(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path, help="folder to write, made if absent")
    args = parser.parse_args()
    try:
        missing = build(args.target)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        print(f"build_photos: {error}", file=sys.stderr)
        return 1
    for path in missing:
        print(f"build_photos: not in this version of the package, left out: {path}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
