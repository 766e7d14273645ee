"""Where training images come from: folders, lists, tables, shards, TensorFlow Datasets (docs/data.md)."""

from diffbir_jax.data.sources.kinds import make_source

__all__ = ["make_source"]
