"""Train one stage: diffbir train --config bsr:tiny --workdir work/bsr [--config.train.steps=100 ...]."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from diffbir_jax.console.config_flags import add_config_flags, parse, read_config
from diffbir_jax.console.errors import EXPECTED, UserError, as_flags, one_line
from diffbir_jax.console.numbers import whole
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.console.progress import waiting

if TYPE_CHECKING:
    from diffbir_jax.training.config import Config

PROG = "diffbir train"


def make_parser() -> Parser:
    """Return the parser of the command line, all but the settings of the configuration."""
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} --config NAME[:VARIANT]|FILE --workdir DIR [--photos DIR] [--config.KEY=VALUE ...]",
        description="Train one stage. The same command resumes a run that was stopped. With --config, --help lists "
        "the settings of that configuration.",
        epilog="Exit code: 0, 1 if the run failed, 2 for a bad flag, setting or folder, "
        f"{INTERRUPTED} after a second Ctrl-C.",
        add_help=False,
    )
    add_config_flags(parser)
    workdir = "folder of checkpoints, logs and exported weights; one that exists is resumed (required)"
    parser.add_argument("--workdir", metavar="DIR", help=workdir)
    add_process_flags(parser.add_argument_group("several processes"))
    return parser


def add_process_flags(group: argparse._ArgumentGroup) -> None:
    """Declare how several processes meet."""
    add = group.add_argument
    distributed = (
        "join several processes that train together, as TPU pods and SLURM start them (default: off)"
    )
    add("--distributed", action="store_true", help=distributed)
    coordinator = "with --distributed, if no cluster provides it: HOST:PORT of process 0"
    add("--coordinator", metavar="ADDRESS", help=coordinator)
    add("--hosts", type=whole, metavar="N", help="with --coordinator: number of processes")
    add("--host-index", type=whole, metavar="I", help="with --coordinator: number of this process, from 0")


def meet(args: argparse.Namespace) -> None:
    """Connect to the other processes, before anything runs on a device.

    Raises:
        UserError: the processes do not connect, or the flags contradict each other.
    """
    if args.distributed:
        from diffbir_jax.training.distributed import join

        join(args.coordinator, args.hosts, args.host_index)
    elif (args.coordinator, args.hosts, args.host_index) != (None, None, None):
        raise UserError(
            "--coordinator, --hosts and --host-index are for --distributed: give it, or none of them"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = make_parser()
    args, words = parse(parser, argv)
    if args.workdir is None:
        parser.refuse("--workdir is missing: give the folder for checkpoints and weights, --workdir DIR")
    config = read_config(parser, args, words)
    # Without JAX, which takes seconds to import: what is wrong with the settings is known before.
    from diffbir_jax.training.settings import check_config, check_photos

    try:
        check_config(config)
        check_photos(config)
    except EXPECTED as error:
        parser.refuse(error)
    if run(config, args):
        say_outcome(config, args)


def say_outcome(config: "Config", args: argparse.Namespace) -> None:
    """Print where the result of a finished run is, and the command that uses it; only the first process does."""
    from diffbir_jax.training.distributed import is_first
    from diffbir_jax.training.outcome import outcome

    if is_first():
        print(outcome(config, args.workdir))


def worded(error: Exception) -> str:
    """Return an error of training with flags for arguments. It may be a list, a problem per line."""
    return as_flags(str(error))


def run(
    config: "Config", args: argparse.Namespace, prog: str = PROG, worded: Callable[[Exception], str] = worded
) -> bool:
    """Run the loop and return whether all steps are done.

    Bad input ends with a message of the program `prog`, in the words that `worded` makes of an error.
    """
    with waiting("training", "loading"):
        from absl import logging

        from diffbir_jax.training.loop import DivergedError, train
        from diffbir_jax.training.stopping import EndedError

    logging.set_verbosity(logging.WARNING)  # Orbax reports every file
    try:
        meet(args)
        return int(train(config, args.workdir).step) >= int(config.train.steps)
    except OSError as error:
        # An error of the system comes at any time; one of ours says itself what to do.
        leave(f"{one_line(error)}; {way_on(error)}" if error.errno else worded(error), prog)
    except DivergedError as error:
        leave(worded(error), prog)
    except UserError as error:
        sys.exit(f"{prog}: {worded(error)}")
    except EndedError:
        end(f"{prog}: ended without saving; the same command goes on from the newest checkpoint, if any")
    except KeyboardInterrupt:
        leave("stopped before the first step, so there is nothing to save.", prog)


def way_on(error: OSError) -> str:
    """Return what to do after an error of the system."""
    in_the_way = error.errno in (errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
    return ("it is in the way: move it elsewhere, then " if in_the_way else "") + "the same command goes on"


def end(text: str) -> NoReturn:
    """Print a line and end the process at once, although a thread may still compile."""
    print(text, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def leave(problem: object, prog: str) -> NoReturn:
    """Exit with one line that states the problem."""
    sys.exit(f"{prog}: {' '.join(str(problem).split())}")
