"""An evaluation from its folders to its `Result`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffbir_jax.evaluation.aggregate import summarise
from diffbir_jax.evaluation.cache import Cache, Outcome
from diffbir_jax.evaluation.metric import Metric, Setup
from diffbir_jax.evaluation.pairs import Case, check_cases, match_cases
from diffbir_jax.evaluation.result import Column, Image, Result, Summary, write_result
from diffbir_jax.evaluation.scoring import (
    Scorer,
    Scorers,
    fill,
    inputs,
    load_scorers,
    set_keys,
    truth_digests,
    versions,
)
from diffbir_jax.evaluation.tables import CUT, DEVIATION
from diffbir_jax.files.folders import make_folder
from diffbir_jax.imaging.photo import MAX_PIXELS
from diffbir_jax.metrics.spread import global_deviation

# Folder of the report's pictures, inside the evaluation's folder.
REPORT = "report"
CROP_TO_COMMON = "crop_to_common"
COLOURS = "RGB in 8 bits: 16 bits rounded, gray repeated, alpha over white; Y of ITU-R BT.601 in 16 to 235, not rounded"


@dataclass(frozen=True)
class Evaluation:
    """The input of an evaluation.

    Attributes:
        name: name of the result; the row's title in tables.
        preds: folders of results of the same images, one per seed.
        output: folder of the evaluation; files in it keep scores for the next time.
        metrics: columns, in order. With several folders, deviations over seeds follow, of all metrics except "set"
            ones.
        gt: folder of ground truths.
        lq: folder of the images that were restored; reports show them.
        setup: setup of the metrics.
        protocol: further settings that scores depend on; JSON.
        max_pixels: largest number of pixels of a file.
        crop_to_common: cut results that are a pixel larger or smaller than their ground truths to the common size.
    """

    name: str
    preds: Sequence[Path]
    output: Path
    metrics: Sequence[Metric]
    gt: Path | None = None
    lq: Path | None = None
    setup: Setup = Setup()
    protocol: Mapping[str, object] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    crop_to_common: bool = False


def evaluate(evaluation: Evaluation) -> Result:
    """Score all images, through `output`/cache.jsonl, and write `output`/result.json.

    Files with the same content are scored once. Results of the same files are equal byte for byte.

    Raises:
        ImageFileError: images do not match or cannot be read, or `output` cannot be written; raised before any scoring.
    """
    output = evaluation.output
    make_folder(output)
    # The output may lie inside a folder of results; its pictures are not results.
    own = [output, output / REPORT]
    found, problems = match_cases(evaluation.preds, evaluation.gt, evaluation.lq, exclude=own)
    cases = check_cases(found, evaluation.max_pixels, evaluation.crop_to_common, problems)
    scorers = load_scorers(evaluation.metrics, evaluation.setup, cases[0])
    with Cache(output / "cache.jsonl") as cache:
        fill(cases, scorers.ready, cache)
        # The result is built from the cache alone, so an interrupted run gives the same result.
        result = _assemble(evaluation, cases, scorers, cache)
    write_result(result, output / "result.json")
    return result


def _assemble(evaluation: Evaluation, cases: Sequence[Case], scorers: Scorers, cache: Cache) -> Result:
    """Collect the scores in the cache."""
    images = tuple(_image(case, scorers.ready, cache, evaluation.output) for case in cases)
    ready = [scorer.metric for scorer in scorers.ready] if len(evaluation.preds) > 1 else []
    columns = _columns(evaluation.metrics, deviating=ready)
    means = {column: summarise(image.scores.get(column) for image in images) for column in columns}
    sets, failed = _sets(cases, scorers.ready, cache)
    return Result(
        evaluation.name,
        _protocol(evaluation, cases, scorers.ready) | dict(evaluation.protocol),
        versions() | {name: each for scorer in scorers.ready for name, each in scorer.versions.items()},
        {name: crc for scorer in scorers.ready for name, crc in scorer.checksums.items()},
        columns,
        images,
        {column: mean for column in columns if (mean := sets.get(column, means[column])) is not None},
        scorers.unavailable | failed,
    )


def _columns(metrics: Sequence[Metric], deviating: Sequence[Metric]) -> dict[str, Column]:
    """Columns of metrics, and of the deviations over seeds of some of them."""
    columns = {m.name: Column(m.title, m.better, m.kind, m.version) for m in metrics}
    return columns | {
        m.name + DEVIATION: Column(f"{m.title} G-STD", "lower", "spread", m.version)
        for m in deviating
        # A set has one score for all images, and a spread is a deviation already.
        if m.kind in ("reference", "single")
    }


def _image(case: Case, scorers: Sequence[Scorer], cache: Cache, folder: Path) -> Image:
    scores: dict[str, float | None] = {}
    problems: dict[str, str] = {}
    for scorer in scorers:
        metric = scorer.metric
        if metric.kind == "set":
            continue
        outcome, deviation = _over_seeds([cache[scorer.key(case, x)] for x in inputs(metric.kind, case)])
        found = {metric.name: outcome}
        if case.several and metric.kind != "spread":
            found[metric.name + DEVIATION] = deviation
        scores |= {name: each.score for name, each in found.items()}
        problems |= {name: each.problem for name, each in found.items() if each.problem is not None}
    files = {"pred": case.preds[0], "gt": case.gt, "lq": case.lq}
    return Image(case.name, scores, {k: _shown(path, folder) for k, path in files.items() if path}, problems)


def _over_seeds(outcomes: Sequence[Outcome]) -> tuple[Outcome, Outcome]:
    """Mean and standard deviation over seeds; without a score for every seed there is neither."""
    scores = [each.score for each in outcomes if each.score is not None]
    if len(scores) < len(outcomes):
        problem = next(each for each in outcomes if each.problem is not None)
        return problem, problem
    deviation = global_deviation(np.array([scores])) if len(scores) > 1 else 0.0
    return Outcome(float(np.mean(scores))), Outcome(deviation)


def _sets(
    cases: Sequence[Case], scorers: Sequence[Scorer], cache: Cache
) -> tuple[dict[str, Summary], dict[str, str]]:
    """Scores of "set" metrics, and the reasons for missing ones."""
    scores: dict[str, Summary] = {}
    failed: dict[str, str] = {}
    for scorer in scorers:
        if scorer.metric.kind == "set":
            outcome, _ = _over_seeds([cache[key] for key in set_keys(cases, scorer)])
            if outcome.score is None:
                failed[scorer.metric.name] = str(outcome.problem)
            else:
                scores[scorer.metric.name] = Summary(outcome.score, None, None, len(cases))
    return scores, failed


def _protocol(evaluation: Evaluation, cases: Sequence[Case], scorers: Sequence[Scorer]) -> dict[str, object]:
    """Return the settings that scores depend on; results with the same "scoring" can be compared."""
    # Ground truths are identified by content: the same folder name may hold other images.
    truths = "".join(case.digests[case.gt] for case in cases if case.gt is not None)
    folders = {"gt": evaluation.gt, "lq": evaluation.lq}
    return {
        "scoring": {
            "crop": evaluation.setup.crop,
            "colours": COLOURS,
            "ground_truths": hashlib.sha256(truths.encode()).hexdigest() if truths else None,
            "metrics": {
                each.metric.name: {"version": each.metric.version, "weights": dict(each.checksums)}
                for each in scorers
            },
        }
        | _reference(evaluation, scorers)
        # Only if it was asked for, so that other results stay comparable with those of before.
        | ({CROP_TO_COMMON: True} if evaluation.crop_to_common else {}),
        **({CUT: sum(case.cut is not None for case in cases)} if evaluation.crop_to_common else {}),
        "results_per_image": len(evaluation.preds),
        "folders": {"pred": [path.resolve().name for path in evaluation.preds]}
        | {key: path.resolve().name for key, path in folders.items() if path is not None},
    }


def _reference(evaluation: Evaluation, scorers: Sequence[Scorer]) -> dict[str, object]:
    """The set of images that takes the place of ground truths in "set" metrics, if there is one."""
    used = next((scorer for scorer in scorers if scorer.reference), None)
    folder = evaluation.setup.reference
    if used is None or folder is None:
        return {}
    digest = hashlib.sha256("".join(truth_digests((), used)).encode()).hexdigest()
    return {"reference": {"folder": folder.name, "images": len(used.reference), "sha256": digest}}


def _shown(path: Path, folder: Path) -> str:
    path, folder = path.absolute(), folder.absolute()
    # Relative paths let the folder be moved with its images.
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
