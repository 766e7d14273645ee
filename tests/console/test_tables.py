"""Tables for terminals and in Markdown, as they are to look."""

from diffbir_jax.console.tables import aligned, csv_table, markdown_table


def test_columns_are_aligned() -> None:
    rows = [("name", "size", "here"), ("a", "1,000", "no"), ("longer", "7", "")]
    assert aligned(rows, right=(1,)).split("\n") == [
        "name     size  here",
        "a       1,000  no",
        "longer      7",
    ]
    assert aligned([("a", "b"), ("cc", "d")]) == "a   b\ncc  d"


def test_markdown() -> None:
    assert markdown_table(["run", "psnr"], [["a", "1"], ["b", ""]], right=[1]) == (
        "| run | psnr |\n| --- | ---: |\n| a | 1 |\n| b |  |\n"
    )


def test_csv_holds_no_formulas() -> None:
    """Programs for tables would run them; numbers stay numbers."""
    rows = [["=1+1", "@x", "+a", "-b", "a=b", "-1.5", "+2e3", "nan", 3, None]]
    assert csv_table(rows) == "'=1+1,'@x,'+a,'-b,a=b,-1.5,+2e3,nan,3,\n"


def test_names_in_tables_cannot_command_a_terminal() -> None:
    """Nor break a row in two."""
    name = "a\x1b[2J\nb\u202e"
    for table in (aligned([(name, "1")]), markdown_table(["x"], [[name]])):
        assert r"a\x1b[2J\nb\u202e" in table and table.rstrip("\n").replace("\n", "").isprintable()
