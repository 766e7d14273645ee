"""Train every combination of some settings: python sweep.py --workdir DIR --grid 'KEY=VALUE,VALUE' --config FILE."""

from diffbir_jax.cli.sweep import main

if __name__ == "__main__":
    main()
