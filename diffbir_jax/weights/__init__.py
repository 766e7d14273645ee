"""The published weight files: their list, the versions that need them, and their download (docs/weights.md)."""

from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.places import MissingWeightsError, default_folder, fetch, find
from diffbir_jax.weights.registry import REGISTRY, needed

__all__ = ["REGISTRY", "MissingWeightsError", "WeightFile", "fetch", "find", "default_folder", "needed"]
