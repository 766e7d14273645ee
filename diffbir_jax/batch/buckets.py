"""Inputs and results in buckets: inputs are fetched into a local folder, results sent from it as they are written."""

import argparse
import shutil
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from diffbir_jax.batch.done import is_done
from diffbir_jax.batch.ends import Ends
from diffbir_jax.batch.jobs import Inputs, Job
from diffbir_jax.batch.manifest import Manifest
from diffbir_jax.batch.names import some
from diffbir_jax.batch.report import complain
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.places import Url
from diffbir_jax.files.remote import Remote
from diffbir_jax.imaging.listing import SUFFIXES

# Further suffixes of images; in a bucket the suffix decides, since a look into a file is a request.
MORE = (".gif", ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
# Files that are fetched at once.
FETCHED = 8


class Buckets(Ends):
    """The ends of a run of which at least one is in a bucket."""

    def __init__(self, args: argparse.Namespace, staging: Path):
        """Take the URLs out of a command line and put folders in their place.

        Args:
            args: `input` and `output` change.
            staging: an empty folder.

        Raises:
            ImageFileError: a bucket cannot be reached, or there is nothing to restore.
        """
        self._into, self._out = staging / "in", staging / "out"
        self._sizes: dict[str, int | None] = {}
        self._single = False
        self._target = Remote(args.output) if isinstance(args.output, Url) else None
        self._source = self._opened(args.input) if isinstance(args.input, Url) else None
        self._manifest = Manifest(self._target) if self._target else None
        if self._source:
            self._into.mkdir()
            args.input = self._into / next(iter(self._sizes)) if self._single else self._into
            if args.from_sidecar:
                self._fetch_one()
        if self._target:
            args.output = self._out

    def _opened(self, url: Url) -> Remote:
        """The folder of the inputs; notes their sizes."""
        source = Remote(url)
        if self._target and source.url == self._target.url:
            raise ImageFileError(f"{url}: is the folder of the inputs; give another --output")
        self._single = source.is_file()
        if self._single:
            folder, _, name = source.url.rpartition("/")
            source = Remote(folder)
            self._sizes = {name: source.size(name)}
            return source
        self._sizes = {
            name: size for name, size in source.sizes().items() if not self._left_out(source, name)
        }
        if not self._sizes:
            raise ImageFileError(f"{url}: holds no file; check the address")
        return source

    def _left_out(self, source: Remote, name: str) -> bool:
        """Whether a file is no input: hidden, of the results, or with a name that no file here can have."""
        parts = name.split("/")
        if "" in parts or ".." in parts or {*name} & {"\\", "\0"}:
            complain(f"warning: {source.url}/{name}: this name cannot be that of a file and is left out")
            return True
        results = self._target.url if self._target else ""
        below = results.startswith(f"{source.url}/") and f"{source.url}/{name}".startswith(f"{results}/")
        return below or any(part[0] == "." for part in parts)

    def _fetch_one(self) -> None:
        """Bring the input of a sidecar, which is compared before there is a job."""
        if not self._single or not self._source:
            raise ImageFileError(f"{self.named(str(self._into))}: is a folder; name the photo of the sidecar")
        [(name, size)] = self._sizes.items()
        self._source.fetch(name, self._into / name, size)

    def inputs(self) -> Inputs | None:
        """See `Ends.inputs`; sorted by name."""
        if self._source is None:
            return None
        names = sorted(self._sizes, key=PurePosixPath)
        images = [name for name in names if self._single or name.lower().endswith(SUFFIXES + MORE)]
        if not images:
            raise ImageFileError(f"{self._source.url}: holds no image file ending in {', '.join(SUFFIXES)}")
        others = [self._into / name for name in names if name not in {*images}]
        return Inputs({self._into / name: Path(name) for name in images}, others)

    def check(self, jobs: Sequence[Job]) -> None:
        """See `Ends.check`: a bucket may hold both inputs and results."""
        if self._source is None or self._target is None:
            return
        given = {f"{self._source.url}/{name}" for name in self._sizes}
        files = (self.named(str(file)) for job in jobs for file in job.outputs.all())
        if over := [file for file in files if file in given]:
            raise ImageFileError(f"{some(over)}: would be overwritten; give another --output")

    def is_done(self, job: Job) -> bool:
        """See `Ends.is_done`: of results in a bucket, the manifest tells."""
        if self._manifest is None:
            return is_done(job)
        ours, others = self._sorted(job.outputs.all())
        crops = job.outputs.crops is not None
        return self._manifest.has(job.name.as_posix(), ours, crops) and all(file.is_file() for file in others)

    def _sorted(self, files: Iterable[Path]) -> tuple[list[str], list[Path]]:
        """Names of those in the bucket, and the files elsewhere, such as guidance maps."""
        inside, others = list[str](), list[Path]()
        for file in files:
            if file.is_relative_to(self._out):
                inside.append(file.relative_to(self._out).as_posix())
            else:
                others.append(file)
        return inside, others

    def fetch(self, jobs: Sequence[Job]) -> dict[Job, str]:
        """See `Ends.fetch`.

        Raises:
            ImageFileError: the disk does not hold them.
        """
        if self._source is None or not jobs:
            return {}
        self._check_room(jobs)
        pool = ThreadPoolExecutor(FETCHED, thread_name_prefix="fetch")
        try:
            told = tqdm(pool.map(self._fetched, jobs), "fetching", len(jobs), unit="image", disable=None)
            return {job: problem for job, problem in zip(jobs, told) if problem}
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_room(self, jobs: Sequence[Job]) -> None:
        needed = sum(self._sizes[self._name(job)] or 0 for job in jobs)
        free = shutil.disk_usage(self._into).free
        if needed > free:
            raise ImageFileError(
                f"{self._into.parent}: {needed} bytes of inputs do not fit, {free} are free; set TMPDIR to a folder of "
                "a larger disk, or share the work by --hosts"
            )

    def _name(self, job: Job) -> str:
        return job.path.relative_to(self._into).as_posix()

    def _fetched(self, job: Job) -> str:
        """Fetch an input that is not here; why it does not come, or ""."""
        assert self._source is not None
        name = self._name(job)
        try:
            if not job.path.exists():
                self._source.fetch(name, job.path, self._sizes[name])
        except ImageFileError as error:
            return str(error)
        return ""

    def begin(self) -> None:
        """See `Ends.begin`."""
        if self._manifest:
            self._manifest.begin()

    def send(self, job: Job, files: Collection[Path]) -> None:
        """See `Ends.send`; they are removed here, sent or not, since results of many images fill the disk."""
        if self._target is None or self._manifest is None:
            return
        names, _ = self._sorted(files)
        try:
            sizes = {name: (self._out / name).stat().st_size for name in names}
            for name in names:
                self._target.send(self._out / name, name)
            self._manifest.add(job.name.as_posix(), sizes, job.outputs.crops is not None)
        finally:
            for name in names:
                (self._out / name).unlink(missing_ok=True)

    def named(self, text: str) -> str:
        """See `Ends.named`."""
        for folder, remote in ((self._into, self._source), (self._out, self._target)):
            if remote is not None:
                text = text.replace(str(folder), remote.url)
        return text
