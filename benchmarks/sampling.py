"""Samplers on the shipped `tiny` preset: what each reaches in how many steps, the price of the loop.

    python -m benchmarks.sampling [--only steps|spacing|guidance|overhead ...] [--out DIR]

The four held-out pictures of `benchmarks.tiny`, degraded x4 with a fixed seed, at the preset's operating point but for
what varies. Results are kept in DIR/results.json as they come: a run that was interrupted goes on. At the end come the
tables of docs/sampling.md and, in DIR, its plots.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
from tqdm import tqdm

from benchmarks.tiny import SEED, score
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.layout import Conditioned
from diffbir_jax.sampling.loop import image_keys, sample
from diffbir_jax.sampling.options import Options
from diffbir_jax.sampling.samplers import SAMPLERS
from diffbir_jax.sampling.timesteps import Spacing
from scripts.make_demo import PICTURES, degraded, reference

STEPS = (1, 2, 4, 8, 20, 50)
FEW = (1, 2, 4, 8)
SCALES = (0.0, 2.0, 4.0, 7.0, 10.0, 15.0, 20.0, 25.0, 40.0)
# Those whose trade-off is shown, one of each kind.
CURVES = ("spaced", "ddim", "edm_dpm++_3m_sde", "edm_heun")
SPACED = ("spaced", "ddim", "edm_heun", "edm_dpm++_2m")
METRICS = {
    "PSNR": "PSNR (dB)",
    "SSIM": "SSIM",
    "spectral": "spectral distance",
    "energy": "local energy corr.",
}
Results = dict[str, dict[str, float]]


def settings(parts: list[str]) -> Iterator[tuple[str, Options]]:
    """Name and options of every measurement of these parts; guidance is off but where it is what varies."""
    tiny = dataclasses.replace(DEFAULTS["tiny"], guidance_scale=0.0)
    if "steps" in parts:
        for name in SAMPLERS:
            for steps in STEPS:
                yield f"steps|{name}|{steps}", dataclasses.replace(tiny, sampler=name, steps=steps)
    if "spacing" in parts:
        for name in SPACED:
            for spacing in get_args(Spacing):
                for steps in FEW:
                    options = dataclasses.replace(tiny, sampler=name, steps=steps, spacing=spacing, start=1.0)
                    yield f"spacing|{name}|{spacing}|{steps}", options
        for name in SAMPLERS:
            yield f"noise|{name}", dataclasses.replace(tiny, sampler=name, steps=8, start=1.0)
    if "guidance" in parts:
        for name in CURVES:
            for scale in SCALES:
                options = dataclasses.replace(tiny, sampler=name, steps=10, guidance_scale=scale)
                yield f"guidance|{name}|{scale:g}", options
        for steps in (4, 5):
            options = dataclasses.replace(tiny, steps=steps, guidance_scale=10.0)
            yield f"guided|{steps} steps", options


def measure(restorer: Restorer, options: Options) -> dict[str, float]:
    """Metrics over the pictures, and seconds per picture of 256x256 with everything compiled."""
    inputs, references = [degraded(name, SEED) for name in PICTURES], [reference(name) for name in PICTURES]
    restorer.restore(inputs[:1], 4.0, options)
    begin = time.perf_counter()
    restored = restorer.restore(inputs, 4.0, options)
    seconds = (time.perf_counter() - begin) / len(inputs)
    return score([r.image for r in restored], references) | {"seconds": seconds}


def baselines(restorer: Restorer) -> Results:
    """Bicubic enlargement and stage 1 alone."""
    inputs, references = [degraded(name, SEED) for name in PICTURES], [reference(name) for name in PICTURES]
    cleaned = [restorer.clean_one(image, 4.0) for image in inputs]
    return {
        "bicubic": score([c.upscaled for c in cleaned], references),
        "stage 1": score([c.image for c in cleaned], references),
    }


def overhead(restorer: Restorer, name: str, steps: int = 20, pairs: int = 15) -> dict[str, float]:
    """Time of a whole sampling over its calls of the network made one by one; median over alternating pairs.

    Returns:
        "share", of the sampling's time that the calls do not explain, and "seconds" of a sampling.
    """
    options = dataclasses.replace(DEFAULTS["tiny"], guidance_scale=0.0, sampler=name, steps=steps, start=1.0)
    condition = jax.random.normal(jax.random.key(0), (1, 32, 32, restorer.preset.vae.embed_dim))
    given = Conditioned(condition, condition[..., :1])
    arguments = restorer.steered(given, options, image_keys(0, [0]))
    denoiser, inputs, x, table, _ = arguments
    model, t = jax.jit(denoiser.model), jnp.full(1, 500.0)

    def calls() -> Any:
        for _ in range(len(table.variance)):
            out = jax.block_until_ready(model(inputs.params, x, t, inputs.cond))
        return out

    whole, single = zip(*(timed(lambda: sample(*arguments), calls) for _ in range(pairs + 1)))
    shares = [1 - b / a for a, b in zip(whole[1:], single[1:])]
    return {"share": statistics.median(shares), "seconds": statistics.median(whole[1:])}


def timed(*functions: Callable[[], Any]) -> list[float]:
    """Seconds that each takes."""
    seconds = []
    for function in functions:
        begin = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - begin)
    return seconds


def run(parts: list[str], file: Path) -> Results:
    """Measure what `file` does not hold yet."""
    results: Results = json.loads(file.read_text()) if file.is_file() else {}
    restorer = Restorer.load("tiny")
    jobs: dict[str, Callable[[], dict[str, float]]] = {
        name: lambda options=options: measure(restorer, options) for name, options in settings(parts)
    }
    if "overhead" in parts:
        jobs |= {f"overhead|{name}": lambda name=name: overhead(restorer, name) for name in CURVES}
    if "bicubic" not in results:
        results |= baselines(restorer)
    for name in tqdm([name for name in jobs if name not in results], "measuring", unit="setting"):
        results[name] = jobs[name]()
        file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def show(results: Results) -> None:
    """Print tables in Markdown."""
    for title, metric, digits in (
        ("PSNR (dB)", "PSNR", 2),
        ("SSIM", "SSIM", 3),
        ("spectral distance", "spectral", 2),
        ("local energy correlation", "energy", 3),
        ("seconds per picture", "seconds", 2),
    ):
        print(f"\n| {title}, steps: | {' | '.join(map(str, STEPS))} |\n|---|{'---|' * len(STEPS)}")
        for name in SAMPLERS:
            print(f"| `{name}` | {cells(results, [f'steps|{name}|{n}' for n in STEPS], metric, digits)} |")
    print(
        f"\n| PSNR (dB) / spectral distance, steps: | {' | '.join(map(str, FEW))} |\n|---|{'---|' * len(FEW)}"
    )
    for name in SPACED:
        for spacing in get_args(Spacing):
            keys = [f"spacing|{name}|{spacing}|{n}" for n in FEW]
            pairs = zip(
                cells(results, keys, "PSNR", 2).split(" | "), cells(results, keys, "spectral", 2).split(" | ")
            )
            print(f"| `{name}`, {spacing} | {' | '.join(f'{a} / {b}' for a, b in pairs)} |")
    print("\n| | " + " | ".join(METRICS.values()) + " |\n|---|" + "---|" * len(METRICS))
    for name in (
        "bicubic",
        "stage 1",
        *(key for key in results if key.split("|")[0] in ("guidance", "guided", "noise")),
    ):
        label = name.replace("|", ", ")
        print(f"| {label} | " + " | ".join(f"{results[name][metric]:.3f}" for metric in METRICS) + " |")
    for name, row in results.items():
        if name.startswith("overhead"):
            print(f"{name.split('|')[1]}: {row['share']:+.1%} of {row['seconds']:.2f} s is the loop's")


def cells(results: Results, keys: list[str], metric: str, digits: int) -> str:
    """A row's numbers; a dash where nothing was measured."""
    return " | ".join(f"{results[key][metric]:.{digits}f}" if key in results else "-" for key in keys)


