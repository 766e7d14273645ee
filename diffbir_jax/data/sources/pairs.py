"""Pairs of photos in two folders of the same names, degraded and clean ones."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from diffbir_jax.data.example import DataError
from diffbir_jax.data.sources.folder import folder
from diffbir_jax.data.sources.paired import PairedSource

# Names that an error lists.
SHOWN = 3


def pairs(lq: str, hq: str) -> PairedSource:
    """Make a source of two folders: an image in one has the same path as its partner in the other, but for the suffix.

    Args:
        lq: folder (or URL) of degraded images.
        hq: folder of clean ones, with captions as in `folder`.

    Raises:
        DataError: a folder cannot be used, or an image has no partner or several.
    """
    degraded, clean = folder(lq), folder(hq)
    partners = _by_stem(lq, degraded.names)
    wanted = _by_stem(hq, clean.names)
    for place, lacking in ((lq, wanted.keys() - partners.keys()), (hq, partners.keys() - wanted.keys())):
        if lacking:
            raise DataError(
                f"{place}: lacks {len(lacking)} of {len(wanted | partners)} images that the other folder of pairs has, "
                f"such as {', '.join(sorted(lacking)[:SHOWN])}; give two folders of the same names"
            )
    return PairedSource(clean, lq, [partners[_stem(name)] for name in clean.names])


def _by_stem(place: str, names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(_stem(name), name)) != name:
            raise DataError(f"{place}: {other} and {name} have one name for a partner; rename one of them")
    return found


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
