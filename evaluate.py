"""Score restored images: the same as diffbir evaluate."""

from diffbir_jax.cli.main import start

if __name__ == "__main__":
    start("evaluate")
