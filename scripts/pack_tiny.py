"""Collect the exported weights of a small preset's stages as the float16 files that the package ships.

python scripts/pack_tiny.py work diffbir_jax/pretrained/tiny
python scripts/pack_tiny.py work diffbir_jax/pretrained/one-step --preset one-step
python scripts/pack_tiny.py work diffbir_jax/pretrained/one-step --preset one-step --only rm
"""

import argparse
from pathlib import Path

from diffbir_jax.models.presets import get_preset
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import load_weights, save_weights

# Preset -> module -> the stage whose export holds its final weights.
STAGES = {
    "tiny": {"rm": "rm", "vae": "decoder", "unet": "prior", "control": "control"},
    "one-step": {"rm": "rm", "vae": "one_step", "unet": "one_step", "control": "one_step"},
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "work", type=Path, help="folder that holds the stages' work folders, such as rm and decoder"
    )
    parser.add_argument("output", type=Path, help="folder for rm, vae, unet and control .safetensors")
    parser.add_argument("--preset", choices=STAGES, default="tiny", help="default: %(default)s")
    parser.add_argument(
        "--only",
        choices=STAGES["tiny"],
        nargs="+",
        help="the networks to pack (default: all); other files stay",
    )
    args = parser.parse_args()
    preset = get_preset(args.preset)
    likes = abstract_params(preset)
    for module, stage in STAGES[args.preset].items():
        if args.only is not None and module not in args.only:
            continue
        params = load_weights(args.work / stage / "export" / f"{module}.safetensors", likes[module])
        header = {"preset": preset.name} | preset.header(module)
        stem = getattr(preset.files, module)
        path = save_weights(args.output / f"{stem}.safetensors", params, header, "float16")
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
