"""Two pictures of an image behind a slider, each side with a choice of all its pictures."""

from collections.abc import Sequence
from html import escape

from diffbir_jax.evaluation.report.markup import options
from diffbir_jax.evaluation.report.pictures import Picture


def viewer(
    image: str, titles: Sequence[str], pictures: Sequence[Picture | None], sides: tuple[int, int]
) -> str:
    """Return an element that compare.js and page.css make a slider of.

    Args:
        image: the image's name.
        titles: of the pictures.
        pictures: one per title; None: not found.
        sides: the places of the pictures that are left and right at first.
    """
    name = escape(image)
    panes = "".join(
        _pane(side, f"{image}: {titles[place]}", pictures[place])
        for side, place in zip(("left", "right"), sides)
    )
    choices = "".join(
        f'<select data-side="{side}" aria-label="{side.capitalize()} picture of {name}" autocomplete="off">'
        f"{options(dict(enumerate(titles)), place)}</select>"
        for side, place in zip(("left", "right"), sides)
    )
    return (
        f'<div class="viewer"><div class="compare">{panes}'
        '<input type="range" min="0" max="100" step="any" value="50" autocomplete="off"'
        f' aria-label="Where left and right of {name} meet"></div>'
        f'<div class="sides">{choices}</div></div>'
    )


def _pane(side: str, title: str, picture: Picture | None) -> str:
    # Both elements always exist: the script exchanges pictures without building new ones.
    image, text = (f' src="{picture.address}"', " hidden") if picture else (" hidden", "")
    return (
        f'<div class="pane {side}"><img{image} loading="lazy" decoding="async" alt="{escape(title)}">'
        f"<p{text}>picture not found</p></div>"
    )
