"""Draw how an image passes through both stages: docs/how_it_works.svg, after figure 2 of arXiv 2308.15070.

python scripts/draw_figure.py
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DRAWING = ROOT / "docs" / "how_it_works.svg"
WIDTH, HEIGHT = 1000, 500
# Width and height of a box.
SIDES = (160, 58)
COLOURS = {"image": "#f2f2f2", "frozen": "#d8e6f7", "trained": "#fbdcb8", "computed": "#dff0d8"}
KEY = {
    "image": "image",
    "frozen": "network, frozen",
    "trained": "network, trained in stage 2",
    "computed": "no network",
}


class Box(NamedTuple):
    """A box: place of its upper left corner, what it says, and the file below diffbir_jax/ that it leads to."""

    x: int
    y: int
    text: str
    kind: str
    file: str


BOXES = (
    Box(40, 56, "Photo", "image", "imaging/reading.py"),
    Box(290, 56, "Restoration module", "frozen", "restoration/stage1.py"),
    Box(540, 56, "Image of stage 1", "image", "restoration/image.py"),
    Box(40, 210, "Encoder", "frozen", "restoration/autoencoder.py"),
    Box(290, 210, "IRControlNet", "trained", "models/controlnet.py"),
    Box(540, 210, "UNet", "frozen", "models/unet.py"),
    Box(790, 210, "Guidance by region", "computed", "sampling/guidance.py"),
    Box(40, 330, "Text encoder", "frozen", "models/clip.py"),
    Box(290, 330, "Noise", "computed", "sampling/loop.py"),
    Box(790, 330, "Sampler", "computed", "sampling/samplers.py"),
    Box(790, 418, "Decoder", "frozen", "restoration/autoencoder.py"),
    Box(540, 418, "Colours of stage 1", "computed", "imaging/colour.py"),
    Box(290, 418, "Result", "image", "restoration/results.py"),
)
# Corners of each line; an arrow is at its end.
LINES = (
    ((200, 85), (290, 85)),
    ((450, 85), (540, 85)),
    ((620, 114), (620, 170), (120, 170), (120, 210)),
    ((700, 85), (870, 85), (870, 210)),
    ((200, 239), (290, 239)),
    ((450, 239), (540, 239)),
    ((700, 239), (790, 239)),
    ((120, 330), (120, 300), (350, 300), (350, 268)),
    ((350, 300), (570, 300), (570, 268)),
    ((450, 359), (610, 359), (610, 268)),
    ((870, 268), (870, 330)),
    ((790, 359), (660, 359), (660, 268)),
    ((870, 388), (870, 418)),
    ((790, 447), (700, 447)),
    ((540, 447), (450, 447)),
)
NOTES = (
    (40, 32, "Stage 1: removes the degradation"),
    (140, 192, "Stage 2: generates detail"),
    (690, 322, "next step"),
)


def svg() -> str:
    """Return the drawing."""
    lines = "\n".join(f'<polyline points="{" ".join(f"{x},{y}" for x, y in corners)}"/>' for corners in LINES)
    notes = "\n".join(f'<text x="{x}" y="{y}">{escape(text)}</text>' for x, y, text in NOTES)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="14">
<title>Way of a photo through both stages</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0,0 8,4 0,8z"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>
<g fill="none" stroke="#333" stroke-width="1.5" marker-end="url(#tip)">
{lines}
</g>
<g font-weight="bold">
{notes}
</g>
<g text-anchor="middle">
{"".join(map(boxed, BOXES))}</g>
{key()}</svg>
"""


def boxed(box: Box) -> str:
    """Return a box that leads to its file; links are relative to docs/."""
    width, height = SIDES
    middle = box.x + width // 2
    return f"""\
<a href="../diffbir_jax/{box.file}">
<rect x="{box.x}" y="{box.y}" width="{width}" height="{height}" rx="6" fill="{COLOURS[box.kind]}" stroke="#333"/>
<text x="{middle}" y="{box.y + 25}">{escape(box.text)}</text>
<text x="{middle}" y="{box.y + 44}" font-size="11" fill="#1a4f8b">{escape(box.file)}</text>
</a>
"""


def key() -> str:
    """Return what the colours mean."""
    rows = []
    for number, (kind, meaning) in enumerate(KEY.items()):
        top = 408 + 20 * number
        rows.append(f'<rect x="40" y="{top}" width="14" height="14" fill="{COLOURS[kind]}" stroke="#333"/>\n')
        rows.append(f'<text x="62" y="{top + 12}" font-size="12">{escape(meaning)}</text>\n')
    return "".join(rows)


if __name__ == "__main__":
    DRAWING.write_text(svg(), "utf-8")
