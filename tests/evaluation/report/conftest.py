import numpy as np
import pytest

from diffbir_jax.evaluation.result import Column, Image, Result, Summary
from diffbir_jax.imaging.writing import write_png

COLUMNS = {
    "psnr": Column("PSNR", "higher", "reference", 1),
    "lpips": Column("LPIPS", "lower", "reference", 1),
    "fid": Column("FID", "lower", "set", 1),
}


def make_result(name, scores, files=None, **fields):
    """A result of images called by the keys of `scores`, whose values are scores by metric."""
    files = files or {}
    images = tuple(Image(key, value, files.get(key, {})) for key, value in sorted(scores.items()))
    summary = {}
    for metric in COLUMNS:
        known = [value[metric] for value in scores.values() if value.get(metric) is not None]
        if known:
            mean = float(np.mean(known))
            summary[metric] = Summary(mean, mean - 0.01, mean + 0.01, len(known))
    defaults = {"protocol": {}, "versions": {}, "checksums": {}, "unavailable": {}, "columns": COLUMNS}
    return Result(**{**defaults, "name": name, "images": images, "summary": summary, **fields})


@pytest.fixture
def make():
    """How tests make results."""
    return make_result


@pytest.fixture
def painted(tmp_path):
    """Three images, worst by LPIPS "b/</script>.png", whose files lie in the folder returned beside the result."""
    names = {"a.png": 0.2, "b/</script>.png": 0.5, 'c"&<i>.png': 0.3}
    files = {
        name: {"pred": f"p{i}.png", "gt": f"g{i}.png", "lq": f"l{i}.png"} for i, name in enumerate(names)
    }
    for i in range(3):
        for kind, side in (("p", 32), ("g", 32), ("l", 16)):
            write_png(tmp_path / f"{kind}{i}.png", np.full((side, side, 3), 40 * i + ord(kind), np.uint8))
    scores = {name: {"psnr": 30 - 10 * value, "lpips": value} for name, value in names.items()}
    return make_result("ours", scores, files), tmp_path
