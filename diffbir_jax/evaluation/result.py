"""The content of a run's `result.json`: scores by image, means with intervals, and everything they depend on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.checked import checked, read_checked
from diffbir_jax.files.writing import replace_file

FORMAT = 1


@dataclass(frozen=True)
class Column:
    """A metric in a result: `title`, `better` ("higher" or "lower"), `kind` and `version`, see `Metric`."""

    title: str
    better: Literal["higher", "lower"]
    kind: Literal["reference", "single", "set", "spread"]
    version: int


@dataclass(frozen=True)
class Summary:
    """A mean over images.

    Attributes:
        mean: mean of the scores that are finite numbers.
        low: lower end of the 95 % bootstrap interval of the mean, None if there is no interval (a set, or one image).
        high: its upper end.
        count: number of images in the mean.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: below the folder, with "/".
        scores: by metric; None if a metric failed, with the reason in `problems`.
        files: paths of "pred", "gt" and "lq" if known, relative to the result's folder for files below it, absolute for
            others.
        problems: reasons for missing scores, by metric.
    """

    name: str
    scores: Mapping[str, float | None]
    files: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One evaluated set of images.

    Attributes:
        name: name of the method or the folder; the row's title in tables.
        protocol: everything that scores depend on: crop, suite, seeds, sampler, ...; JSON.
        versions: versions of Python, packages and this project, by name.
        checksums: checksums of weights files, by name.
        columns: metrics by name, in the table's order.
        images: all images, sorted by name.
        summary: by metric.
        unavailable: requested metrics that could not run, with the reason.
    """

    name: str
    protocol: Mapping[str, Any]
    versions: Mapping[str, str]
    checksums: Mapping[str, str]
    columns: Mapping[str, Column]
    images: tuple[Image, ...]
    summary: Mapping[str, Summary]
    unavailable: Mapping[str, str] = field(default_factory=dict)


def write_result(result: Result, path: Path) -> None:
    """Write `result` as JSON, whole or not at all; numbers that are not finite are null."""
    # allow_nan=False: a NaN that slipped through must fail here, not in a reader.
    text = json.dumps(_plain({"format": FORMAT} | asdict(result)), indent=1, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def read_result(path: Path) -> Result:
    """Read a file that `write_result` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no result, or has another format.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no result at {path}: give the folder that diffbir evaluate wrote (--output)"
        )
    what = f"result of diffbir evaluate in format {FORMAT}"
    stored = read_checked(path, _Stored, what, "give the folder that diffbir evaluate wrote")
    return Result(**{field.name: getattr(stored, field.name) for field in fields(Result)})


@dataclass(frozen=True)
class _Scoring:
    crop: Annotated[int, Field(ge=0)] = 0
    metrics: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Suite:
    name: str = ""


@dataclass(frozen=True)
class _Protocol:
    """The entries of a protocol that tables, comparisons and pages use; others are only shown and compared."""

    scoring: _Scoring = _Scoring()
    suite: _Suite = _Suite()
    results_per_image: Annotated[int, Field(ge=1)] = 1
    images_cut_to_common: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class _Used:
    protocol: _Protocol  # so that messages name it


@dataclass(frozen=True, kw_only=True)
class _Stored(Result):
    """A result as it stands in its file; another format would be misread without an error."""

    format: Literal[1]

    def __post_init__(self) -> None:
        checked({"protocol": self.protocol}, _Used)
        if len({image.name for image in self.images}) < len(self.images):
            raise UserError("images occur twice")
        if unknown := self.summary.keys() - self.columns.keys():
            raise UserError(f"{', '.join(sorted(unknown))} have a mean and no column")


def _plain(value: object) -> object:
    """Replace numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not -float("inf") < value < float("inf") else value
