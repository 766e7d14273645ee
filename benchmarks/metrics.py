"""Our metrics against BasicSR's and pyiqa's, and the golden values of BasicSR.

    pip download --no-deps basicsr==1.4.2
    pip download --no-deps pyiqa==0.1.16
    .venv-peers/bin/python -m benchmarks.metrics --basicsr basicsr-1.4.2.tar.gz --pyiqa pyiqa-0.1.16-py3-none-any.whl

Neither is installed: an installation would bring much more than the few modules that are run here.
"""

import argparse
import importlib
import itertools
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from diffbir_jax.metrics.fidelity import psnr, ssim
from diffbir_jax.metrics.niqe import niqe
from tests.metrics.pictures import PAIRS, PICTURES

Scores = dict[str, float]


class BasicSR:
    """PSNR, SSIM and NIQE of BasicSR, from its source archive."""

    def __init__(self, archive: Path, folder: Path) -> None:
        shutil.unpack_archive(archive, folder, filter="data")
        source = next(folder.glob("basicsr-*/basicsr"))
        _register("basicsr", source)
        _register("basicsr.metrics", source / "metrics")
        utils = _register("basicsr.utils", source / "utils")
        utils.bgr2ycbcr = importlib.import_module("basicsr.utils.color_util").bgr2ycbcr
        filters: Any = types.ModuleType("scipy.ndimage.filters")  # which newer versions of SciPy lack
        filters.convolve = ndimage.convolve
        sys.modules[filters.__name__] = filters
        self.fidelity: Any = importlib.import_module("basicsr.metrics.psnr_ssim")
        self.niqe_module: Any = importlib.import_module("basicsr.metrics.niqe")
        self.exact_resize = _exact_resize(source / "utils" / "matlab_functions.py")

    def pair(self, image: np.ndarray, reference: np.ndarray, y_only: bool, crop: int) -> tuple[float, float]:
        """PSNR and SSIM of (H, W, 3) RGB uint8."""
        a, b = image[..., ::-1], reference[..., ::-1]
        arguments = {"crop_border": crop, "test_y_channel": y_only}
        return self.fidelity.calculate_psnr(a, b, **arguments), self.fidelity.calculate_ssim(
            a, b, **arguments
        )

    def niqe(self, image: np.ndarray, crop: int, convert_to: str) -> float:
        """NIQE of (H, W) or (H, W, 3) RGB uint8."""
        order = "HW" if image.ndim == 2 else "HWC"
        return self.niqe_module.calculate_niqe(
            image[..., ::-1] if image.ndim == 3 else image, crop, order, convert_to
        )

    def exact_niqe(self, image: np.ndarray, crop: int, convert_to: str) -> float:
        """NIQE whose half-size image is rounded once: as it is, it carries single precision's errors of a dot product.

        They depend on the machine, and how the areas come out that are nearly flat depends on them.
        """
        original, self.niqe_module.imresize = self.niqe_module.imresize, self.exact_resize
        try:
            return self.niqe(image, crop, convert_to)
        finally:
            self.niqe_module.imresize = original


class _Scaled:
    """An image that is already in levels of 255: NIQE multiplies what `imresize` returns by them."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def __mul__(self, peak: float) -> np.ndarray:
        return self.image


def _exact_resize(path: Path) -> Callable[..., _Scaled]:
    """BasicSR's imresize in double precision, which is exact for whole levels, rounded to single at the end."""
    module: Any = types.ModuleType("matlab_functions_double")
    text = path.read_text().replace(".float()", ".double()").replace("FloatTensor", "DoubleTensor")
    exec(compile(text, str(path), "exec"), module.__dict__)  # the archive that the user named

    def resize(image: np.ndarray, scale: float, antialiasing: bool) -> _Scaled:
        levels = np.rint(image.astype(np.float64) * 255)
        default = module.torch.get_default_dtype()
        module.torch.set_default_dtype(module.torch.float64)
        try:
            return _Scaled(module.imresize(levels, scale, antialiasing).astype(np.float32))
        finally:
            module.torch.set_default_dtype(default)

    return resize


