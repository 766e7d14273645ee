"""Convert a source to ArrayRecord shards, in chunks, so that an interrupted run can continue."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from diffbir_jax import __version__
from diffbir_jax.console.progress import tallied
from diffbir_jax.console.tables import csv_table
from diffbir_jax.data.examining import Verdict, verdicts
from diffbir_jax.data.example import DataError, Source
from diffbir_jax.data.sources.array_record import unfinished, write_shard
from diffbir_jax.files.digest import sha256
from diffbir_jax.files.writing import check_length, replace_file
from diffbir_jax.imaging.photo import MIN_SIDE

MANIFEST, REJECTED = "manifest.json", "rejected.csv"
COLUMNS = ("index", "name", "fault", "detail")


@dataclass(frozen=True)
class Settings:
    """The settings that determine the content of the shards.

    Attributes:
        name: first part of the files' names.
        min_side: least length of an image's shorter side (pixels, at least 16).
        shard_size: images of the source per shard, including rejected ones.

    Raises:
        DataError: a setting is not allowed.
    """

    name: str = "train"
    min_side: int = 512
    shard_size: int = 1000

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]*\w", self.name):
            raise DataError(f"--name {self.name}: give letters, digits, - and _ only")
        if self.min_side < MIN_SIDE:
            raise DataError(f"--min-side {self.min_side}: give at least {MIN_SIDE}")
        if self.shard_size < 1:
            raise DataError(f"--shard-size {self.shard_size}: give at least 1")


class Report(TypedDict):
    """What became of a chunk's images, see `Chunk.report`."""

    kept: dict[str, int]
    captioned: int
    unread_captions: list[str]
    rejected: list[tuple[int, str, str, str]]
    sha256: str


class Begun(TypedDict):
    """A manifest when a run begins."""

    version: str
    settings: dict[str, object]
    fingerprint: str


class Manifest(Begun):
    """A manifest in the end."""

    finished: bool
    images: int
    kept: int
    captioned: int
    unread_captions: list[str]
    rejected: dict[str, int]
    shards: dict[str, int]


@dataclass(frozen=True)
class Chunk:
    """A range of images and its files.

    Attributes:
        indices: indices of the images in the source.
        shard: the ArrayRecord file.
        report: a JSON file, written last: digest and index of each kept image; how many of these have a caption; what
            is wrong with captions that were left out; index, name, fault and detail of each rejected one; SHA-256 of
            the shard.
    """

    indices: range
    shard: Path
    report: Path

    def fault(self) -> str:
        """What is wrong with the files, or nothing."""
        try:
            report = self.load()
            intact = (
                report["sha256"] == sha256(self.shard)
                and {"kept", "captioned", "unread_captions", "rejected"} <= report.keys()
            )
        except (ValueError, KeyError, TypeError):
            return f"{self.report}: is damaged, or of an older version"
        return "" if intact else f"{self.shard}: has changed since it was written"

    def load(self) -> Report:
        """Read the report."""
        return json.loads(self.report.read_text("utf-8"))


