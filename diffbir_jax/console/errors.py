"""Error messages for users."""


def one_line(error: BaseException) -> str:
    """Return an error's message; for a list of problems only the first."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2]) + (" ..." if len(lines) > 2 else "")
