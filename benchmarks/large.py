"""Large images and many: seams, memory and speed of preset `tiny`. python -m benchmarks.large seams|memory|packing

`seams`: stages and results in tiles against whole ones, on a photo of 1024x1024. `memory`: the peak that the planner
predicts against the one that the process has, over several runs of sample.py. `packing`: images per second, packed on
four forced CPU devices against one by one.
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

ROOT = Path(__file__).parents[1]
STEPS = 5
# Side of the image and flags of sample.py.
MEMORY_RUNS = (
    (512, ()),
    (1024, ()),
    (1024, ("--tile", "256")),
    (1024, ("--vae-norms", "tile")),
    (768, ("--guidance-space", "rgb", "--guidance-scale", "5")),
    (2048, ("--vae-norms", "tile")),
    (4096, ("--vae-norms", "tile")),
)


def photo(side: int) -> np.ndarray:
    """A photo of NASA's Eileen Collins (public domain), enlarged: (side, side, 3) uint8."""
    image = Image.fromarray(data.astronaut())
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def psnr(image: np.ndarray, wanted: np.ndarray, peak: float) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(peak**2 / np.mean(np.square(image.astype(float) - wanted))))


def border_energy(image: np.ndarray, lines: set[int]) -> float:
    """Mean squared gradient across `lines`, rows and columns, over that everywhere else."""
    luma = image.astype(float).mean(axis=2)
    ratios = []
    for gradient in (np.diff(luma, axis=0), np.diff(luma, axis=1).T):
        energy = np.square(gradient).mean(axis=1)
        on = np.isin(np.arange(1, len(energy) + 1), sorted(lines))
        ratios.append(energy[on].mean() / energy[~on].mean())
    return float(np.mean(ratios))


def seams() -> Iterator[str]:
    """Tiles against the whole image."""
    from diffbir_jax.restoration import autoencoder, stage1
    from diffbir_jax.restoration.candidates import default_plan
    from diffbir_jax.restoration.defaults import default_options
    from diffbir_jax.restoration.executor import Executor
    from diffbir_jax.restoration.image import Frame, Request
    from diffbir_jax.restoration.plan import StagePlan
    from diffbir_jax.restoration.restorer import Restorer
    from diffbir_jax.restoration.results import Wanted

    restorer, image = Restorer.load("tiny"), photo(1024)
    options = dataclasses.replace(default_options("tiny"), steps=STEPS)
    cut = default_plan(restorer.preset, options)
    stage = StagePlan(1024, 0)
    whole = dataclasses.replace(cut, rm=stage, encode=stage, sample=stage, decode=stage)
    own = dataclasses.replace(cut, norms="tile")

    def stages(plan):
        """Results of stage 1, of the encoder and of the decoder, each from the whole image's input."""
        executor = Executor(restorer, restorer.programs, plan, Wanted(options))
        frame = Frame(0, Request(image), 1.0, restorer.preset, plan)
        stage1.clean(executor, [frame])
        clean = np.asarray(frame.clean, np.float32)
        frame.clean = reference[0] if reference else clean
        autoencoder.encode(executor, [frame])
        latent = frame.latent
        return (
            clean,
            latent,
            autoencoder.decode(executor, [frame], [reference[1] if reference else latent])[0],
        )

    reference: tuple = ()
    reference = stages(whole)
    yield "| stage | tiles, the image's statistics | tiles, their own |"
    yield "|---|---|---|"
    peaks = (1.0, float(np.ptp(reference[1])), 255.0)
    columns = [[psnr(*pair) for pair in zip(stages(plan), reference, peaks)] for plan in (cut, own)]
    for name, *values in zip(("stage 1", "encoder", "decoder (bytes)"), *columns):
        yield f"| {name} | {values[0]:.1f} dB | {values[1]:.1f} dB |"
    results = {}
    for name, plan in (("whole", whole), ("tiles", cut), ("tiles, own statistics", own)):
        begin = time.perf_counter()
        results[name] = restorer.variants(image, 1.0, options, 1, plan=plan)[0].image
        results[name + " s"] = time.perf_counter() - begin
    lines = {256, 512, 768}
    base = border_energy(results["whole"], lines)
    yield ""
    yield "| result | to the whole | border energy | over that of the whole |"
    yield "|---|---|---|---|"
    for name in ("whole", "tiles", "tiles, own statistics"):
        found = border_energy(results[name], lines)
        to_whole = "" if name == "whole" else f"{psnr(results[name], results['whole'], 255):.1f} dB"
        yield f"| {name} | {to_whole} | {found:.4f} | {found / base:.4f} |"


