"""Train one stage: the same as diffbir train."""

from diffbir_jax.cli.main import start

if __name__ == "__main__":
    start("train")
