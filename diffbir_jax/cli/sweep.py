"""Train every combination of some settings, one after another; run the same command again to continue a stopped sweep.

python sweep.py --workdir work/sweep --grid 'train.lr=1e-3,1e-4 data.batch_size=4,8' --config configs/bsr.py:tiny

All other flags are those of train.py and apply to all runs. Each run has a folder in the work folder. results.csv and
results.md in the work folder have a row per run with the last and the best validation metrics.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from diffbir_jax.console.errors import EXPECTED, UserError
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.training.grid import Overrides, parse_grid
from diffbir_jax.training.sweep import FAILED, make_runs, sweep

# train.py lies beside the configurations and finds them from there.
TRAIN = Path(__file__).parents[2] / "train.py"


def check(arguments: Sequence[str], overrides: Overrides) -> None:
    """Read the configuration of a run as train.py does, so that a bad run is found before the first run starts.

    Raises:
        ValueError: the config has no such setting, or a value does not fit.
    """
    command = ["sweep.py", *arguments, *(f"--config.{key}={value}" for key, value in overrides.items())]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=command)
    flags.mark_flag_as_required("config", values)
    try:
        values(command)
    except AttributeError as error:  # around the KeyError that knows the name
        raise UserError(f"no such setting in the config: {error.args[0].args[0]}") from error
    except (flags.Error, TypeError) as error:
        raise UserError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line before any training."""
    parser = Parser(
        prog="sweep.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--grid", required=True, help="'KEY=VALUE,VALUE KEY=VALUE,VALUE', keys as in the config"
    )
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the runs and the tables")
    known, arguments = parser.parse_known_args(argv)
    workdir = known.workdir.expanduser().absolute()
    try:
        grid = parse_grid(known.grid)
        for overrides in grid:
            check(arguments, overrides)
        runs = make_runs(grid, workdir, arguments)
        sweep(runs, workdir, [sys.executable, str(TRAIN), *arguments])
    except EXPECTED as error:
        sys.exit("sweep.py: " + " ".join(str(error).split()))
    except KeyboardInterrupt:
        print("sweep.py: stopped; run the same command again to go on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    print((workdir / "results.md").read_text("utf-8"), end="")
    sys.exit(any(run.record["state"] == FAILED for run in runs))
