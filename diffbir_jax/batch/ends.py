"""Where the files of a run come from and go to: folders of this machine, or a bucket behind a local folder."""

import argparse
import contextlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from diffbir_jax.batch.checks import FlagError
from diffbir_jax.batch.done import is_done
from diffbir_jax.batch.jobs import Inputs, Job
from diffbir_jax.console.errors import UserError
from diffbir_jax.console.extras import require
from diffbir_jax.files.places import Url, was_url


class Ends:
    """Folders of this machine, which need nothing; `buckets.Buckets` fetches and sends."""

    def inputs(self) -> Inputs | None:
        """Return the inputs in the bucket; None if inputs are files of this machine."""
        return None

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise ImageFileError if results would overwrite inputs in a bucket."""

    def is_done(self, job: Job) -> bool:
        """Whether all files of a job exist where they belong."""
        return is_done(job)

    def fetch(self, jobs: Sequence[Job]) -> dict[Job, str]:
        """Bring the inputs here, and return why some do not come."""
        return {}

    def begin(self) -> None:
        """Check that results can be written, before hours of work; ImageFileError if not."""

    def send(self, job: Job, files: Collection[Path]) -> None:
        """Take the written files of a job to where they belong; ImageFileError if they do not get there."""

    def named(self, text: str) -> str:
        """Return a text with the users' names for local files that stand for others."""
        return text


@contextlib.contextmanager
def ends_of(args: argparse.Namespace) -> Iterator[Ends]:
    """Put local folders in place of the URLs on a command line, and return what is behind them.

    Errors within the context name files as the user does.

    Raises:
        FlagError: a URL where there can be none.
        ImageFileError: a bucket cannot be reached.
        MissingExtraError: there is a URL, and fsspec is not installed.
    """
    _check_flags(args)
    if not any(isinstance(place, Url) for place in (args.input, args.output)):
        yield Ends()
        return
    require("buckets")
    # fsspec is loaded only for runs that need it.
    from diffbir_jax.batch.buckets import Buckets

    with tempfile.TemporaryDirectory(prefix="diffbir-", ignore_cleanup_errors=True) as folder:
        ends = Buckets(args, Path(folder))
        try:
            yield ends
        except UserError as error:
            error.args = (ends.named(str(error)),)
            raise


def _check_flags(args: argparse.Namespace) -> None:
    """Raise FlagError for URLs where a run takes none."""
    several = [place for place in args.paths if isinstance(place, Url)]
    if several:
        raise FlagError(f"{several[0]} is one of several inputs; give one folder or file of a bucket per run")
    for name, value in vars(args).items():
        if isinstance(value, Path) and was_url(value):
            raise FlagError(
                f"--{name.replace('_', '-')} is {value}; only PHOTO and --output may be in a bucket, the rest is local"
            )
    if args.open and any(isinstance(place, Url) for place in (args.input, args.output)):
        raise FlagError("--open shows files of this machine, not of a bucket; leave it out")
