"""Networks in Flax Linen: the only package that imports flax."""
