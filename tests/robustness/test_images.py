"""Mutated image files: each is a photo or one line, in time and memory as its size allows.

`make fuzz` tries ten thousand and more, and also measures their time, on which no test may depend.
"""

import io
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.imaging.headers import header_size
from tests.imaging.test_damage import COLOUR, FILES, attempt, by_pillow
from tests.robustness.mutations import mutated

COUNT = int(os.environ.get("DIFFBIR_FUZZ", "1000"))
FUZZ = "DIFFBIR_FUZZ" in os.environ
MORE = {
    "avif": by_pillow(COLOUR, "AVIF"),
    "gif": by_pillow(COLOUR, "GIF", save_all=True, append_images=[COLOUR.rotate(90)]),
    "animated webp": by_pillow(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(9)]),
    "gray jpeg": by_pillow(COLOUR.convert("L"), "JPEG", restart_marker_rows=1),
}
ALL = FILES | MORE
# A mutated header may ask for up to `MAX_PIXELS`; of 16-bit RGB these take so many bytes, decoded and copied.
MOST_BYTES = 12 * 2**30


def cases() -> Iterator[tuple[str, bytes]]:
    for seed in range(COUNT):
        name = [*ALL][seed % len(ALL)]
        yield f"{name}, seed {seed}", mutated(ALL[name], seed)


@pytest.fixture
def bounded() -> Iterator[None]:
    """Allocations beyond what the largest image takes fail: they are an error that no user should see."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded by Linux's means")
@pytest.mark.filterwarnings("ignore")
def test_mutated_files(tmp_path: Path, bounded: None, capfd: pytest.CaptureFixture) -> None:
    read, slowest = 0, (0.0, "")
    for name, data in cases():
        begin = time.perf_counter()
        read += attempt(tmp_path / "a", data) is not None
        took = (time.perf_counter() - begin) / max(1.0, len(data) / 2**20)
        slowest = max(slowest, (took, name))
    assert 0 < read < COUNT
    if FUZZ:
        with capfd.disabled():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"\n{COUNT} files, {read} read; slowest {slowest[0]:.2f} s per MB ({slowest[1]}); peak {peak:.1f} GiB"
            )
        assert slowest[0] < 1


@pytest.mark.filterwarnings("ignore")
def test_sizes_in_mutated_headers(tmp_path: Path) -> None:
    """What plans are made of: numbers above 0, or an error of the kinds that a plan expects."""
    path = tmp_path / "a"
    for _, data in cases():
        path.write_bytes(data)
        try:
            height, width = header_size(path)
        except Exception:  # noqa: S112
            continue
        assert min(height, width) > 0


def test_every_format_is_read_whole() -> None:
    for name, data in MORE.items():
        assert np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).shape == (40, 56, 3), name
