"""Arrays between JAX and PyTorch, and the tolerance that all peers are held to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

TOLERANCE = 1e-4  # relative to the largest value


def random(*shape: int) -> np.ndarray:
    """Standard normal float32 values, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def image(height: int, width: int) -> np.ndarray:
    """Two different images, (2, height, width, 3) in [0, 1]."""
    return np.random.default_rng(0).random((2, height, width, 3), dtype=np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def tensors(state: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A state dict of arrays as PyTorch reads it."""
    return {key: torch.tensor(np.ascontiguousarray(x)) for key, x in state.items()}


def assert_equal(ours: Any, peers: torch.Tensor) -> None:
    """Compare our result with the peer's, (B, H, W, C) with (B, C, H, W) if they are images."""
    wanted = peers.detach().numpy()
    wanted = wanted.transpose(0, 2, 3, 1) if wanted.ndim == 4 else wanted
    assert ours.shape == wanted.shape
    error = np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()
    assert error <= TOLERANCE, f"relative error {error:.2e}"
    print(f"relative error {error:.2e}")