def plot(results: Results, folder: Path) -> None:
    """Draw the trade-off of guidance, and quality against time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    for name in CURVES:
        rows = [results[f"guidance|{name}|{scale:g}"] for scale in SCALES]
        psnr, spectral = ([row[metric] for row in rows] for metric in ("PSNR", "spectral"))
        axes[0].plot(SCALES, psnr, "o-", label=name)
        axes[1].plot(SCALES, spectral, "o-", label=name)
        axes[2].plot(spectral, psnr, "o-", label=name)
    for axis, labels in zip(
        axes,
        (
            ("guidance scale", "PSNR (dB)"),
            ("guidance scale", "spectral distance"),
            ("spectral distance", "PSNR (dB)"),
        ),
    ):
        axis.set(xlabel=labels[0], ylabel=labels[1])
        axis.grid(alpha=0.3)
    for axis in axes[:2]:
        axis.set_xlim(-1, 26)
    for axis in (axes[0], axes[2]):  # where a step is too long the picture falls apart, far below
        axis.set_ylim(24.3, 25.3)
    for metric, axis in (("PSNR", axes[0]), ("spectral", axes[1])):
        axis.axhline(results["stage 1"][metric], color="grey", linestyle="--", label="stage 1")
    axes[2].plot(
        results["stage 1"]["spectral"], results["stage 1"]["PSNR"], "x", color="grey", label="stage 1"
    )
    axes[0].legend()
    figure.savefig(folder / "sampling_guidance.png", dpi=80)

    figure, axes = plt.subplots(1, 2, figsize=(13, 5), constrained_layout=True)
    for i, name in enumerate(SAMPLERS):
        rows = [results[f"steps|{name}|{steps}"] for steps in STEPS]
        for metric, axis in zip(("PSNR", "spectral"), axes):
            line = "-" if i < 10 else "--"
            axis.plot([r["seconds"] for r in rows], [r[metric] for r in rows], f"o{line}", ms=3, label=name)
            axis.set(xscale="log", xlabel="seconds per picture", ylabel=METRICS[metric])
            axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, ncols=2)
    figure.savefig(folder / "sampling_steps.png", dpi=80)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("steps", "spacing", "guidance", "overhead")
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, help="what to measure (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/sampling"), help="folder (default: %(default)s)"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = run(list(args.only), args.out / "results.json")
    show(results)
    if {"steps", "guidance"} <= set(args.only):
        plot(results, args.out)


if __name__ == "__main__":
    main()
