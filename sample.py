"""Restore photographs: python sample.py --input FILE_OR_DIR --output DIR. See --help."""

from diffbir_jax.cli.sample import main

if __name__ == "__main__":
    main()