def memory() -> Iterator[str]:
    """Predicted and measured peaks."""
    yield "| image | flags | predicted GiB | measured GiB | predicted / measured | s |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        for side, flags in MEMORY_RUNS:
            path = Path(folder) / f"{side}.png"
            Image.fromarray(photo(side)).save(path)
            begin = time.perf_counter()
            predicted, measured = peak(path, Path(folder) / "out", flags)
            seconds = time.perf_counter() - begin
            yield (
                f"| {side}x{side} | {' '.join(flags)} | {predicted:.2f} | {measured:.2f} | "
                f"{predicted / measured:.2f} | {seconds:.0f} |"
            )


def peak(path: Path, out: Path, flags: tuple[str, ...]) -> tuple[float, float]:
    """Predicted and measured GiB of a run of sample.py at two steps."""
    command = [sys.executable, "sample.py", "--input", str(path), "--output", str(out)]
    command += ["--upscale", "1", "--steps", "2", *flags]
    # A process of its own, so that the largest child is this one.
    code = (
        "import resource, subprocess, sys; print(subprocess.run(sys.argv[1:], capture_output=True, text=True, "
        "check=True).stdout); print('KiB', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    text = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    predicted = re.search(r"process: ([\d.]+) GiB", text)
    measured = re.search(r"KiB (\d+)", text)
    assert predicted and measured, text
    return float(predicted[1]), int(measured[1]) / 2**20


def packing() -> Iterator[str]:
    """Images per second, one by one on one device and packed on four."""
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    import jax

    from diffbir_jax.restoration.candidates import default_plan
    from diffbir_jax.restoration.defaults import default_options
    from diffbir_jax.restoration.image import Request
    from diffbir_jax.restoration.restorer import Restorer
    from diffbir_jax.sharding import make_mesh

    def rate(restorer: Restorer, side: int, count: int, batch: int) -> float:
        options = default_options("tiny")
        plan = default_plan(restorer.preset, options, restorer.programs.devices).with_batch(batch)
        requests = [Request(photo(side), index) for index in range(count)]
        list(restorer.restore_many(requests[:batch], 1.0, options, plan=plan))
        begin = time.perf_counter()
        list(restorer.restore_many(requests, 1.0, options, plan=plan))
        return count / (time.perf_counter() - begin)

    one, four = Restorer.load("tiny"), Restorer.load("tiny", mesh=make_mesh(devices=jax.devices()))
    yield "| images | one by one, 1 device | 8 at once | 4 at once, 4 devices | 32 at once, 4 devices | best |"
    yield "|---|---|---|---|---|---|"
    for side in (64, 128, 256):
        rates = [
            rate(one, side, 32, 1),
            rate(one, side, 32, 8),
            rate(four, side, 32, 4),
            rate(four, side, 64, 32),
        ]
        cells = " | ".join(f"{value:.1f}/s" for value in rates)
        yield f"| {side}x{side} | {cells} | {max(rates) / rates[0]:.2f}x |"


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("seams", "memory", "packing"))
    table = {"seams": seams, "memory": memory, "packing": packing}[parser.parse_args().what]
    for line in table():
        print(line, flush=True)


if __name__ == "__main__":
    main()
