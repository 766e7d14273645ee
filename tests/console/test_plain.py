"""What comes from elsewhere stays one line and commands no terminal."""

from pathlib import Path

import pytest

from diffbir_jax.batch.report import complain
from diffbir_jax.console.errors import UserError, one_line
from diffbir_jax.console.plain import plain, shown


@pytest.mark.parametrize(
    "text, line",
    [
        ("new\nline.png", r"new\nline.png"),
        ("c\x1b[31m.png", r"c\x1b[31m.png"),
        ("\udcff\x9b\u2028\u202e", r"\udcff\x9b\u2028\u202e"),
        ("café 日本\u202f9.png", "café 日本\u202f9.png"),
    ],
)
def test_a_name_is_one_line(text, line, capsys):
    assert plain(Path(text)) == line
    assert one_line(FileNotFoundError(2, "No such file", text)) == f"{line}: No such file"
    complain(f"{text}: is empty")
    assert capsys.readouterr().err == f"diffbir restore: {line}: is empty\n"


def test_texts_of_files_are_short():
    assert one_line(UserError("\x1b[2Jbad\nworse\nworst")) == r"\x1b[2Jbad worse ..."
    assert shown("a\nb" + "c" * 100, 10) == "a?bccccccc..."
