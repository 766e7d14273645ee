"""Train one stage: python train.py --config configs/tiny_rm.py --workdir work/rm [--config.train.steps=100 ...]."""

from diffbir_jax.cli.train import run

if __name__ == "__main__":
    run()
