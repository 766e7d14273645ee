"""diffbir weights list | fetch | path: see --help."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.console.errors import EXPECTED
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.console.tables import aligned, wrapped
from diffbir_jax.files.places import given_path
from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.places import default_folder, fetch, find
from diffbir_jax.weights.registry import NEEDED, REGISTRY, needed, needed_by

HEADER = ("file", "bytes", "needed by", "licence", "here")
# Characters of the columns whose cells are wrapped.
WIDTHS = {2: 20, 3: 22}


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="diffbir weights",
        description="The published weight files of DiffBIR and of the restoration modules it uses.",
        epilog="Exit code: 0, 1 if a file cannot be found or downloaded, 2 for a bad flag.",
    )
    where = f"folder of the files (default: {default_folder()}; DIFFBIR_WEIGHTS changes it)"
    parser.add_argument("--folder", type=given_path, metavar="DIR", help=where)
    # --folder may stand before or after the verb. SUPPRESS: without it, the verb's default would replace a value that
    # was given before the verb.
    common = Parser(add_help=False)
    common.add_argument("--folder", type=given_path, metavar="DIR", help=where, default=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", metavar="list|fetch|path", required=True)
    about = "print which files there are, what needs them and which are here"
    verbs.add_parser("list", help=about, parents=[common])
    about = "download missing files and print the paths of all"
    get = verbs.add_parser("fetch", help=about, parents=[common])
    get.add_argument("names", nargs="*", metavar="NAME", help="file names as listed")
    get.add_argument("--version", choices=NEEDED, help="all that this version needs (with --task)")
    get.add_argument("--task", choices=NEEDED["v2"], default="sr", help="task (default: %(default)s)")
    get.add_argument("--offline", action="store_true", help="never use the network (also: DIFFBIR_OFFLINE=1)")
    get.add_argument("--quiet", action="store_true", help="no progress bar")
    about = "print the path of a file; never uses the network"
    path = verbs.add_parser("path", help=about, parents=[common])
    path.add_argument("names", nargs="+", metavar="NAME", help="file names as listed")
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    flags = parser.parse_args(argv)
    if flags.verb == "fetch" and not (flags.names or flags.version):
        parser.refuse("fetch what? Name files as listed, or give --version v2")
    return flags


def wanted(flags: argparse.Namespace) -> list[str]:
    """Return the files that the command line names or implies."""
    version = getattr(flags, "version", None)
    return [*flags.names, *(file.name for file in (needed(version, flags.task) if version else []))]


def row(file: WeightFile, folder: Path | None) -> tuple[str, ...]:
    """Return the cells of one line of the table."""
    size = f"{file.size:,}" if file.size else "?"
    users = "; ".join(
        version if [*NEEDED[version]] == tasks else f"{version} {', '.join(tasks)}"
        for version, tasks in needed_by(file.name).items()
    )
    return file.name, size, users or "-", file.licence, "yes" if find(file.name, folder) else "no"


def table(folder: Path | None) -> str:
    """Return the registry as aligned text, for terminals of 100 columns. A version alone stands for all its tasks."""
    rows = [HEADER, *(row(file, folder) for file in REGISTRY.values())]
    return aligned(wrapped(rows, WIDTHS), right=(1,))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    flags = parse(argv)
    if flags.verb == "list":
        print(table(flags.folder))
        return 0
    # `path` only looks up a file; a download would be a surprise.
    offline = flags.verb == "path" or flags.offline
    failed = False
    for name in wanted(flags):
        try:
            progress = flags.verb == "fetch" and not flags.quiet
            print(fetch(name, folder=flags.folder, offline=offline, progress=progress))
        except EXPECTED as error:
            # The other files may still be available.
            print(error, file=sys.stderr)
            failed = True
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            return INTERRUPTED
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
