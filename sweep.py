"""Train every combination of some settings: the same as diffbir sweep."""

from diffbir_jax.cli.main import start

if __name__ == "__main__":
    start("sweep")
