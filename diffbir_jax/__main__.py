"""python -m diffbir_jax is the command `diffbir`."""

from diffbir_jax.cli.main import main

if __name__ == "__main__":
    main()
