"""Make a source from a configuration."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import PurePath

from diffbir_jax.data.example import DataError, Example, Source
from diffbir_jax.data.sources.array_record import ArrayRecordSource
from diffbir_jax.data.sources.folder import folder, listed
from diffbir_jax.data.sources.pairs import pairs
from diffbir_jax.data.sources.shared import digest, part_of
from diffbir_jax.data.sources.table import TableSource
from diffbir_jax.data.sources.tar import TarSource
from diffbir_jax.data.sources.tfds import TfdsSource


class ConcatSource:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        """Take the sources, at least one."""
        self._sources = sources
        self._ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        """Read example `index`; BrokenExampleError if that fails."""
        which, within = part_of(self._ends, index)
        return self._sources[which][within]

    @property
    def fingerprint(self) -> str:
        """Digest of the sources' fingerprints."""
        return digest(source.fingerprint for source in self._sources)


def concat(sources: Sequence[Mapping[str, object]]) -> ConcatSource:
    """Make the sources of several configurations, one after the other.

    Raises:
        DataError: there are none, or one of them cannot be used.
    """
    if not sources:
        raise DataError("a source of kind concat needs sources; list at least one configuration")
    return ConcatSource([make_source(config) for config in sources])


KINDS: dict[str, Callable[..., Source]] = {
    "folder": folder,
    "list": listed,
    "table": TableSource,
    "pairs": pairs,
    "array_record": ArrayRecordSource,
    "tar": TarSource,
    "tfds": TfdsSource,
    "concat": concat,
}


def make_source(config: Mapping[str, object]) -> Source:
    """Make the source that a configuration describes (docs/data.md lists kinds and fields).

    Args:
        config: `kind`, a key of `KINDS`, and the arguments of that source. None counts as not given. Paths may be
            `pathlib.Path`.

    Raises:
        DataError: the kind or a field is unknown, a field is missing, or the source cannot be used.
    """
    given = {name: value for name, value in dict(config).items() if value is not None}
    fields = {name: str(value) if isinstance(value, PurePath) else value for name, value in given.items()}
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"kind of source {kind!r} is unknown; allowed are {', '.join(KINDS)}")
    # The signature is the list of fields, so a new kind needs no table of them.
    parameters = inspect.signature(KINDS[kind]).parameters
    if unknown := fields.keys() - parameters:
        raise DataError(
            f"source {kind}: unknown {', '.join(sorted(unknown))}; it takes {', '.join(parameters)}"
        )
    missing = [name for name, each in parameters.items() if each.default is each.empty and name not in fields]
    if missing:
        raise DataError(
            f"source {kind}: {', '.join(missing)} must be given; it takes {', '.join(parameters)}"
        )
    return KINDS[kind](**fields)
