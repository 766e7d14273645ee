"""Scores of all images by all metrics, through a cache."""

import functools
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import scipy

from diffbir_jax.batch import sidecar
from diffbir_jax.console.errors import UserError
from diffbir_jax.console.progress import tallied
from diffbir_jax.console.threads import in_threads
from diffbir_jax.evaluation.cache import Cache, Outcome
from diffbir_jax.evaluation.metric import Kind, Metric, SetScore, Setup, UnavailableError
from diffbir_jax.evaluation.pairs import Case
from diffbir_jax.files.digest import known_sha256
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.listing import list_folder
from diffbir_jax.weights.safetensors import checksum


@dataclass(frozen=True)
class Scorer:
    """A metric that is ready to score.

    Attributes:
        metric: the metric.
        function: the result of its `load`.
        checksums: CRC-32 of the weights files that it read, by name.
        versions: versions of the packages that compute, by name.
        crop: see `Setup`; 0 if the metric does not use it.
        reference: images that a "set" metric compares with, if there are no ground truths.
    """

    metric: Metric
    function: Any
    checksums: Mapping[str, str]
    versions: Mapping[str, str]
    crop: int
    reference: tuple[Path, ...] = ()

    @functools.cached_property
    def stamp(self) -> str:
        """A digest of everything that scores depend on, except images."""
        own = [self.metric.name, self.metric.version, self.crop]
        return _digest([own, dict(self.checksums), dict(self.versions)])

    def key(self, case: Case, paths: Sequence[Path]) -> str:
        """Return the cache's key for the score of these files of a case."""
        cut = [] if case.cut is None else [list(case.cut)]
        return _digest([self.stamp, *(case.digests[path] for path in paths), *cut])


class Scorers(NamedTuple):
    """The metrics that can run, and the reasons why others cannot, by name."""

    ready: tuple[Scorer, ...]
    unavailable: dict[str, str]


def load_scorers(metrics: Sequence[Metric], setup: Setup, like: Case) -> Scorers:
    """Load metrics for cases such as `like`: with or without ground truth, with one or several seeds."""
    ready: list[Scorer] = []
    reference = reference_images(setup, like)
    unavailable: dict[str, str] = {}
    for metric in metrics:
        try:
            if not (metric.kind == "set" and reference) and (reason := lacks(metric.kind, like)):
                raise UnavailableError(reason)
            function = metric.load(setup)
        except UnavailableError as error:
            unavailable[metric.name] = " ".join(str(error).split())
            continue
        # Taken after loading: the files exist now.
        checksums = {name: _checksum(setup, name) for name in metric.files}
        crop = setup.crop if metric.cropped else 0
        others = reference if metric.kind == "set" else ()
        ready.append(Scorer(metric, function, checksums, versions(metric.packages), crop, others))
    return Scorers(tuple(ready), unavailable)


def reference_images(setup: Setup, like: Case) -> tuple[Path, ...]:
    """Return the images of the reference set, sorted; none if there are ground truths or no such set."""
    if like.gt is not None or setup.reference is None:
        return ()
    return tuple(sorted(list_folder(setup.reference).images))


