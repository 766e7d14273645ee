"""A suite from its file to its results: find the images, restore them by every method, score the results."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffbir_jax.evaluation.evaluate import Evaluation, evaluate
from diffbir_jax.evaluation.metric import Metric, Setup
from diffbir_jax.evaluation.registry import select
from diffbir_jax.evaluation.result import Result
from diffbir_jax.evaluation.suites.datasets import Images, find_datasets
from diffbir_jax.evaluation.suites.methods import Method, Networks, make_methods, select_methods
from diffbir_jax.evaluation.suites.restoring import check_recipe, recipe, restore_images, result_folders
from diffbir_jax.evaluation.suites.spec import Suite
from diffbir_jax.files.folders import make_folder


@dataclass(frozen=True)
class SuiteRun:
    """The settings of a suite run.

    Attributes:
        suite: the suite.
        networks: the networks of stage 1 and DiffBIR.
        output: folder of all results: `<dataset>/<method>` holds images, their recipe and their result.
        data: folder of the images, see `find_datasets`.
        datasets: names of datasets, all by default.
        methods: names of methods, all by default.
        realesrgan: path of Real-ESRGAN's weights, see `realesrgan_method`.
        metrics: replace the suite's.
        weights: folder of the networks of metrics, or None.
    """

    suite: Suite
    networks: Networks
    output: Path
    data: Path | None = None
    datasets: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    realesrgan: Path | None = None
    metrics: Sequence[Metric] | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class Job:
    """A method on a dataset: its folder and, if the method can run, its recipe."""

    images: Images
    method: Method
    folder: Path
    recipe: Mapping[str, object]


def run_suite(run: SuiteRun) -> dict[Path, dict[str, Result]]:
    """Restore and score. Existing results are kept, so that an interrupted run continues.

    Returns:
        for the folder of each dataset, a result per method by its name, which is also the folder that its files are
        relative to. A method that could not run has a result without images, with the reason for every metric.

    Raises:
        ValueError, FileNotFoundError, ImageFileError: before the run, if images or weights are missing, or if the
            output holds results of another recipe.
    """
    # All checks come before the first restoration, which may take hours.
    jobs = find_jobs(run)
    metrics = {job.folder: run.metrics or select(_names(run, job)) for job in jobs}
    for job in jobs:
        make_folder(job.folder.parent)
        if not job.method.unavailable:
            restore_images(job.images, job.method, job.folder, job.recipe)
    results: dict[Path, dict[str, Result]] = {}
    for job in jobs:
        results.setdefault(job.folder.parent, {})[job.method.name] = _scored(run, job, metrics[job.folder])
    return results


def find_jobs(run: SuiteRun) -> list[Job]:
    """Return all jobs, dataset by dataset; errors as in `run_suite`."""
    found = find_datasets(run.suite, run.data, run.datasets)
    methods = {
        whole: select_methods(make_methods(run.suite, networks, run.realesrgan), run.methods)
        for whole, networks in ((False, run.networks), (True, run.networks.of_whole_photos()))
        if not whole or any(images.dataset.whole for images in found)
    }
    return [_job(run, images, method) for images in found for method in methods[images.dataset.whole]]


def _job(run: SuiteRun, images: Images, method: Method) -> Job:
    folder = run.output / images.dataset.name / method.name
    # A method that cannot run has a row with its reason, but no files to describe.
    if method.unavailable:
        return Job(images, method, folder, {})
    wanted = recipe(run.suite, images, method)
    check_recipe(folder, wanted)
    return Job(images, method, folder, wanted)


def _names(run: SuiteRun, job: Job) -> Sequence[str]:
    """The names of a dataset's metrics."""
    return job.images.dataset.metrics or run.suite.metrics


def _scored(run: SuiteRun, job: Job, metrics: Sequence[Metric]) -> Result:
    protocol = {"suite": _summary(run.suite, job.images), "restoring": job.recipe}
    if job.method.unavailable:
        unavailable = {metric.name: job.method.unavailable for metric in metrics}
        return Result(job.method.title, protocol, {}, {}, {}, (), {}, unavailable)
    preds = result_folders(job.method, job.folder)
    if len(preds) > 1:
        metrics = tuple(dict.fromkeys((*metrics, *select(["lstd"]))))
    # The suite fixes the crop: its scores must be comparable with published ones.
    setup = Setup(run.suite.crop, run.weights, _reference(run, job))
    return evaluate(
        Evaluation(
            job.method.title, preds, job.folder, metrics, job.images.gt, job.images.lq, setup, protocol
        )
    )


def _reference(run: SuiteRun, job: Job) -> Path | None:
    """The folder that FID is taken against, if the data set names one and it is there."""
    name = job.images.dataset.reference
    folder = run.data / name if run.data and name else None
    return folder if folder and folder.is_dir() else None


def _summary(suite: Suite, images: Images) -> dict[str, object]:
    """The description of the suite in a result."""
    names = ("name", "version", "title", "task", "upscale", "crop", "colour", "bicubic")
    dataset = dataclasses.asdict(images.dataset) | {"found": len(images.cases)}
    return {**{name: getattr(suite, name) for name in names}, "dataset": dataset}
