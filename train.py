"""Train one stage: python train.py --config configs/tiny_rm.py --workdir work/rm [--config.train.steps=100 ...]."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from diffbir_jax.training.loop import DivergedError, train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration of the stage; --config.a.b=v overrides a value."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, logs and exported weights; resumed if it exists."
)


def main(argv: list[str]) -> None:
    """Run the loop; bad input ends in one line."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file
    try:
        train(CONFIG.value, str(WORKDIR.value))
    except (ValueError, FileNotFoundError, DivergedError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