def truth_digests(cases: Sequence[Case], scorer: Scorer) -> list[str]:
    """Return SHA-256 of each image that a "set" metric compares with."""
    own = [case.digests[case.gt] for case in cases if case.gt is not None]
    return own or [known_sha256(path) for path in scorer.reference]


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of the packages that compute, and of further packages, by name."""
    own = {"scipy": scipy.__version__, "opencv": cv2.__version__}
    return sidecar.versions() | own | {package: version(package) for package in packages}


def lacks(kind: Kind, case: Case) -> str:
    """Return what a metric of this kind needs and the case lacks; "" if it can run."""
    if kind in ("reference", "set") and case.gt is None:
        return "needs --gt"
    if kind == "spread" and not case.several:
        return "needs several folders in --pred, one per seed"
    return ""


def fill(cases: Sequence[Case], scorers: Sequence[Scorer], cache: Cache, threads: int | None = None) -> None:
    """Score everything that the cache does not hold: first image by image, then whole sets.

    Args:
        cases: checked ones.
        scorers: the metrics.
        cache: receives each score at once.
        threads: images at a time; by default one per core, at most 8.
    """
    alone = [scorer for scorer in scorers if scorer.metric.kind != "set"]
    work = functools.partial(_fill_case, scorers=alone, cache=cache)
    # Cases that are complete in the cache are not read at all.
    todo = [
        case
        for case in cases
        if any(scorer.key(case, x) not in cache for scorer in alone for x in inputs(scorer.metric.kind, case))
    ]
    scored = in_threads(work, todo, threads or min(8, os.cpu_count() or 1))
    initial = len(cases) - len(todo)
    for _ in tallied(scored, "scoring", len(cases), initial):
        pass
    for scorer in scorers:
        if scorer.metric.kind == "set":
            _fill_sets(cases, scorer, cache)


def inputs(kind: Kind, case: Case) -> list[tuple[Path, ...]]:
    """Return the files of a case for each score: a tuple per seed; for a "spread" metric one tuple of all seeds."""
    if kind == "spread":
        return [case.preds]
    if kind == "reference" and case.gt is not None:
        return [(pred, case.gt) for pred in case.preds]
    return [(pred,) for pred in case.preds]


def set_keys(cases: Sequence[Case], scorer: Scorer) -> list[str]:
    """The keys of a "set" metric's scores, one per seed."""
    truths = truth_digests(cases, scorer)
    seeds = zip(*([case.digests[pred] for pred in case.preds] for case in cases))
    cuts = [list(case.cut) if case.cut else None for case in cases]
    more = [cuts] if any(cuts) else []
    return [_digest([scorer.stamp, list(seed), truths, *more]) for seed in seeds]


def _fill_case(case: Case, scorers: Sequence[Scorer], cache: Cache) -> None:
    # Each file is read once per case, for all metrics.
    read = functools.cache(case.read)
    for scorer in scorers:
        for paths in inputs(scorer.metric.kind, case):
            if (key := scorer.key(case, paths)) not in cache:
                images = [read(path) for path in paths]
                arguments = [images] if scorer.metric.kind == "spread" else images
                cache.put(key, attempt(scorer.function, *arguments))


def attempt(function: Callable[..., float], *arguments: object) -> Outcome:
    """Score images. A UserError means that the metric cannot score these images; it becomes a problem of the outcome.

    Errors of a network's library become problems too, but passing ones: the next run tries again.

    Raises:
        ImageFileError: an image cannot be read.
    """
    try:
        score = float(function(*arguments))
    except ImageFileError:
        raise
    except UserError as error:
        return Outcome(None, " ".join(str(error).split()))
    except (RuntimeError, ValueError, AssertionError, MemoryError, cv2.error) as error:
        return Outcome(None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", passing=True)
    return Outcome(score) if math.isfinite(score) else Outcome(None, f"the score is {score}")


def _fill_sets(cases: Sequence[Case], scorer: Scorer, cache: Cache) -> None:
    """Score the set of each seed; the features of ground truths are computed once."""
    function: SetScore = scorer.function
    missing = [(seed, key) for seed, key in enumerate(set_keys(cases, scorer)) if key not in cache]
    if not missing:
        return

    def features(files: Sequence[tuple[Case, Path]]) -> np.ndarray:
        bar = tallied(files, f"features of {scorer.metric.title}", len(files))
        read = in_threads(lambda pair: pair[0].read(pair[1]), bar)
        return np.stack([function.features(image) for image in read])

    # Lazy: if the predictions fail, the ground truths are never processed.
    own = [(case, case.gt) for case in cases if case.gt is not None]
    # Images of the reference set are no cases: they are read as they are.
    others = [(Case(path.name, ()), path) for path in scorer.reference]
    truths = functools.cache(lambda: features(own or others))
    for seed, key in missing:
        paths = [(case, case.preds[seed]) for case in cases]
        cache.put(key, attempt(lambda paths=paths: function.distance(features(paths), truths())))


def _checksum(setup: Setup, name: str) -> str:
    """CRC-32 of a file that a metric has read; for a safetensors file, named by its stem, of its values only."""
    folder = Path() if setup.weights is None else setup.weights.expanduser()
    if "." in name:
        return f"{zlib.crc32((folder / name).read_bytes()):08x}"
    return checksum(folder / f"{name}.safetensors")


def _digest(content: object) -> str:
    # Sorted keys, because the order of a dict must not change the key.
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
