"""The published weight files: which there are, what needs them, and how to get them (docs/weights.md)."""

from diffbir_jax.weights.file import WeightFile
from diffbir_jax.weights.places import MissingWeightsError, default_folder, fetch, find
from diffbir_jax.weights.registry import REGISTRY, needed

__all__ = ["REGISTRY", "MissingWeightsError", "WeightFile", "fetch", "find", "default_folder", "needed"]
