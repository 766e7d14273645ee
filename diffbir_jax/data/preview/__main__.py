"""Show the training data of a configuration: python -m diffbir_jax.data.preview --config configs/bsr.py --out grid.png

It writes a picture of pairs, target (left) and input (right), and prints the random parameters of each. Settings are
overridden as in train.py: --config.data.source.path=photos.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from diffbir_jax.console.errors import EXPECTED
from diffbir_jax.console.parser import INTERRUPTED
from diffbir_jax.data.preview.pairs import show, time_loader, time_stages
from diffbir_jax.data.setup import make_loaders

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration whose `data` to show.")
OUT = flags.DEFINE_string("out", "grid.png", "Picture to write.")
NUMBER = flags.DEFINE_integer("number", 8, "Pairs in the picture.", lower_bound=1)
FIRST = flags.DEFINE_integer("first", 0, "Position of the first pair in training order.", lower_bound=0)
STATS = flags.DEFINE_bool("stats", False, "Also time examples, one by one and through the loader.")
TIMED = flags.DEFINE_integer("timed", 64, "Number of examples that --stats times.", lower_bound=1)
HELD_OUT = flags.DEFINE_bool("held_out", False, "Show the examples held out of training instead.")


def run(config: Mapping[str, Any], out: Path) -> None:
    """Show the training data of `config`, as the flags ask.

    Raises:
        DataError: the data cannot be used.
        ValueError: a setting is not allowed.
    """
    train, held_out = make_loaders(config["data"], config["seed"])
    loader = held_out if HELD_OUT.value else train
    show(loader.items, FIRST.value, NUMBER.value, out)
    if STATS.value:
        time_stages(loader.items, TIMED.value)
        time_loader(loader, TIMED.value)


def main(argv: list[str]) -> None:
    """Run the command; bad input ends in one line."""
    try:
        run(CONFIG.value.to_dict(), Path(OUT.value).expanduser())
    except EXPECTED as error:
        sys.exit("preview: " + " ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