def chunks(count: int, output: Path, settings: Settings) -> list[Chunk]:
    """Cut `count` images into chunks with files in `output`."""
    size = settings.shard_size
    total = -(-count // size)
    stems = [output / f"{settings.name}-{i:05d}-of-{total:05d}" for i in range(total)]
    return [
        Chunk(
            range(i * size, min((i + 1) * size, count)),
            stem.with_name(f"{stem.name}.array_record"),
            stem.with_name(f"{stem.name}.json"),
        )
        for i, stem in enumerate(stems)
    ]


def prepare(source: Source, output: Path, settings: Settings, workers: int) -> Manifest:
    """Write the images of a source that are fit for training to ArrayRecord shards, and list the rejected ones.

    An image is kept if it can be read, decodes in full (`imaging.decoding`), is large enough, and its pixels differ
    from those of all earlier images. The bytes of its file are stored unchanged; an array becomes PNG. Chunks of
    `settings.shard_size` images are processed in order, and each is written as a whole. So the next run continues a
    killed one. Shards are equal byte for byte, for any number of processes and interruptions.

    Args:
        source: the images.
        output: folder of the shards, `manifest.json` and `rejected.csv`.
        settings: must be the same in all runs with this folder.
        workers: number of processes that check images; 0 checks in this process.

    Returns:
        The content of `manifest.json`.

    Raises:
        DataError: the folder holds shards of other settings or another source.
        OSError, ImageFileError: files cannot be written, or their names are too long.
        concurrent.futures.process.BrokenProcessPool: a process was killed.
    """
    manifest = Begun(version=__version__, settings=asdict(settings), fingerprint=source.fingerprint)
    parts = chunks(len(source), output, settings)
    # The names of all shards have the same length.
    check_length(parts[0].shard, "give a shorter --name or --output", unfinished(parts[0].shard))
    _begin(output, manifest)
    finished = set(_whole(parts))
    left = [index for part in parts if part not in finished for index in part.indices]
    seen: dict[str, int] = {}
    first = len(source) - len(left)
    with (
        closing(verdicts(source, left, settings.min_side, workers)) as found,
        closing(tallied(found, "preparing", len(source), first)) as shown,
    ):
        for part in parts:
            if part in finished:
                # Finished chunks still count for duplicates.
                seen |= part.load()["kept"]
            else:
                _write(part, shown, seen)
    return _finish(output, manifest, parts)


def _whole(parts: list[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks that are done; say which ones are damaged and are therefore written again."""
    for part in parts:
        if part.report.exists() and part.shard.exists():
            fault = part.fault()
            if fault:
                print(f"{fault}; it is written again", file=sys.stderr)
            else:
                yield part


def _begin(output: Path, manifest: Begun) -> None:
    """Write the manifest of a new run, or check it against that of an earlier run."""
    path = output / MANIFEST
    if not path.exists():
        # Shards of unknown settings must not be mixed with new ones.
        if any(output.glob("*.array_record")):
            raise DataError(f"{output}: holds shards but no {MANIFEST}; give another --output")
        return replace_file(path, _json({**manifest, "finished": False}))
    earlier = _manifest(path)
    for field, value in manifest["settings"].items():
        if earlier["settings"].get(field) != value:
            flag, old = f"--{field.replace('_', '-')}", earlier["settings"].get(field)
            raise DataError(
                f"{output}: begun with {flag} {old}, now {value}; give the same or another --output"
            )
    if earlier["fingerprint"] != manifest["fingerprint"]:
        raise DataError(
            f"{output}: begun with other inputs than those of now; give the same or another --output"
        )


def _manifest(path: Path) -> Begun:
    """Read the manifest of an earlier run."""
    try:
        manifest = json.loads(path.read_text("utf-8"))
        settings, fingerprint = dict(manifest["settings"]), manifest["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is damaged; give another --output, or remove the folder") from None
    return Begun(version="", settings=settings, fingerprint=fingerprint)


def _write(part: Chunk, found: Iterator[Verdict], seen: dict[str, int]) -> None:
    """Write the files of a chunk. `seen` maps a digest to the first image's index; new digests are added."""
    kept: dict[str, int] = {}
    captioned = 0
    unread: list[str] = []
    rejected: list[tuple[int, str, str, str]] = []

    def records() -> Iterator[bytes]:
        """Yield what is kept, and count the rest on the way."""
        nonlocal captioned
        for index, verdict in zip(part.indices, found):
            # The first image with these pixels stays; later ones are duplicates of it.
            first = seen.setdefault(verdict.digest, index) if verdict.digest else None
            if verdict.fault:
                rejected.append((index, verdict.name, verdict.fault, verdict.detail))
            elif first != index:
                rejected.append((index, verdict.name, "duplicate", f"has the pixels of image {first}"))
            else:
                kept[verdict.digest] = index
                captioned += verdict.captioned
                unread.extend([verdict.unread] if verdict.unread else [])
                yield verdict.record

    # The report is written last: a chunk without a report is done again.
    write_shard(part.shard, records())
    report = Report(
        kept=kept,
        captioned=captioned,
        unread_captions=unread,
        rejected=rejected,
        sha256=sha256(part.shard),
    )
    replace_file(part.report, _json(report))


def _finish(output: Path, manifest: Begun, parts: list[Chunk]) -> Manifest:
    """Write rejected.csv and the final manifest."""
    rows, faults, shards, captioned = [COLUMNS], Counter[str](), {}, 0
    unread: list[str] = []
    for part in parts:
        report = part.load()
        shards[part.shard.name] = len(report["kept"])
        captioned += report["captioned"]
        unread += report["unread_captions"]
        rows += report["rejected"]
        faults.update(fault for _, _, fault, _ in report["rejected"])
    replace_file(output / REJECTED, csv_table(rows).encode("utf-8", "surrogateescape"))
    whole = Manifest(
        **manifest,
        finished=True,
        images=parts[-1].indices.stop,
        kept=sum(shards.values()),
        captioned=captioned,
        unread_captions=unread,
        rejected=dict(sorted(faults.items())),
        shards=shards,
    )
    replace_file(output / MANIFEST, _json(whole))
    return whole


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
