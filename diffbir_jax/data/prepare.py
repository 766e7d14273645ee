"""diffbir data prepare --input FOLDER|LIST|TABLE... --output DIR: see --help."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from diffbir_jax.console.errors import one_line
from diffbir_jax.console.extras import MissingExtraError, require
from diffbir_jax.console.numbers import integer, whole
from diffbir_jax.console.pages import page
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.console.plain import counted
from diffbir_jax.data.example import DataError
from diffbir_jax.data.preparing import REJECTED, Manifest, Settings, prepare
from diffbir_jax.data.sources import make_source
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.files.places import given_path

PROG = "diffbir data prepare"
KINDS = {
    ".txt": "list",
    ".parquet": "table",
    ".csv": "table",
    ".jsonl": "table",
    ".tar": "tar",
    ".array_record": "array_record",
}

# The line at the end names this many captions that were left out; the manifest has all.
NAMED = 3


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog=PROG,
        description="Turn images into ArrayRecord shards to train from: all that decode in full, are large enough and "
        "are no duplicates, with their captions. The same command goes on where a run was stopped.",
        epilog="Exit code: 0; 1 if no image was kept, the input is of no use or the output cannot be written; "
        "2 for a bad flag; 130 after Ctrl-C.",
    )
    defaults = Settings()
    inputs = (
        "folder; list (.txt); table (.parquet, .csv, .jsonl); shards (.tar, .array_record); or any source as JSON, "
        "such as"
    )
    example = '{"kind": "table", "path": "a.csv", "root": "photos"}'
    parser.add_argument("--input", nargs="+", required=True, help=f"{inputs} '{example}' ({page('data')})")
    parser.add_argument(
        "-o", "--output", type=given_path, required=True, metavar="DIR", help="folder of the shards"
    )
    about = "pixels that the shorter side must have (default: %(default)s)"
    parser.add_argument("--min-side", type=integer, default=defaults.min_side, metavar="N", help=about)
    about = "input images per shard (default: %(default)s)"
    parser.add_argument("--shard-size", type=integer, default=defaults.shard_size, metavar="N", help=about)
    about = "what file names begin with (default: %(default)s)"
    parser.add_argument("--name", default=defaults.name, help=about)
    about = "processes that check images; 0: none beside this one (default: %(default)s, one per core)"
    parser.add_argument("--workers", type=whole, default=os.cpu_count() or 1, metavar="N", help=about)
    return parser


def config_of(given: str) -> dict[str, object]:
    """Return the source configuration of an `--input`.

    Raises:
        DataError: it begins with "{" but is no JSON.
    """
    # The suffix decides the kind; anything without a known one is a folder.
    if not given.startswith("{"):
        return {"kind": KINDS.get(Path(given).suffix.lower(), "folder"), "path": given}
    try:
        return json.loads(given)
    except ValueError as error:
        raise DataError(f"--input {given}: is no JSON ({error})") from None


def summary(manifest: Manifest, output: Path) -> str:
    """Return one line with the numbers of kept images, their captions and rejected images."""
    faults = ", ".join(f"{count:,} {fault}" for fault, count in manifest["rejected"].items())
    rejected = f"; rejected {faults} ({output / REJECTED})" if faults else ""
    shards = len(manifest["shards"])
    captions = f"{manifest['captioned']:,} with captions" if manifest["captioned"] else "no captions"
    kept = f"kept {manifest['kept']:,} of {manifest['images']:,} images in {counted(shards, 'shard')}, {captions}"
    unread = manifest["unread_captions"]
    left = "; ".join(
        " ".join(told.split()) for told in unread[:NAMED]
    ) + f" and {len(unread) - NAMED:,} more" * (len(unread) > NAMED)
    return kept + rejected + (f"; {len(unread):,} captions were left out: {left}" if unread else "")


def run(flags: argparse.Namespace) -> int:
    """Run the command line; return the exit code. Raises the errors of `make_source` and `prepare`."""
    settings = Settings(flags.name, flags.min_side, flags.shard_size)
    configs = [config_of(given) for given in flags.input]
    # One source for all inputs, so that duplicates between them are found.
    source = make_source({"kind": "concat", "sources": configs})
    manifest = prepare(source, flags.output, settings, flags.workers)
    print(summary(manifest, flags.output))
    if manifest["kept"] == 0:
        print(
            f"{PROG}: {flags.output}: holds no image, since none was fit; see {REJECTED} there",
            file=sys.stderr,
        )
    return int(manifest["kept"] == 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser()
    flags = parser.parse_args(argv)
    try:
        require("train")
    except MissingExtraError as error:
        parser.refuse(error)
    try:
        return run(flags)
    # Linux kills the largest process when memory runs out, without an error of its own.
    except BrokenProcessPool:
        print(
            f"{PROG}: a process was killed, perhaps because memory ran out; give fewer --workers",
            file=sys.stderr,
        )
    except (DataError, ImageFileError, OSError) as error:
        print(f"{PROG}: {one_line(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print(
            f"{PROG}: interrupted; the same command goes on with the shard that was not finished",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 1


if __name__ == "__main__":
    sys.exit(main())
