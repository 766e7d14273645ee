"""Collect the exported weights of the `tiny` stages as the float16 files that the package ships.

python scripts/pack_tiny.py work diffbir_jax/pretrained/tiny
"""

import argparse
from pathlib import Path

from diffbir_jax.checkpoint import load_weights, save_weights
from diffbir_jax.loading import abstract_params
from diffbir_jax.models.presets import TINY

# Module -> the stage whose export holds its final weights.
STAGES = {"rm": "rm", "vae": "decoder", "unet": "prior", "control": "control"}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "work", type=Path, help="folder that holds the work folders rm, decoder, prior and control"
    )
    parser.add_argument("output", type=Path, help="folder for rm, vae, unet and control .safetensors")
    args = parser.parse_args()
    likes = abstract_params(TINY)
    for module, stage in STAGES.items():
        params = load_weights(args.work / stage / "export" / f"{module}.safetensors", likes[module])
        header = {"preset": "tiny"} | TINY.header(module)
        path = save_weights(args.output / f"{module}.safetensors", params, header, "float16")
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
