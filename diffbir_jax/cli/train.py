"""Train one stage: python train.py --config configs/tiny_rm.py --workdir work/rm [--config.train.steps=100 ...]."""

import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from diffbir_jax.console.errors import UserError
from diffbir_jax.training.distributed import join
from diffbir_jax.training.loop import DivergedError, train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration of the stage; --config.a.b=v overrides a value."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, logs and exported weights; an existing one is resumed."
)

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join several processes that train together, as TPU pods and SLURM start them."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "With --distributed, if no cluster provides it: HOST:PORT of process 0."
)
HOSTS = flags.DEFINE_integer("hosts", None, "With --coordinator: number of processes.")
HOST_INDEX = flags.DEFINE_integer("host-index", None, "With --coordinator: number of this process, from 0.")


def parse(argv: list[str]) -> list[str]:
    """Read the flags; a setting that the config lacks ends with one line, like a bad value."""
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # around the KeyError that knows the name
        return leave(f"no such setting in the config: {error.args[0].args[0]}")
    except flags.Error as error:
        return leave(error)


def leave(problem: object) -> NoReturn:
    """Exit with one line that states the problem."""
    sys.exit("train.py: " + " ".join(str(problem).split()))


def meet() -> None:
    """Connect to the other processes, before anything runs on a device.

    Raises:
        ValueError: the processes do not connect, or the flags contradict each other.
    """
    if DISTRIBUTED.value:
        join(COORDINATOR.value, HOSTS.value, HOST_INDEX.value)
    elif (COORDINATOR.value, HOSTS.value, HOST_INDEX.value) != (None, None, None):
        raise UserError(
            "--coordinator, --hosts and --host-index are for --distributed: give it, or none of them"
        )


def main(argv: list[str]) -> None:
    """Run the loop; bad input ends with a message."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file
    try:
        meet()
        train(CONFIG.value, str(WORKDIR.value))
    except (OSError, DivergedError) as error:
        leave(error)
    except UserError as error:
        sys.exit(f"train.py: {error}")  # may be a list, a problem per line
    except KeyboardInterrupt:
        leave("stopped before the first step, so there is nothing to save.")


def run() -> None:
    """Read the command line and train."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
