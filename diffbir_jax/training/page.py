"""A page of a run that can be opened while it trains: curves, and the pictures of all validations.

It needs no network. The pictures lie beside it, in a folder of their own.
"""

import io
import json
import time
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from diffbir_jax.files.writing import replace_file
from diffbir_jax.training.curves import Curve, kind_of, plot

PAGE, PICTURES = "progress.html", "grids"
# Seconds between two versions of the page: runs of fast steps should not spend their time on it.
EVERY = 5.0
DIGITS, QUALITY = 8, 90
# The first plots; the others follow by name.
LEADING = ("loss", "psnr", "ssim")


class Page:
    """A writer of `workdir`/progress.html; see `writers.Writer`."""

    def __init__(
        self, workdir: Path, first: int, total: int, lines: Iterable[Mapping[str, float | None]] = ()
    ):
        """Begin after step `first` of `total`; `lines` are those of metrics.jsonl so far, of any steps."""
        self._folder, self._total, self._step, self._ended = workdir, total, first, False
        self._curves: dict[str, dict[str, Curve]] = {}
        self._seconds: float | None = None
        self._written = -EVERY
        for line in lines:
            if (line["step"] or 0) <= first:
                self._add(int(line["step"] or 0), line)
        found = (int(file.stem) for file in (workdir / PICTURES).glob("*.jpg") if file.stem.isdigit())
        self._pictures = sorted(step for step in found if step <= first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each metric."""
        self._add(step, values)
        self._write_sometimes()

    def grid(self, step: int, image: np.ndarray) -> None:
        """Keep a picture (H, W, 3) uint8, which the page then shows."""
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=QUALITY, subsampling=0)
        replace_file(self._folder / PICTURES / f"{step:0{DIGITS}}.jpg", data.getvalue())
        if step not in self._pictures:
            self._pictures.append(step)
        self._write_sometimes()

    def close(self) -> None:
        """Write the last version, which does not load itself again."""
        self._ended = True
        self._write()

    def _add(self, step: int, values: Mapping[str, float | None]) -> None:
        self._step = max(step, self._step)
        for name, value in values.items():
            group, slash, metric = name.partition("/")
            if slash:
                self._curves.setdefault(metric, {}).setdefault(group, Curve()).add(step, value)
        self._seconds = values.get("train/step_seconds_p50", self._seconds)

    def _write_sometimes(self) -> None:
        if time.monotonic() - self._written >= EVERY:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        replace_file(self._folder / PAGE, self._page().encode("utf-8", "backslashreplace"))

    def _page(self) -> str:
        order = sorted(self._curves, key=lambda name: (name not in LEADING, name))
        template = (files("diffbir_jax.training") / "page.html").read_text("utf-8")
        return Template(template).substitute(
            title=escape(f"Training in {self._folder.resolve().name}"),
            state=escape(self._state()),
            written=time.strftime("Written %Y-%m-%d %H:%M:%S."),
            step=self._step,
            total=self._total,
            grid=self._grid(),
            plots="".join(self._figure(name) for name in order) or "<p>No step is logged yet.</p>",
            steps=json.dumps(self._pictures),
            ended=json.dumps(self._ended),
            folder=PICTURES,
            digits=DIGITS,
        )

    def _state(self) -> str:
        """Where the run is, in words."""
        place = f"Step {self._step} of {self._total}"
        if self._ended:
            return f"{place}: {'finished' if self._step >= self._total else 'stopped'}."
        if not self._seconds:
            return f"{place}."
        left = (self._total - self._step) * self._seconds / 60
        return f"{place}, {self._seconds:.2g} s per step, about {left:.0f} min left without validations."

    def _grid(self) -> str:
        if not self._pictures:
            return ""
        step, last = self._pictures[-1], len(self._pictures) - 1
        slider = (
            f'<label class="scripted-only">Validation <input type="range" id="step" max="{last}" value="{last}">'
            f'<output id="shown">step {step}</output></label>'
        )
        return (
            f'<section id="grid"><h2>Pictures</h2>{slider}<div class="scroll"><img id="picture"'
            f' src="{PICTURES}/{step:0{DIGITS}}.jpg" alt="held-out crops at step {step}, a row each"></div></section>'
        )

    def _figure(self, name: str) -> str:
        curves = self._curves[name]
        told = [
            f'<span class="{kind_of(group)}">{escape(group)} {curve.points[-1].mean:.4g}</span>'
            for group, curve in curves.items()
            if curve.points
        ]
        told += [f"<span>{curve.missing} not finite</span>" for curve in curves.values() if curve.missing > 0]
        drawn = plot(name, curves, self._total) if any(curve.points for curve in curves.values()) else ""
        return f"<figure><figcaption>{escape(name)}{''.join(told)}</figcaption>{drawn}</figure>"
