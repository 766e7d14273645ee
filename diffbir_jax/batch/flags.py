"""The flags of `diffbir restore`: files, long runs and, from `restoration/flags.py`, networks and sampling."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.console.numbers import count, positive, quality, whole
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.faces.flags import add_face_flags
from diffbir_jax.imaging.photo import MAX_PIXELS
from diffbir_jax.restoration.flags import add_guidance_flags, add_network_flags, add_stage2_flags

# What a photographer needs: --help shows these, --help-all every flag.
BASIC = (
    "paths",
    "output",
    "upscale",
    "detail",
    "version",
    "task",
    "format",
    "quality",
    "compare",
    "seed",
    "skip_existing",
)
FORMATS = ("png", "jpeg", "webp", "tiff", "same")
BIT_DEPTHS = ("same", "8", "16")


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="diffbir restore",
        usage="diffbir restore PHOTO|FOLDER ... -o DIR [options]",
        basic=BASIC,
        description="Restore photographs of unknown degradation: stage 1 cleans, stage 2 regenerates detail.",
        epilog="Exit code: 0 if every image was restored or skipped, 1 if some or all were not, 2 for a bad flag, "
        f"{INTERRUPTED} if interrupted.",
    )
    add_input_flags(parser.add_argument_group("files in"))
    add_output_flags(parser.add_argument_group("files out"))
    add_run_flags(parser.add_argument_group("long runs"))
    add_network_flags(parser.add_argument_group("networks"))
    add_face_flags(parser.add_argument_group("faces in whole photos, with --task faces"))
    add_stage2_flags(parser.add_argument_group("stage 2"))
    add_guidance_flags(parser.add_argument_group("guidance and control"))
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    args.given = given_flags(parser, argv)
    join_inputs(parser, args)
    if not args.given & {"input", "paths", "list", "from_sidecar"}:
        parser.error(
            "nothing to restore: name a photo or a folder, or give --list FILE or --from-sidecar FILE"
        )
    if args.output is None:
        parser.error("--output is missing: give the folder for the results, -o DIR")
    return args


def join_inputs(parser: Parser, args: argparse.Namespace) -> None:
    """Make one input of the words without a flag and --input, or several: `args.input` or `args.paths`."""
    if args.paths and args.input:
        parser.error(
            f"{args.paths[0]} and --input {args.input} are both given; name all inputs without --input"
        )
    args.given -= {"paths"}
    if len(args.paths) == 1:
        args.input, args.paths = args.paths[0], []
    args.given |= {name for name in ("input", "paths") if getattr(args, name)}


def missing_input(args: argparse.Namespace) -> str:
    """Return what is wrong if an input is not there, else ""; without importing JAX."""
    paths = [path for path in (args.input, *args.paths) if path is not None and not path.exists()]
    return f"{paths[0]}: no such file or folder; give an image or a folder of images" if paths else ""


def given_flags(parser: Parser, argv: Sequence[str] | None) -> frozenset[str]:
    """Return the names of the flags on the command line itself. The parser must have read that line already."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_args(argv)))


