"""Error messages for users."""

import os
import re
import traceback
from collections.abc import Mapping

from diffbir_jax.console.plain import plain


class UserError(ValueError):
    """Something that the user can mend; the message says what was given, what is allowed and what to do.

    A ValueError that is no UserError is a bug: it keeps its traceback.
    """


class OtherRunError(UserError):
    """A file of an earlier run that this run cannot go on with.

    A program may say it in words of its own: by which of its flags the runs differ.

    Attributes:
        place: the file.
        differs: "model" or "data".
    """

    def __init__(self, message: str, place: object, differs: str):
        super().__init__(message)
        self.place, self.differs = place, differs


class MissingFileError(FileNotFoundError, UserError):
    """A file that the user named, or that a version needs, is not there.

    Callers of functions may catch it as a `UserError`, like every other mistake that they can mend, or by its kind.
    """


# An argument in a message: `memory_gb` is what callers of functions write.
_ARGUMENT = re.compile(r"`([a-z]\w*)`")
# What JAX adds to its error.
_ADVICE = " (set JAX_PLATFORMS='' to automatically choose an available backend)"
NO_FLAGS: Mapping[str, str] = {}
# What ends in one line; anything else is a bug and ends the run with its traceback.
EXPECTED = (UserError, OSError)


def one_line(error: BaseException, flags: Mapping[str, str] = NO_FLAGS) -> str:
    """Return an error's message with flags for arguments, see `as_flags`; for a list of problems only the first.

    An error of the system names its file first, and its number is left out.
    """
    text = as_flags(str(error), flags)
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        text = f"{plain(error.filename)}: {error.strerror}"
    lines = [line.strip() for line in text.splitlines()]
    return plain(" ".join(lines[:2])) + (" ..." if len(lines) > 2 else "")


def no_device(error: BaseException) -> str | None:
    """Return a line for JAX's error that the devices of JAX_PLATFORMS are not there; None for any other error.

    It is a RuntimeError, or for some platforms an AssertionError without words: the place tells.
    """
    places = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not places or places[-1].co_name != "backends" or not places[-1].co_filename.endswith("xla_bridge.py"):
        return None
    wanted = f"JAX_PLATFORMS={plain(os.environ.get('JAX_PLATFORMS', ''))}"
    reason = plain(str(error).removesuffix(_ADVICE))[:200] or "Unable to initialize a backend"
    return (
        f"JAX finds no device for {wanted} ({reason}); set JAX_PLATFORMS=cpu for the processor, or install JAX for the "
        "device (pip install 'diffbir-jax[cuda]' or 'diffbir-jax[tpu]')"
    )


def as_flags(message: str, flags: Mapping[str, str] = NO_FLAGS) -> str:
    """Return a message with flags in place of arguments: `memory_gb` becomes --memory-gb, or its entry in `flags`."""
    return _ARGUMENT.sub(lambda found: flags.get(found[1], "--" + found[1].replace("_", "-")), message)
