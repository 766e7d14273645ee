"""Debian packages: what they install, and what their copyright files say of it."""

import fnmatch
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from scripts.rcc import Archive, read_archive


class BuildError(Exception):
    """The set cannot be built here; the message says why and what to do."""


class Package:
    """The files of a package that was unpacked into the folder `root`."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self._archives: dict[str, Archive] = {}

    def notice(self, path: str) -> str:
        """Return the text that names author and licence of the picture `path`.

        It is the copyright file of the package; of a picture in an archive the README in its folder there, or in the
        closest one above.
        """
        path, _, inner = path.partition(":")
        for folder in PurePosixPath(inner).parents if inner else ():
            if (text := self.read(f"{path}:{folder / 'README'}")) is not None:
                return text.decode("utf-8", "replace")
        return (self.root / "usr/share/doc" / self.name / "copyright").read_text(encoding="utf-8")

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, named as in `photo_list.Photo.path`, or None if the package lacks it.

        Raises:
            RccError: the archive or the entry is damaged.
        """
        path, _, inner = path.partition(":")
        if not (self.root / path).is_file():
            return None
        if not inner:
            return (self.root / path).read_bytes()
        archive = self.archive(path)
        return archive.read(inner) if inner in archive.places else None

    def archive(self, path: str) -> Archive:
        """Return the `.rcc` archive installed as `path`."""
        if path not in self._archives:
            self._archives[path] = read_archive(self.root / path)
        return self._archives[path]


def require_tools() -> None:
    """Raise BuildError unless packages can be downloaded and unpacked."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise BuildError(f"{tool} not found: run this on Debian or a derivative (a container will do)")


def fetch(name: str, folder: Path) -> Package:
    """Download and unpack the package `name` into `folder`.

    Raises:
        BuildError: it cannot be had.
    """
    download = subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob(f"{name}_*.deb"))
    if download.returncode or not archives:
        said = " ".join(download.stderr.split())
        raise BuildError(f"cannot download {name}: run 'apt-get update' first ({said})")
    root = folder / name
    if subprocess.run(["dpkg-deb", "-x", archives[0], root]).returncode:
        raise BuildError(f"cannot unpack {archives[0].name}: is there room in {folder}?")
    archives[0].unlink()
    return Package(name, root)


def authorship(copyright_file: str, path: str) -> tuple[str, str]:
    """Find (copyright holders, licence) of the picture `path` in the text of a Debian copyright file.

    The format is Debian's machine-readable one, whose lines need not be indented here: the last paragraph whose `Files`
    match holds. Patterns name the source tree, whose folders are others, so that base names are compared.
    """
    found = ("unknown", "unknown")
    for fields in _paragraphs(copyright_file):
        if any(_matches(PurePosixPath(path), PurePosixPath(pattern)) for pattern in _patterns(fields)):
            found = (_holders(fields), fields.get("License", "unknown").partition("\n")[0])
    return found


def _holders(fields: dict[str, str]) -> str:
    """Return the copyright holders that a paragraph names, and where they had the picture from."""
    names, comment = fields.get("Copyright", "unknown"), fields.get("Comment", "")
    if comment.startswith("based on"):
        names = f"{names}, {comment}"
    if source := re.search(r"Taken from ([\w-]+\.com)", fields.get("License", "")):
        names = f"{names}, from {source[1]}"
    return " ".join(names.split())


def _patterns(fields: dict[str, str]) -> list[str]:
    """Return which files a paragraph is about; GCompris leaves out the word `Files:` after some licences."""
    if "Files" in fields:
        return [p for p in fields["Files"].split() if not p.startswith("debian/")]
    return [line for line in fields.get("License", "").splitlines()[1:] if line.endswith(".webp")]


def _matches(path: PurePosixPath, pattern: PurePosixPath) -> bool:
    if pattern.name == "*":
        return pattern.parent.name in ("", *path.parts)
    # "hills1*" means hills1.jpg and hills1@2x.jpg, neither hills10.jpg nor hills1-somebody.jpg.
    return fnmatch.fnmatch(path.name, re.sub(r"(?<=\d)\*$", "[!0-9-]*", pattern.name))


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            field, colon, value = line.partition(":")
            if colon and re.fullmatch(r"[A-Z][\w-]*", field):
                name = field
                fields[name] = value.strip()
            else:
                separator = "; " if name == "Copyright" else "\n"
                fields[name] = f"{fields.get(name, '')}{separator}{line.strip()}".strip("; \n")
        yield fields
