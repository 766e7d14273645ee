"""The argument parser that all command lines share."""

import argparse
from typing import NoReturn

# Exit code after Ctrl-C.
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors and without abbreviated flags."""

    def __init__(self, **settings: object):
        """Take the settings of `argparse.ArgumentParser`."""
        super().__init__(**{"allow_abbrev": False} | settings)  # pyright: ignore[reportArgumentType]

    def error(self, message: str) -> NoReturn:
        """Print `message` without the usage and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; --help explains every flag\n")
