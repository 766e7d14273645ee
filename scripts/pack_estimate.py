"""Write the exported weights of the degradation estimate as the float16 file that the package ships.

python scripts/pack_estimate.py work/estimate/export/degradation.safetensors
"""

import argparse
from pathlib import Path

from diffbir_jax.restoration.estimate import WEIGHTS, load_reader
from diffbir_jax.weights.safetensors import read_metadata, save_weights


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="what diffbir train --config estimate exported")
    parser.add_argument("output", type=Path, nargs="?", default=WEIGHTS, help="default: %(default)s")
    args = parser.parse_args()
    said = read_metadata(args.weights)
    header = {name: said[name] for name in ("preset", "objective", "step") if name in said}
    path = save_weights(args.output, load_reader(args.weights), header, "float16")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