def add_input_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for inputs."""
    add = group.add_argument
    image = (
        "images (PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP, at least 16x16 pixels) or a folder of images; subfolders are "
        "searched, and results mirror them (this, --list or --from-sidecar is required)"
    )
    add("paths", type=Path, nargs="*", metavar="PHOTO", help=image)
    add("--input", type=Path, metavar="FILE|DIR", help="one PHOTO, with a flag (default: none)")
    paths = (
        "instead of PHOTO: a text file of image paths, one per line, or - for standard input; results mirror the "
        "folders below the paths' common parent; a missing file fails alone (default: none)"
    )
    add("--list", metavar="FILE|-", help=paths)
    again = (
        "repeat the run that wrote this .json file beside its result, bit for bit; all settings except paths come from "
        "it; --input, --weights, --stage1 and --fidelity-mask say where the files are now (default: none)"
    )
    add("--from-sidecar", type=Path, metavar="FILE", help=again)
    most = "refuse images with more pixels than this, as a guard against decompression bombs"
    add("--max-pixels", type=count, default=MAX_PIXELS, metavar="N", help=f"{most} (default: %(default)s)")


def add_output_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for outputs."""
    add = group.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the results, <stem>.png by default; made if missing (required)",
    )
    add(
        "--upscale",
        type=positive,
        default=4.0,
        metavar="X",
        help="output side / input side (default: %(default)g)",
    )
    kind = "format of the results; same: each as its input, BMP as PNG (default: %(default)s)"
    add("--format", choices=FORMATS, default="png", help=kind)
    add("--quality", type=quality, default=95, metavar="N", help="of JPEG and WebP, 1 to 100 (default: 95)")
    depth = (
        "bits per channel of the results; same: as the input, but 8 in JPEG and WebP, which allow no more; "
        "maps are always 8 (default: %(default)s)"
    )
    add("--bit-depth", choices=BIT_DEPTHS, default="same", help=depth)
    compare = "also write <stem>_compare, one picture of input | stage 1 | result (default: off)"
    add("--compare", action="store_true", help=compare)
    stages = "also write the stage-1 image as <stem>_stage1, a file of its own (default: off)"
    add("--save-stages", action="store_true", help=stages)
    several = "results per image, each with different noise, <stem>_1 and so on (default: 1, <stem>)"
    add("--n-samples", type=count, default=1, metavar="K", help=several)
    deviation = (
        "with --n-samples above 1, also write <stem>_std.png: how much the results differ at each pixel, white from a "
        "standard deviation of 16 levels; detail that differs was invented (default: off)"
    )
    add("--std-map", action="store_true", help=deviation)
    sidecar = (
        "write <stem>.json beside each result, <name>.json with --format same: its input, parameters, weights, "
        "versions and timings, for --from-sidecar (default: on)"
    )
    add("--sidecar", action=argparse.BooleanOptionalAction, default=True, help=sidecar)


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for long runs and for sharing them among hosts."""
    add = group.add_argument
    skip = "leave out inputs whose results all exist: the same command continues a run that ended early"
    add("--skip-existing", action="store_true", help=f"{skip} (default: off)")
    report = (
        "also write the summary as JSON: restored, skipped, failed with reasons, left; with several hosts, host I "
        "writes <stem>.I.json (default: none)"
    )
    add("--report", type=Path, metavar="FILE", help=report)
    memory = (
        "memory limit in GiB, of the process on CPUs, of a device otherwise; sizes of tiles and batches are chosen "
        "to fit, and --tile sets the size of stage 2's tiles by hand (default: most of the memory)"
    )
    add("--memory-gb", type=positive, metavar="X", help=memory)
    add(
        "--plan",
        action="store_true",
        help="print how images will be cut and the peak memory, then stop (default: off)",
    )
    warm = "compile all programs for the inputs into the cache, then stop; later runs start at once"
    add("--warmup", action="store_true", help=f"{warm} (default: off)")
    norms = (
        "statistics for an image in tiles in the autoencoder: image, those of the whole image, one pass per layer; "
        "tile, those of each tile, one pass, about 54 dB from image (default: %(default)s)"
    )
    add("--vae-norms", choices=("image", "tile"), default="image", help=norms)
    hosts = "share the work among N hosts, each with its own --host-index; they need no connection"
    add("--hosts", type=count, metavar="N", help=f"{hosts} (default: 1)")
    add("--host-index", type=whole, metavar="I", help="index of this host, 0 to N-1 (default: 0)")
    distributed = (
        "take both numbers from jax.distributed, as clusters and TPU pods set it up; on other machines together with "
        "--coordinator, --hosts and --host-index (default: off)"
    )
    add("--distributed", action="store_true", help=distributed)
    address = "HOST:PORT of host 0 for --distributed (default: JAX_COORDINATOR_ADDRESS, or the cluster's)"
    add("--coordinator", metavar="ADDRESS", help=address)
