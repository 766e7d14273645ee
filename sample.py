"""Restore photographs: the same as diffbir restore."""

from diffbir_jax.cli.main import start

if __name__ == "__main__":
    start("restore")
