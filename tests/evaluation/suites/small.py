"""A suite of two small images, and methods that need no networks."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from diffbir_jax.evaluation.suites.methods import Indexed, Method, Restore
from diffbir_jax.evaluation.suites.spec import Suite, read_suite
from diffbir_jax.imaging.writing import write_png
from tests.micro import picture

SUITE = """\
version = 3
title = "two small images"
task = "sr"
upscale = 2
crop = 2
colour = "srgb-8bit, y-bt601"
bicubic = "pillow"
metrics = ["psnr", "spectral"]
methods = ["bicubic", "rm", "diffbir", "realesrgan"]
seeds = [5, 6]

[[datasets]]
name = "pair"
images = 2
truths = true
published = "a drawer"

[[datasets]]
name = "alone"
images = 1
truths = false
published = "another drawer"

[versions.tiny]
sampler = "default"
steps = 4
cfg_scale = "default"
guidance_scales = [0.0, "default"]
"""


def write_suite(folder: Path, text: str = SUITE) -> Suite:
    """Write the suite `small` into a folder and read it."""
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(text)
    return read_suite("small", folder)


def write_data(folder: Path) -> Path:
    """Write the images of both datasets; return the folder."""
    for i, name in enumerate(("a", "sub/b")):
        write_png(folder / "pair" / "lq" / f"{name}.png", picture(16, 16, i))
        write_png(folder / "pair" / "gt" / f"{name}.png", picture(32, 32, i))
    write_png(folder / "alone" / "lq" / "c.png", picture(16, 16, 2))
    return folder


class Painter:
    """A method that paints its index and seed, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Indexed] = []
        self.breaks_at: int | None = None

    def load(self) -> Restore:
        def restore(images: Iterable[Indexed], seed: int) -> Iterator[Indexed]:
            for index, image in images:
                if index == self.breaks_at:
                    raise KeyboardInterrupt
                self.asked.append((index, seed))
                yield index, np.full((2 * image.shape[0], 2 * image.shape[1], 3), 10 * index + seed, np.uint8)

        return restore

    def method(self, seeds: tuple[int, ...] = (), strength: int = 1) -> Method:
        """The method with its settings."""
        return Method("painter", "Painter", "bicubic", {"strength": strength}, self.load, seeds=seeds)
