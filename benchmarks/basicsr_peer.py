"""The papers' degradations written with BasicSR's functions, as the reference trains with them."""

import importlib
import importlib.util
import random
import sys
import tarfile
import tempfile
import time
import types
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
SHARES = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
SIZES = range(7, 22, 2)
ROTATION = (-np.pi, np.pi)


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens inside to `stage`."""
        begin = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - begin


class BasicSR:
    """Functions of BasicSR, from its source archive: an installation would bring its CUDA extensions and more.

    Args:
        archive: basicsr-*.tar.gz, by pip download --no-deps basicsr==1.4.2

    Raises:
        SystemExit: PyTorch is missing.
    """

    def __init__(self, archive: Path) -> None:
        try:
            self.torch: Any = importlib.import_module("torch")
        except ImportError:
            sys.exit("The peer needs PyTorch: run this with .venv-peers/bin/python (make peers).")
        self._replace_torchvision()
        with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            source = next(Path(folder).glob("basicsr-*/basicsr"))
            self.degradations = _load(source / "data" / "degradations.py")
            filters = _load(source / "utils" / "img_process_util.py")
            jpeg = _load(source / "utils" / "diffjpeg.py")
        self.filter2D, self.sharpen = filters.filter2D, filters.USMSharp()
        self.jpeg = jpeg.DiffJPEG(differentiable=False)

    def _replace_torchvision(self) -> None:
        """Its one function that is used, from a module that newer versions lack."""
        weights = self.torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
        module: Any = types.ModuleType("torchvision.transforms.functional_tensor")
        module.rgb_to_grayscale = lambda image, num_output_channels=1: (image * weights).sum(-3, keepdim=True)
        sys.modules |= {"torchvision": module, "torchvision.transforms": module, module.__name__: module}

    def first_order(self, hq: np.ndarray, clock: Clock) -> np.ndarray:
        """CodeFormer's degradation of (H, W, 3) float32 in [0, 1]."""
        height, width = hq.shape[:2]
        draw = self.degradations
        with clock("kernels"):
            kernel = draw.random_mixed_kernels(
                KINDS[:2], [0.5, 0.5], 41, (0.1, 12), (0.1, 12), ROTATION, noise_range=None
            )
        with clock("blur"):
            image = cv2.filter2D(hq, -1, kernel)
        with clock("resize"):
            scale = np.random.uniform(1, 12)
            image = cv2.resize(image, (int(width // scale), int(height // scale)))
        with clock("noise"):
            image = draw.random_add_gaussian_noise(image, (0, 15))
        with clock("jpeg"):
            image = draw.add_jpg_compression(image, int(np.random.uniform(30, 101)))
        with clock("resize"):
            return cv2.resize(image, (width, height))

    def denoise(self, hq: np.ndarray, clock: Clock) -> np.ndarray:
        """Noise and JPEG in random order, after SCUNet, of (H, W, 3) float32 in [0, 1]; no camera's noise."""
        draw = self.degradations

        def gaussian(image: np.ndarray) -> np.ndarray:
            with clock("noise"):
                return draw.random_add_gaussian_noise(image, (2, 50), gray_prob=0.4)

        def poisson(image: np.ndarray) -> np.ndarray:
            with clock("noise"):
                return draw.random_add_poisson_noise(image, (0.05, 3), gray_prob=0.4)

        def jpeg(image: np.ndarray) -> np.ndarray:
            with clock("jpeg"):
                return draw.add_jpg_compression(image, int(np.random.uniform(30, 96)))

        operations = [(gaussian, 1.0), (poisson, 0.5), (jpeg, 0.75)]
        for operation, probability in random.sample(operations, len(operations)):
            hq = operation(hq) if random.random() < probability else hq
        return np.clip((hq * 255).round(), 0, 255) / 255

    def second_order(self, hq: np.ndarray, clock: Clock) -> np.ndarray:
        """Real-ESRGAN's degradation of (H, W, 3) float32 in [0, 1]."""
        torch, interpolate = self.torch, self.torch.nn.functional.interpolate
        with clock("kernels"):
            blur1, blur2, final = self._kernel((0.2, 3)), self._kernel((0.2, 1.5)), self._final()
        image = torch.from_numpy(hq.transpose(2, 0, 1).copy())[None]
        with clock("sharpen"):
            image = self.sharpen(image)
        size = image.shape[2:]
        with clock("blur"):
            image = self.filter2D(image, blur1)
        with clock("resize"):
            image = interpolate(image, scale_factor=_scale((0.2, 0.7, 0.1), (0.15, 1.5)), mode=_mode())
        image = self._noise(image, (1, 30), (0.05, 3), clock)
        image = self._compress(image, clock)
        if random.random() < 0.8:
            with clock("blur"):
                image = self.filter2D(image, blur2)
        quarter = tuple(n // 4 for n in size)
        with clock("resize"):
            scale = _scale((0.3, 0.4, 0.3), (0.3, 1.2))
            image = interpolate(image, size=tuple(int(n * scale) for n in quarter), mode=_mode())
        image = self._noise(image, (1, 25), (0.05, 2.5), clock)
        image = self._finish(image, quarter, final, clock)
        with clock("resize"):
            image = interpolate(image, size=size, mode="bicubic")
        return torch.clamp((image * 255).round(), 0, 255)[0].numpy().transpose(1, 2, 0) / 255

    def _finish(self, image: Any, size: tuple[int, ...], kernel: Any, clock: Clock) -> Any:
        """JPEG before or after [back to a quarter of the size, sinc filter]."""
        first = random.random() < 0.5
        image = self._compress(image, clock) if first else image
        with clock("resize"):
            image = self.torch.nn.functional.interpolate(image, size=size, mode=_mode())
        with clock("blur"):
            image = self.filter2D(image, kernel)
        return image if first else self._compress(image, clock)

    def _kernel(self, sigma: tuple[float, float]) -> Any:
        size = random.choice(SIZES)
        if random.random() < 0.1:
            cutoff = np.random.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi)
            return self._padded(self.degradations.circular_lowpass_kernel(cutoff, size, pad_to=False))
        mixed = self.degradations.random_mixed_kernels
        return self._padded(mixed(KINDS, SHARES, size, sigma, sigma, ROTATION, (0.5, 4), (1, 2)))

    def _final(self) -> Any:
        if random.random() >= 0.8:
            return self._padded(np.ones((1, 1)))
        cutoff = np.random.uniform(np.pi / 3, np.pi)
        return self._padded(self.degradations.circular_lowpass_kernel(cutoff, random.choice(SIZES)))

    def _padded(self, kernel: np.ndarray) -> Any:
        """As a (1, 21, 21) tensor: kernels of a batch have one size."""
        return self.torch.FloatTensor(np.pad(kernel, (21 - len(kernel)) // 2))[None]

    def _noise(self, image: Any, sigma: tuple[float, float], scale: tuple[float, float], clock: Clock) -> Any:
        draw = self.degradations
        with clock("noise"):
            if random.random() < 0.5:
                return draw.random_add_gaussian_noise_pt(image, sigma, gray_prob=0.4, clip=True)
            return draw.random_add_poisson_noise_pt(image, scale, gray_prob=0.4, clip=True)

    def _compress(self, image: Any, clock: Clock) -> Any:
        with clock("jpeg"), self.torch.no_grad():
            quality = self.torch.empty(len(image)).uniform_(30, 95)
            return self.jpeg(self.torch.clamp(image, 0, 1), quality=quality)


def _scale(shares: tuple[float, ...], limits: tuple[float, float]) -> float:
    kind = random.choices(["up", "down", "keep"], shares)[0]
    span = {"up": (1, limits[1]), "down": (limits[0], 1), "keep": (1, 1)}[kind]
    return random.uniform(*span)


def _mode() -> str:
    return random.choice(["area", "bilinear", "bicubic"])


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"basicsr_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
