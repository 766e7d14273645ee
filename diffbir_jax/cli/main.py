"""The command `diffbir`: finds the program that its first words name. Only that program is imported."""

import importlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from diffbir_jax import __version__
from diffbir_jax.console.errors import EXPECTED, no_device, one_line
from diffbir_jax.console.interrupts import end_at_once, terminable, told
from diffbir_jax.console.parser import INTERRUPTED, Parser, nearest, options_of
from diffbir_jax.console.streams import complete_streams, exit_now, steady_output
from diffbir_jax.console.threads import READER

HELP = ("-h", "--help", "help")
VERSION = ("-V", "--version", "version")


@dataclass(frozen=True)
class Program:
    """What a subcommand runs.

    Attributes:
        module: has `main(argv)`, which returns an exit code or exits, and `make_parser()`.
        summary: one line for the list of programs.
    """

    module: str
    summary: str

    def parser(self) -> Parser:
        """Return the parser of its command line."""
        return importlib.import_module(self.module).make_parser()


PROGRAMS = {
    "restore": Program("diffbir_jax.cli.sample", "restore photos"),
    "inspect": Program("diffbir_jax.cli.inspect_photos", "show how photos were degraded"),
    "serve": Program("diffbir_jax.cli.serve", "restore photos for clients by HTTP"),
    "web": Program("diffbir_jax.cli.web", "restore photos on a page in the browser"),
    "train": Program("diffbir_jax.cli.train", "train a stage from a configuration"),
    "finetune": Program("diffbir_jax.cli.finetune", "adapt a version to a few photos by a LoRA"),
    "sweep": Program("diffbir_jax.cli.sweep", "train all combinations of some settings"),
    "evaluate": Program("diffbir_jax.cli.evaluate", "score results, and compare scores"),
    "reproduce": Program("diffbir_jax.cli.reproduce", "run a table of the paper, and compare its numbers"),
    "convert": Program("diffbir_jax.cli.convert_weights", "convert published weights, and back"),
    "weights": Program("diffbir_jax.weights.__main__", "list, fetch and find the published weights"),
    "data prepare": Program("diffbir_jax.data.prepare", "check photos and pack them into shards"),
    "data preview": Program("diffbir_jax.data.preview.__main__", "show what a configuration trains on"),
    "parity": Program("diffbir_jax.parity.__main__", "compare with values of the reference implementation"),
}
# The first words of programs of two words.
GROUPS = {name.partition(" ")[0] for name in PROGRAMS if " " in name}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the program that the command line names and exit with its code.

    Without `argv` the process ends with the program. If that was interrupted, another Ctrl-C shows no traceback.
    """
    whole = argv is None
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) > 1 and words[0] in HELP:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        leave(usage(), 0)
    if words[0] in VERSION:
        leave(f"diffbir-jax {__version__}", 0)
    name, argv = split(words)
    try:
        start(name, argv)
    except SystemExit as end:
        if end.code == INTERRUPTED and whole:
            end_at_once()
        if end.code == INTERRUPTED and any(thread.name == READER for thread in threading.enumerate()):
            # It may decode a huge image for seconds, in a library that Python must not unload meanwhile.
            exit_now(INTERRUPTED)
        raise


def start(name: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a program and exit with its code.

    Args:
        name: a key of `PROGRAMS`.
        argv: its command line; by default that of the process.
    """
    Parser.owners = staticmethod(owners)
    complete_streams()
    check_current_folder(name)
    with terminable(), steady_output() as output:
        code = _code(name, argv)
        print(end="", flush=True)
    error = output and output.error
    if error is not None and not isinstance(error, BrokenPipeError):
        print(f"diffbir {name}: the output cannot be written ({error.strerror})", file=sys.stderr)
        code = code or 1
    sys.exit(code)


def check_current_folder(name: str) -> None:
    """Exit with one line if the current folder is gone: relative names, and libraries, need it."""
    try:
        os.getcwd()
    except OSError:
        sys.exit(f"diffbir {name}: the current folder is no longer there; change to another one")


def _code(name: str, argv: Sequence[str] | None) -> str | int | None:
    """Run a program; its exit code, or a text for the error stream."""
    try:
        return importlib.import_module(PROGRAMS[name].module).main(argv)
    except SystemExit as end:
        return end.code
    except BaseException as error:
        # An import that a signal broke off ends in any exception.
        if told.asked or isinstance(error, KeyboardInterrupt):
            print(f"diffbir {name}: interrupted", file=sys.stderr)
            return INTERRUPTED
        if isinstance(error, EXPECTED):
            return f"diffbir {name}: {one_line(error)}"
        if text := no_device(error):
            return f"diffbir {name}: {text}"
        raise


def split(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the name of the program and its command line; without such a program, exit with one line."""
    size = 2 if words[0] in GROUPS else 1
    name = " ".join(words[:size])
    if name in PROGRAMS:
        return name, words[size:]
    if size == 2 and (len(words) == 1 or words[1] in HELP):
        leave(usage(words[0]), 0)
    leave(f"diffbir: {problem(name, words)}", 2)


def problem(name: str, words: Sequence[str]) -> str:
    """Say what is wrong with the name of a program, and what to type instead."""
    if words[0].startswith("-"):
        return f"begin with a command; to restore photos: diffbir restore {words[0]} ..."
    if Path(words[0]).exists():
        return f"begin with a command; to restore photos: diffbir restore {words[0]} -o DIR"
    if Path(words[0]).suffix:
        return f"{words[0]}: no such file; to restore photos: diffbir restore PHOTO -o DIR"
    near = nearest(name, list(PROGRAMS))
    known = f"did you mean diffbir {near}?" if near else f"there are {', '.join(PROGRAMS)}"
    return f"no command {name!r}; {known}"


def usage(group: str = "") -> str:
    """Return the list of programs, or of those of a group."""
    width = max(map(len, PROGRAMS))
    lines = [
        f"  {name:{width}}  {program.summary}"
        for name, program in PROGRAMS.items()
        if name.startswith(group and f"{group} ")
    ]
    head = f"usage: diffbir {group or 'COMMAND'} ..."
    about = f"diffbir-jax {__version__} restores photos with unknown degradation."
    return "\n".join([head, "", about, "", *lines, "", "diffbir COMMAND --help explains a command."])


def owners(option: str) -> list[str]:
    """Return the programs that have an option, for the error of a program that has none."""
    return [f"diffbir {name}" for name in with_option(option)]


def with_option(option: str) -> Iterator[str]:
    """Yield the names of the programs that have an option."""
    for name, program in PROGRAMS.items():
        if option in options_of(program.parser()):
            yield name


def leave(text: str, code: int) -> NoReturn:
    """Print and exit."""
    print(text, file=sys.stderr if code else sys.stdout)
    sys.exit(code)
