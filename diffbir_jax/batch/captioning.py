"""--captions auto: a captioner looks at each photo before any is restored."""

import contextlib
import gc
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from diffbir_jax.batch.captions import tell_bare, tidy
from diffbir_jax.batch.ends import Ends
from diffbir_jax.batch.jobs import Job
from diffbir_jax.batch.settings import Settings
from diffbir_jax.console.plain import plain
from diffbir_jax.console.progress import tallied, waiting
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.restoration.captioner import load_captioner
from diffbir_jax.restoration.first_use import ask, permit


def with_captions(jobs: Sequence[Job], lost: Collection[Job], settings: Settings, ends: Ends) -> list[Job]:
    """Return the jobs with captions by the captioner of --captions auto; without this flag, as they are.

    Captions are printed. The captioner leaves the memory before the networks come.

    Args:
        jobs: all jobs, in an order that is kept.
        lost: those without a file, which stay as they are.
        settings: the run. --plan and --warmup need no captions.
        ends: give files the users' names.

    Raises:
        MissingExtraError, MissingWeightsError, UserError: see `Captioner`.
    """
    seen = [job for job in jobs if job not in lost]
    if settings.captions != "auto" or settings.plan or settings.warmup or not seen:
        return [*jobs]
    texts = described(seen, settings, ends)
    gc.collect()
    tell_bare("--captions auto", (Path(ends.named(str(path))) for path, text in texts.items() if not text))
    return [replace(job, caption=texts.get(job.path, "")) for job in jobs]


def described(jobs: Sequence[Job], settings: Settings, ends: Ends) -> dict[Path, str]:
    """Return the captions of photos, by their paths; none for files that cannot be read, which restoring tells."""
    assert settings.captioner is not None
    with waiting("captioning", "loading the captioner"):
        allow = permit if settings.yes else ask
        describe = load_captioner(settings.captioner, settings.captioner_prompt or "", allow)
    texts = {}
    for job in tallied(jobs, "captioning", len(jobs)):
        with contextlib.suppress(ImageFileError, OSError, MemoryError):
            texts[job.path] = tidy(describe(shown(job.path, settings.recipe.max_pixels)))
            tqdm.write(plain(ends.named(f"{job.path}: {texts[job.path]}")))
    return texts


def shown(path: Path, max_pixels: int) -> Image.Image:
    """Return a photo as captioners take it: upright RGB of 8 bits on white, no metadata; errors as `read_image`."""
    return Image.fromarray(read_image(path, max_pixels))
