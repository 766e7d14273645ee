"""The description of a published file, and of a Python package that may contain it."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: its file name.
        what: its content, in a few words.
        stems: names of the files that `convert_weights.py` makes from it, without .safetensors.
        licence: the name of its licence.
        page: web page with the licence.
        mirrors: addresses of the same bytes, in the order of attempts.
        size: bytes; None if no public source states them.
        sha256: lower-case hexadecimal digest; None if no public source states it.
        package: the Python package that contains the file, in place of mirrors.
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
        """Addresses of the file, or of the wheel that contains it."""
        return self.mirrors if self.package is None else self.package.wheel.mirrors


class Package(NamedTuple):
    """A Python package that contains published files.

    Attributes:
        distribution: its name for pip.
        module: its name for `import`.
        folder: folder of the files inside the package.
        wheel: one of its wheels; the files are the same in the wheels of all platforms.
    """

    distribution: str
    module: str
    folder: str
    wheel: WeightFile

    @property
    def version(self) -> str:
        """Version of the wheel."""
        # A wheel's name is distribution-version-python-abi-platform.whl (PEP 427).
        return self.wheel.name.split("-")[1]

    @property
    def python(self) -> str:
        """Python version of the wheel, "311" for 3.11."""
        return self.wheel.name.split("-")[2].removeprefix("cp")

    @property
    def platform(self) -> str:
        """Platform of the wheel."""
        return self.wheel.name.removesuffix(".whl").split("-")[-1]
