"""An image on the page: two of its pictures behind a slider, its scores by method, and its problems."""

from collections.abc import Sequence
from html import escape

from diffbir_jax.evaluation.report.markup import heading
from diffbir_jax.evaluation.report.pictures import Picture
from diffbir_jax.evaluation.report.sheet import Sheet
from diffbir_jax.evaluation.report.viewer import viewer


def card(sheet: Sheet, case: int, pictures: Sequence[Picture | None]) -> str:
    """Return an <article>; the page has its script, style and print rules.

    Args:
        sheet: sheet of all images.
        case: index of the image in the sheet.
        pictures: in the order of `sheet.panes`.
    """
    name = escape(sheet.images[case])
    # The input may be smaller by a rounded factor, so the shape of the methods' results is used.
    size = next((picture for picture in reversed(pictures) if picture), Picture("", 2, 3))
    titles = [pane.title for pane in sheet.panes]
    return (
        f'<article class="case" id="image-{case}" data-image="{case}" tabindex="-1"'
        f' style="--ratio:{size.width / size.height:.4f}"><h3>{name}</h3>'
        f"{viewer(sheet.images[case], titles, pictures, sheet.sides)}"
        f'<div><div class="scores">{_scores(sheet, case)}</div>{_problems(sheet, case)}'
        f"{_thumbs(sheet, case, pictures)}</div></article>"
    )


def _scores(sheet: Sheet, case: int) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in sheet.methods)
    rows = "".join(_score(sheet, metric, case) for metric in sheet.scores)
    return f'<table><thead><tr><th scope="col">Score</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _score(sheet: Sheet, metric: str, case: int) -> str:
    values, column = sheet.scores[metric][:, case], sheet.columns[metric]
    best = sheet.best_of(metric, values)
    texts = [sheet.text(metric, value) for value in values]
    cells = "".join(f"<td>{f'<b>{text}</b>' if text == best else text}</td>" for text in texts)
    head = heading(column.title, column.better)
    return f'<tr data-metric="{escape(metric)}"><th scope="row">{head}</th>{cells}</tr>'


def _problems(sheet: Sheet, case: int) -> str:
    found = sheet.shared([images[sheet.images[case]].problems for images in sheet.by_name])
    return "".join(f'<p class="note">{escape(f"{metric}: {reason}")}</p>' for metric, reason in found)


def _thumbs(sheet: Sheet, case: int, pictures: Sequence[Picture | None]) -> str:
    """Show all pictures of an image small, as links. The script turns a click into a choice of the right side."""
    thumbs = "".join(
        _thumb(pane.title, i, picture) for i, (pane, picture) in enumerate(zip(sheet.panes, pictures))
    )
    return f'<div class="thumbs" role="group" aria-label="Pictures of {escape(sheet.images[case])}">{thumbs}</div>'


def _thumb(title: str, pane: int, picture: Picture | None) -> str:
    if picture is None:
        return f"<span><i>picture not found</i>{escape(title)}</span>"
    return (
        f'<a href="{picture.address}" data-pane="{pane}" title="{picture.width}×{picture.height} pixels">'
        f'<img src="{picture.address}" loading="lazy" decoding="async" alt="">{escape(title)}</a>'
    )
