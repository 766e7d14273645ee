"""Tables for terminals and in Markdown, as they are to look."""

from diffbir_jax.console.tables import aligned, markdown_table


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
