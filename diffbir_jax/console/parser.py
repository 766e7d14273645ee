"""The argument parser that all command lines share."""

import argparse
import difflib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, NoReturn

# Options that name what a program reads, where it takes no word without a flag.
INPUTS = ("--pred", "--photos", "--input")
# Exit code after Ctrl-C.
INTERRUPTED = 130


def no_owner(option: str) -> Sequence[str]:
    """Return no program: a parser alone does not know the others."""
    return ()


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors and without abbreviated flags.

    Attributes:
        owners: returns the programs that have an option, for errors. The command `diffbir` sets it.
    """

    owners: ClassVar[Callable[[str], Sequence[str]]] = staticmethod(no_owner)

    def __init__(self, *, basic: Collection[str] = (), **settings: Any):
        """Take the settings of `argparse.ArgumentParser`.

        Args:
            basic: dest of the options that --help shows; --help-all shows every one. Empty: --help shows every one.
            settings: as in `argparse.ArgumentParser`.
        """
        super().__init__(**{"allow_abbrev": False, "formatter_class": wide} | settings)
        self._basic = basic
        if basic:
            self.add_argument("--help-all", action=HelpAll, help="explain all options, in groups")

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Read a command line; the first word that means nothing ends the process with one line."""
        known, unknown = self.parse_known_args(args, namespace or argparse.Namespace())
        words = next((action for action in self._actions if action.nargs == "*"), None)
        if unknown and (words is None or any(word.startswith("-") for word in unknown)):
            self.error(self.explain(unknown[0]))
        if unknown and words is not None:
            # argparse takes positional words from one place only, before or after a flag.
            read: Callable[[str], object] = words.type if callable(words.type) else str
            setattr(known, words.dest, [*getattr(known, words.dest, ()), *map(read, unknown)])
        return known

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        """Refuse "--" as a value, which argparse makes an empty list of any option's."""
        if action.option_strings and "--" in arg_strings:
            raise argparse.ArgumentError(action, "expected a value in place of --")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Refuse a value that is none of the choices, and name the nearest one."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = nearest(str(value), choices)
        told = f"did you mean {near}?" if near else f"allowed are {', '.join(choices)}"
        raise argparse.ArgumentError(action, f"{str(value)!r} given; {told}")

    def format_help(self) -> str:
        """Return the help of the basic options."""
        basic = {"help", "help_all", *self._basic}
        return self._format([action for action in self._actions if self._basic and action.dest not in basic])

    def format_all(self) -> str:
        """Return the help of every option."""
        return self._format(())

    def _format(self, hidden: Collection[argparse.Action]) -> str:
        """Return the help without some options; texts that are functions are called for it."""
        texts = {action: action.help for action in self._actions}
        for action, text in texts.items():
            action.help = argparse.SUPPRESS if action in hidden else text() if callable(text) else text
        try:
            return super().format_help()
        finally:
            for action, text in texts.items():
                action.help = text

    def explain(self, word: str) -> str:
        """Return what is wrong with a word that the parser does not know, and what to type instead."""
        if not word.startswith("-"):
            return f"{word!r} is not expected here; {self._place_of(word)}"
        if os.path.lexists(word):
            return f"no option {word}; for the file of this name write ./{word}"
        name = word.partition("=")[0]
        near = nearest(name, list(options_of(self)), 0.75)
        owners = type(self).owners(name)
        # A name that is right elsewhere is no slip of the finger, unless it is nearly one from here.
        if near and not (owners and nearest(name, [near], 0.9) is None):
            return f"no option {name}; did you mean {near}?"
        return f"no option {name}" + (f"; it belongs to {' and '.join(owners)}" if owners else "")

    def _place_of(self, word: str) -> str:
        """Say where a word without a flag belongs: to the option that takes the program's input, if it is a path."""
        first = next((name for name in INPUTS if name in options_of(self)), None)
        if first is None or not os.path.lexists(word):
            return "names of options begin with --"
        return f"write {first} {word}"

    def error(self, message: str) -> NoReturn:
        """Print `message` without the usage and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def refuse(self, problem: object) -> NoReturn:
        """Print a problem that says what to do by itself and exit with 2."""
        self.exit(2, f"{self.prog}: {' '.join(str(problem).split())}\n")


class HelpAll(argparse.Action):
    """Prints the help of every option and ends the process."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        """Take what `add_argument` gives; the option has no value."""
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print the help."""
        assert isinstance(parser, Parser)
        print(parser.format_all(), end="")
        parser.exit()


def nearest(word: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is most like another one, whatever their letter case; None if none is."""
    by_small = {each.lower(): each for each in reversed(known)}
    near = difflib.get_close_matches(word.lower(), list(by_small), n=1, cutoff=cutoff)
    return by_small[near[0]] if near else None


def wide(prog: str) -> argparse.HelpFormatter:
    """Return argparse's formatter with a wider column for the options' names."""
    return argparse.HelpFormatter(prog, max_help_position=28)


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the names of a parser's options, those of its verbs included."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from options_of(verb)
