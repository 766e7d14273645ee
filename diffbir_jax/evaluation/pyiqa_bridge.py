"""MUSIQ, MANIQA, CLIP-IQA and FID, computed by the package pyiqa on weights in local files.

pyiqa is optional and imported only here, when one of its metrics is needed. Its licence, PolyForm Noncommercial 1.0.0,
allows only non-commercial use. By default pyiqa downloads its weights. Here it must not: a missing file is reported
with the address in pyiqa's own tables. Checked with pyiqa 0.1.16.
"""

import importlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
from PIL import Image

from diffbir_jax.conversion.files import CheckpointError, read_tensors
from diffbir_jax.evaluation.metric import Metric, SetScore, Setup, UnavailableError
from diffbir_jax.evaluation.networks import one_at_a_time, weights_file
from diffbir_jax.metrics.frechet import frechet_distance

LICENCE = "for non-commercial use only: PolyForm Noncommercial 1.0.0"
INCEPTION_SIDE = 299


@dataclass(frozen=True)
class Source:
    """The weights of one metric of pyiqa: their place, and their address in pyiqa's tables.

    Attributes:
        metric: pyiqa's name of the metric.
        file: name in the folder of weights.
        module: below `pyiqa.archs`, the module with the address.
        table: its variable: the address, or a dict of addresses.
        key: key in the dict; "" if there is no dict.
        options: further arguments of `pyiqa.create_metric`.
    """

    metric: str
    file: str
    module: str
    table: str
    key: str = ""
    options: Mapping[str, object] = field(default_factory=dict)

    def address(self) -> str:
        """Return the address from which pyiqa would download.

        Raises:
            UnavailableError: pyiqa cannot be imported.
        """
        table = getattr(import_part(f"pyiqa.archs.{self.module}"), self.table)
        return table[self.key] if self.key else table

    def path(self, setup: Setup) -> Path:
        """Return the path of the file.

        Raises:
            UnavailableError: pyiqa cannot be imported, or the file is missing.
        """
        # The address comes first, so that a missing package is reported before a missing file.
        address = self.address()
        return weights_file(
            setup, self.file, f"It comes from {address}; put it into that folder under this name"
        )


MUSIQ = Source("musiq", "musiq.pth", "musiq_arch", "default_model_urls", "koniq10k", {"pretrained": False})
MANIQA = Source("maniqa", "maniqa.pt", "maniqa_arch", "default_model_urls", "koniq", {"pretrained": False})
CLIPIQA = Source("clipiqa", "clip_rn50.pt", "clip_model", "_MODELS", "RN50")
FID = Source("fid", "inception_fid.pth", "inception", "FID_WEIGHTS_URL")


class Network(Protocol):
    """A module of PyTorch."""

    def load_state_dict(self, state_dict: Mapping[str, object], strict: bool = True) -> object:
        """Take all parameters."""
        ...


def import_part(name: str) -> ModuleType:
    """Import pyiqa, a module of it, or a module that it installs.

    Raises:
        UnavailableError: it, or a package that it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(
            f"{name} cannot be imported ({error}): pip install pyiqa ({LICENCE})"
        ) from error


def fill(network: Network, path: Path) -> None:
    """Load every parameter of a PyTorch module from a file, without arbitrary unpickling.

    Raises:
        UnavailableError: the file is damaged, not trustworthy or for another network.
    """
    torch = import_part("torch")
    with reported(path):
        state = {key: torch.tensor(np.asarray(value)) for key, value in read_tensors(path).items()}
        network.load_state_dict(state, strict=True)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn errors of reading `path` as weights into UnavailableError."""
    try:
        yield
    except (CheckpointError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnavailableError(f"{path} is not the file that is needed: {reason[:300]}") from error


def create(source: Source, **options: object) -> Any:
    """Return pyiqa's metric, which does not load weights itself."""
    return import_part("pyiqa").create_metric(source.metric, **source.options, **options)


def _load_filled(
    source: Source, setup: Setup, without: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Callable[[np.ndarray], float]:
    path = source.path(setup)
    # The patch is active only while the network is built.
    with without():
        metric = create(source)
    fill(metric.net, path)
    return _single(metric)


def _no_vit() -> AbstractContextManager[object]:
    """MANIQA asks timm for a trained ViT, but its own file has these weights: let timm make the ViT without them."""
    timm = import_part("timm")
    plain = timm.create_model
    return patch.object(timm, "create_model", lambda name, pretrained: plain(name, pretrained=False))


def _load_clipiqa(setup: Setup) -> Callable[[np.ndarray], float]:
    # CLIP's loader takes a path in place of the name of a backbone.
    path = CLIPIQA.path(setup)
    with reported(path):
        return _single(create(CLIPIQA, backbone=str(path)))


def _single(metric: Any) -> Callable[[np.ndarray], float]:
    """A function that scores (H, W, 3) uint8."""
    torch = import_part("torch")

    def score(image: np.ndarray) -> float:
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255
        with torch.inference_mode():
            return metric(torch.from_numpy(pixels)).item()

    return one_at_a_time(score)


def _load_fid(setup: Setup) -> SetScore:
    path = FID.path(setup)
    inception = import_part(f"pyiqa.archs.{FID.module}")
    torch = import_part("torch")
    with patch.object(inception, "load_pretrained_network", lambda network, _: fill(network, path)):
        metric = create(FID)

    def features(image: np.ndarray) -> np.ndarray:
        # The scaling of the TensorFlow Inception, which FID's weights come from.
        pixels = (clean_resized(image) - 128) / 128
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])).to(metric.device)
        with torch.inference_mode():
            return metric.net.model(batch)[0].cpu().numpy().reshape(-1).astype(np.float64)

    return SetScore(one_at_a_time(features), frechet_distance)


def clean_resized(image: np.ndarray) -> np.ndarray:
    """Resize for Inception-v3 as clean-fid does: Pillow's antialiased bicubic, without intermediate rounding.

    Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", 2022.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (299, 299, 3) float32 in [0, 255].
    """
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    # Float planes one by one: Pillow has no float RGB, and rounds 8-bit results.
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in _planes(image)]
    return np.stack([np.asarray(plane) for plane in planes], -1).clip(0, 255)


def _planes(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)


PYIQA = (
    Metric(
        "musiq",
        "MUSIQ",
        "single",
        "higher",
        partial(_load_filled, MUSIQ),
        files=(MUSIQ.file,),
        packages=("pyiqa", "torch"),
    ),
    Metric(
        "maniqa",
        "MANIQA",
        "single",
        "higher",
        partial(_load_filled, MANIQA, without=_no_vit),
        files=(MANIQA.file,),
        packages=("pyiqa", "timm", "torch"),
    ),
    Metric(
        "clipiqa",
        "CLIP-IQA",
        "single",
        "higher",
        _load_clipiqa,
        files=(CLIPIQA.file,),
        packages=("pyiqa", "torch"),
    ),
    Metric("fid", "FID", "set", "lower", _load_fid, files=(FID.file,), packages=("pyiqa", "torch")),
)
