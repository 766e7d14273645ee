"""Error messages for users."""

import re

from diffbir_jax.console.plain import plain


class UserError(ValueError):
    """Something that the user can mend; the message says what was given, what is allowed and what to do.

    A ValueError that is no UserError is a bug: it keeps its traceback.
    """


class MissingFileError(FileNotFoundError, UserError):
    """A file that the user named, or that a version needs, is not there.

    Callers of functions may catch it as a `UserError`, like every other mistake that they can mend, or by its kind.
    """


# An argument in a message: `memory_gb` is what callers of functions write.
_ARGUMENT = re.compile(r"`([a-z]\w*)`")
# What ends in one line; anything else is a bug and ends the run with its traceback.
EXPECTED = (UserError, OSError)


def one_line(error: BaseException) -> str:
    """Return an error's message with flags for arguments, see `as_flags`; for a list of problems only the first.

    An error of the system names its file first, and its number is left out.
    """
    text = as_flags(str(error))
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        text = f"{plain(error.filename)}: {error.strerror}"
    lines = [line.strip() for line in text.splitlines()]
    return plain(" ".join(lines[:2])) + (" ..." if len(lines) > 2 else "")


def as_flags(message: str) -> str:
    """Return a message with flags in place of arguments: `memory_gb` becomes --memory-gb."""
    return _ARGUMENT.sub(lambda found: "--" + found[1].replace("_", "-"), message)
