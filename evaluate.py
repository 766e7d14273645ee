"""Score restored images: python evaluate.py --pred DIR --gt DIR --output DIR. See --help."""

from diffbir_jax.cli.evaluate import main

if __name__ == "__main__":
    main()
