"""Error messages for users."""


class UserError(ValueError):
    """Something that the user can mend; the message says what was given, what is allowed and what to do.

    A ValueError that is no UserError is a bug: it keeps its traceback.
    """


# What ends in one line; anything else is a bug and ends the run with its traceback.
EXPECTED = (UserError, OSError)


def one_line(error: BaseException) -> str:
    """Return an error's message; for a list of problems only the first."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2]) + (" ..." if len(lines) > 2 else "")
