"""A run from its flags to its exit code: find the jobs, load the networks, restore, report."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax

from diffbir_jax.batch.auto import Part, parts_of
from diffbir_jax.batch.captioning import with_captions
from diffbir_jax.batch.drive import Driver
from diffbir_jax.batch.ends import Ends
from diffbir_jax.batch.faces import advice, crop_networks, face_restorer
from diffbir_jax.batch.hosts import connect, share
from diffbir_jax.batch.jobs import Job, find_jobs
from diffbir_jax.batch.memory import by_size, planned, summary, unfit
from diffbir_jax.batch.names import remove_leftovers
from diffbir_jax.batch.repeat import check_weights, differences, recipe_of, repeated_job
from diffbir_jax.batch.report import Journal, complain, report_path
from diffbir_jax.batch.settings import FlagError, Recipe, Settings, settings_from
from diffbir_jax.batch.sidecar import Recorder, Sidecar
from diffbir_jax.console.errors import UserError
from diffbir_jax.console.interrupts import told
from diffbir_jax.faces.restoring import FaceRestorer
from diffbir_jax.files.folders import check_folder, make_folder
from diffbir_jax.files.records import write_record
from diffbir_jax.files.writing import check_length
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration import loras
from diffbir_jax.restoration.first_use import Allow, ask, permit, provide
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sharding import make_mesh
from diffbir_jax.weights.loading import NO_STAGE1, PRECISIONS, load_params, weight_files, with_stage1


@dataclass(frozen=True)
class Work:
    """The task of a command line.

    Attributes:
        settings: the run.
        jobs: the jobs of this host.
        record: the sidecar to repeat, or None.
        others: files among the inputs that are no images.
        ends: where files come from and go to.
    """

    settings: Settings
    jobs: Sequence[Job]
    record: Sidecar | None = None
    others: Sequence[Path] = ()
    ends: Ends = Ends()


def find_work(args: argparse.Namespace, ends: Ends) -> Work:
    """Return the task of a command line that `batch.flags.parse` has read and `ends_of` has freed of URLs.

    Raises:
        FlagError: flags contradict each other or are out of range, or processes do not connect.
        ImageFileError: there is nothing to restore, or results would overwrite files.
    """
    recipe, record = recipe_of(args) if args.from_sidecar else (None, None)
    settings = settings_from(args, recipe)
    if args.distributed:
        settings = connect(settings, args.coordinator)
    if record is None:
        jobs, others = find_jobs(settings, ends.inputs())
    else:
        jobs, others = [repeated_job(settings, record)], []
    ends.check(jobs)
    return Work(settings, share(jobs, settings), record, others, ends)


def run(work: Work) -> int:
    """Restore all jobs, print the outcome and return the exit code.

    Raises:
        FlagError: the networks cannot use the options.
        ImageFileError, ValueError, FileNotFoundError: no image can be restored; raised before the first one.
        Exception: a bug, after the results so far are written and the summary is printed.
    """
    settings, ends = work.settings, work.ends
    done = {job for job in work.jobs if ends.is_done(job)} if settings.skip_existing else set()
    todo = [job for job in work.jobs if job not in done]
    lost = ends.fetch(todo)
    todo = with_captions(todo, lost, settings, ends)
    journal = Journal(todo, [job for job in work.jobs if job in done], work.others, ends)
    for job, reason in lost.items():
        journal.failed(job, reason)
    for job, reason in unfit(journal.left, settings.recipe).items():
        journal.failed(job, reason)
    todo = journal.left
    report = settings.report and report_path(settings.report, settings.hosts, settings.host_index)
    if todo:
        print(summary(todo, settings.recipe), flush=True)
    for path in work.others:
        complain(ends.named(f"{path}: is no image and is left out"))
    folders = {path.parent for job in work.jobs for path in job.outputs.all()}
    remove_leftovers(folders | ({report.parent} if report else set()), alone=settings.hosts == 1)
    with journal:
        drivers = [*prepared(work, todo, report, journal)] if todo else []
        if settings.plan or settings.warmup:
            return 0
        try:
            for part, driver in drivers:
                journal.meter.begin("looking for faces" if settings.recipe.faces else "reading")
                # Planning may have found photos that do not fit the memory.
                left = {*journal.left}
                driver.restore(by_size([job for job in part.jobs if job in left], part.recipe))
                if journal.interrupted:
                    break
        finally:
            journal.meter.close()
            journal.check()
            journal.show()
            if report:
                write_record(report, journal.as_record())
    return journal.exit_code


def prepared(
    work: Work, jobs: Sequence[Job], report: Path | None, journal: Journal
) -> Iterator[tuple[Part, Driver]]:
    """Yield the jobs by their recipes, see `auto.parts_of`, each with what restores them; arguments as in `prepare`."""
    loaded: dict[str, Restorer] = {}
    for part in parts_of(jobs, work.settings, journal):
        driver = prepare(work, part, report, journal, loaded)
        if driver is not None:
            yield part, driver


def prepare(
    work: Work, part: Part, report: Path | None, journal: Journal, loaded: dict[str, Restorer]
) -> Driver | None:
    """Load the networks and make the folders. A failure of the whole run appears here, before hours of work.

    Args:
        work: the task.
        part: its jobs that share a recipe.
        report: where the summary goes.
        journal: of all jobs.
        loaded: networks that other parts use, by their files; it grows.

    Returns:
        None if the user asked only for the plan or the programs.
    """
    settings, recipe, jobs = replace(work.settings, recipe=part.recipe), part.recipe, part.jobs
    folders = {settings.output, *([report.parent] if report else [])}
    if maps := settings.guidance_map:
        folders.add(maps.parent if maps.suffix.lower() == ".png" else maps)
    for folder in folders:
        check_folder(folder)
    if report:
        check_length(report, "give a shorter --report")
    journal.meter.begin("loading the networks")
    if text := advice(recipe):
        complain(f"warning: {text}")
    allow = permit if settings.yes else ask
    preset, files = networks(recipe, ready=jobs[0].clean is not None, allow=allow)
    crops = crop_networks(recipe, preset, files, allow)
    faces = {f"face_{name}": file for name, file in crops.files.items()}
    recorded = files | faces | loras.recorded(recipe.lora)
    if work.record is not None:
        check_weights(work.record, recorded)
    if repr(files) not in loaded:
        loaded[repr(files)] = load(preset, recipe, files, journal)
    restorer = loaded[repr(files)]
    if recipe.faces is not None:
        restorer = face_restorer(recipe, restorer, crops)
    if not recipe.stage1_only:
        check_options(restorer, recipe)
    if work.record is not None and (changed := differences(work.record)):
        complain(f"warning: not all is as in the sidecar, results may differ slightly: {changed}")
    journal.meter.begin("choosing tiles")
    plan = planned(restorer, settings, jobs, work.record, journal)
    in_crops = restorer.plan if isinstance(restorer, FaceRestorer) else None
    if settings.plan or settings.warmup:
        return None
    for folder in folders:
        make_folder(folder)
    work.ends.begin()
    recorder = None
    if settings.sidecar:
        recorder = Recorder(recipe, preset.name, recorded, plan, in_crops, part.told)
    return Driver(restorer, recipe, journal, recorder, plan, work.ends)


def networks(recipe: Recipe, ready: bool, allow: Allow) -> tuple[Preset, dict[str, Path]]:
    """Return the preset and the weights files of the networks that run. `ready` stage-1 images need no stage 1.

    `allow` is asked before weights are downloaded. Errors as in `provide`.
    """
    stage1 = NO_STAGE1 if ready else recipe.stage1
    preset = with_stage1(recipe.preset(), stage1, recipe.weights)
    provide(preset, recipe.weights, allow)
    modules = [name for name in preset.modules if name == "rm" or not recipe.stage1_only]
    return preset, weight_files(preset, recipe.weights, modules)


@contextmanager
def compiling(journal: Journal, stage: str, again: bool) -> Iterator[None]:
    """Show what is compiled. XLA loses exceptions of signals, so these are raised again before and after."""
    told.heed()
    with journal.meter.compiling(stage, again):
        yield
    told.heed()


def load(preset: Preset, recipe: Recipe, modules: Mapping[str, Path], journal: Journal) -> Restorer:
    """Load the networks, for all devices of this host; the journal shows what is compiled."""
    dtype, devices = PRECISIONS[recipe.precision], jax.local_devices()
    mesh = make_mesh(devices=devices) if len(devices) > 1 else None
    change = loras.merging(preset, recipe.lora)
    restorer = Restorer(preset, load_params(preset, recipe.weights, dtype, modules, change), dtype, mesh)
    restorer.programs.compiling = partial(compiling, journal)
    return restorer


def check_options(restorer: Restorer | FaceRestorer, recipe: Recipe) -> None:
    """Raise FlagError if the networks cannot use the options."""
    try:
        restorer.check(recipe.options)
    except UserError as error:
        raise FlagError(str(error)) from None
