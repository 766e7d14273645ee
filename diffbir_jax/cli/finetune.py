"""Fine-tune a version on photos of one's own: diffbir finetune --photos DIR --version tiny -o DIR."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.cli.train import run
from diffbir_jax.console import configurations
from diffbir_jax.console.errors import EXPECTED, OtherRunError, UserError, one_line
from diffbir_jax.console.extras import require
from diffbir_jax.console.numbers import count, whole
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.console.plain import plain
from diffbir_jax.restoration import names

if TYPE_CHECKING:
    from diffbir_jax.training.config import Config

PROG = "diffbir finetune"
# Versions with a stage 2 that is trained here; configs/finetune.py has a variant for each.
VERSIONS = ("tiny", "one-step", "v1", "v2", "v2.1")
LEARNING_RATE_OF_ALL = 1e-4
# Flags for the arguments of training, and those by which a run may differ from an earlier one in its folder.
FLAGS = {"workdir": "-o"}
DIFFER = {"model": "another --version, --rank or --full", "data": "other photos or settings"}


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} --photos DIR|--pairs LQ HQ [--version NAME] [-o DIR] [options] [--config.KEY=VALUE ...]",
        description="Adapt a version to a few photos: a LoRA of the UNet and of IRControlNet is trained on crops of "
        "them. The same command resumes a run that was stopped. At the end it says how to use the result.",
        epilog="Exit code: 0, 1 if the run failed, 2 for a bad flag, setting or folder, "
        f"{INTERRUPTED} after a second Ctrl-C.",
    )
    add_data_flags(parser.add_argument_group("photos"))
    add_run_flags(parser.add_argument_group("training"))
    return parser


def add_data_flags(group: argparse._ArgumentGroup) -> None:
    """Declare what is trained on."""
    add = group.add_argument
    photos = (
        "folder of clean photos, one or more; the version's degradation makes the inputs (this or --pairs)"
    )
    add("--photos", metavar="DIR", help=photos)
    pairs = "folders of degraded and of clean photos of the same names, in place of --photos (default: none)"
    add("--pairs", nargs=2, metavar=("LQ", "HQ"), help=pairs)


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    """Declare which networks are trained, and how long."""
    add = group.add_argument
    version = f"what to adapt: {', '.join(VERSIONS)} (default: tiny)"
    add("--version", choices=names.VERSIONS, default="tiny", metavar="NAME", help=version)
    weights = "folder of the version's weights (default: those shipped, else weights)"
    add("--weights", metavar="DIR", help=weights)
    lpips = "weights of LPIPS (AlexNet), by which one-step is trained (default: work/metrics/lpips_alex.safetensors)"
    add("--lpips", metavar="FILE", help=lpips)
    add("-o", "--output", metavar="DIR", default="finetuned", help="work folder (default: %(default)s)")
    add("--rank", type=count, default=16, metavar="N", help="rank of the LoRA (default: %(default)s)")
    add("--full", action="store_true", help="train all weights, only of tiny (default: off)")
    steps = "optimizer steps (default: 500; 200, 300, 400 for 1, 2, 3 photos)"
    add("--steps", type=count, metavar="N", help=steps)
    batch = "crops in a batch (default: 8 for tiny, else 1)"
    add("--batch", type=count, metavar="N", help=batch)
    add("--seed", type=whole, default=0, metavar="N", help="of crops and noise (default: %(default)s)")
    more = "change a setting of the configuration finetune, such as --config.train.lr=1e-4"
    add("--config.KEY", dest="changes", metavar="VALUE", help=more)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, train and say how to use the result."""
    parser = make_parser()
    args, words = parser.parse_known_args(argv)
    if unknown := [word for word in words if not configurations.is_change(word)]:
        parser.error(parser.explain(unknown[0]))
    try:
        check(args)
        require("train")
        from diffbir_jax.training.settings import check_config, check_photos

        config = configuration(args, words)
        check_config(config)
        check_photos(config)
    except EXPECTED as error:
        parser.refuse(error)
    args.workdir, args.distributed, args.coordinator, args.hosts, args.host_index = args.output, *(None,) * 4
    run(config, args, PROG, worded)
    print(told(args, int(config.train.steps)))


def worded(error: Exception) -> str:
    """Return an error of training in one line, with the flags of this program."""
    if isinstance(error, OtherRunError):
        return plain(f"{error.place} was made with {DIFFER[error.differs]}; give those again, or a new -o")
    return one_line(error, FLAGS)


def check(args: argparse.Namespace) -> None:
    """Raise UserError for flags that no run can use."""
    if (args.photos is None) == (args.pairs is None):
        given = "are both given" if args.photos else "are missing"
        raise UserError(f"--photos and --pairs {given}; give --photos DIR, or --pairs LQ HQ")
    if args.version not in VERSIONS:
        raise UserError(
            f"--version {args.version} has no training objective here; fine-tune one of {', '.join(VERSIONS)}"
        )
    if args.lpips and args.version != "one-step":
        raise UserError(
            f"--lpips is for --version one-step; {args.version} has a loss without it, leave it out"
        )
    if args.full and args.version != "tiny":
        raise UserError(
            f"--full trains all weights, which takes too much memory for {args.version}; leave it out for a LoRA"
        )


def configuration(args: argparse.Namespace, changes: Sequence[str]) -> "Config":
    """Return the configuration of a run, adapted to the number of photos."""
    from diffbir_jax.imaging.listing import find_images
    from diffbir_jax.training.few import adapt

    config = configurations.load(f"finetune:{args.version}")
    if args.pairs:
        configurations.use_pairs(config, *args.pairs)
    else:
        configurations.use_photos(config, args.photos)
    clean = Path(args.pairs[1] if args.pairs else args.photos).expanduser()
    for folder in args.pairs or [args.photos]:
        check_apart(Path(folder).expanduser(), Path(args.output).expanduser())
    config.seed, config.lora.rank = args.seed, 0 if args.full else args.rank
    if args.full:
        config.train.lr = LEARNING_RATE_OF_ALL
    if args.weights:
        config.weights.folder = args.weights
    if args.lpips:
        config.weights.lpips = args.lpips
    if args.batch:
        config.data.batch_size = args.batch
    adapt(config, len(find_images(clean)), args.steps)
    if "pool" in config.data:
        config.data.cache = str(Path(args.output) / "crops.npz")
    return configurations.changed(config, changes)


def check_apart(photos: Path, output: Path) -> None:
    """Raise UserError for a folder of photos that is none, or in which the run would write pictures of its own."""
    if not photos.is_dir():
        problem = "is a file, and no folder" if photos.exists() else "no such folder"
        raise UserError(f"{photos}: {problem}; give a folder of photos, --photos DIR or --pairs LQ HQ")
    if output.resolve().is_relative_to(photos.resolve()):
        raise UserError(
            f"-o {output} is in the folder of the photos, {photos}, and the pictures of the run would count as photos; "
            "give another -o"
        )


def told(args: argparse.Namespace, steps: int) -> str:
    """Return what the run wrote and how to use it, or how to go on."""
    folder = Path(args.output).expanduser() / "export"
    file = folder if args.full else folder / "lora.safetensors"
    if not file.exists():
        return f"not done yet: the same command goes on to step {steps}"
    flag = f"--weights {folder}" if args.full else f"--lora {file}"
    more = f" --weights {args.weights}" if args.weights and not args.full else ""
    return f"wrote {file}; use it:\n  diffbir restore PHOTO -o restored --version {args.version}{more} {flag}"