class Pyiqa:
    """PSNR and SSIM of pyiqa, from its wheel."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        shutil.unpack_archive(wheel, folder, "zip")
        for name in ("pyiqa", "pyiqa.archs", "pyiqa.utils"):
            _register(name, folder / name.replace(".", "/"))
        self.torch: Any = importlib.import_module("torch")
        self.psnr: Any = importlib.import_module("pyiqa.archs.psnr_arch").PSNR
        self.ssim: Any = importlib.import_module("pyiqa.archs.ssim_arch").SSIM

    def pair(self, image: np.ndarray, reference: np.ndarray, y_only: bool, crop: int) -> tuple[float, float]:
        """PSNR and SSIM of (H, W, 3) RGB uint8, Y as in YCbCr."""
        a, b = (self.torch.from_numpy(x.transpose(2, 0, 1) / 255.0)[None] for x in (image, reference))
        options = {"test_y_channel": y_only, "color_space": "ycbcr", "crop_border": crop}
        return float(self.psnr(**options)(a, b)), float(self.ssim(**options)(a, b))


def _register(name: str, folder: Path) -> Any:
    """A package whose own file is not run: it would import all that is beside what is wanted."""
    module: Any = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


def compare_pairs(name: str, peer: BasicSR | Pyiqa) -> Scores:
    """Print differences of PSNR and SSIM; returns the peer's values by "PAIR|y or rgb|crop|psnr or ssim"."""
    found: Scores = {}
    for (pair, (image, reference)), y_only, crop in itertools.product(PAIRS.items(), (False, True), (0, 4)):
        theirs = peer.pair(image, reference, y_only, crop)
        ours = [score(image, reference, y_only=y_only, crop=crop) for score in (psnr, ssim)]
        key = f"{pair}|{'y' if y_only else 'rgb'}|{crop}"
        print(f"{name:7} {key:14} PSNR {ours[0] - theirs[0]:+.1e} dB, SSIM {ours[1] - theirs[1]:+.1e}")
        found |= {f"{key}|psnr": theirs[0], f"{key}|ssim": theirs[1]}
    return found


def compare_niqe(peer: BasicSR) -> Scores:
    """Print NIQE's differences; returns BasicSR's values by "PICTURE|convert_to|crop|niqe" and "...|exact"."""
    found: Scores = {}
    for name, image in PICTURES.items():
        convert_to = "gray" if name == "grey" else "y"
        for crop in (0, 4):
            theirs, exact = (score(image, crop, convert_to) for score in (peer.niqe, peer.exact_niqe))
            ours = niqe(image, crop=crop, convert_to=convert_to)
            key = f"{name}|{convert_to}|{crop}"
            print(
                f"NIQE {key:20} {theirs:.6f}: ours {ours - theirs:+.1e}, half size rounded once {ours - exact:+.1e}"
            )
            found |= {f"{key}|niqe": theirs, f"{key}|exact": exact}
    return found


def main(argv: list[str] | None = None) -> None:
    """Compare, and write BasicSR's values where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--basicsr", type=Path, required=True, help="source archive of BasicSR")
    parser.add_argument("--pyiqa", type=Path, help="wheel of pyiqa")
    parser.add_argument(
        "--golden", type=Path, help="where to write BasicSR's values: tests/metrics/basicsr.npz"
    )
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        basicsr = BasicSR(flags.basicsr, Path(folder))
        golden = compare_pairs("BasicSR", basicsr) | compare_niqe(basicsr)
        if flags.pyiqa:
            compare_pairs("pyiqa", Pyiqa(flags.pyiqa, Path(folder)))
    if flags.golden:
        np.savez(flags.golden, allow_pickle=False, **{key: np.array(value) for key, value in golden.items()})


if __name__ == "__main__":
    main()
