"""Convert published weights: the same as diffbir convert."""

from diffbir_jax.cli.main import start

if __name__ == "__main__":
    start("convert")
