"""The flags of `diffbir restore`: files, long runs and, from `restoration/flags.py`, networks and sampling."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from diffbir_jax.console.numbers import count, positive, quality, whole
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.faces.flags import add_face_flags
from diffbir_jax.files.errors import absent
from diffbir_jax.files.places import given_path, path_or_url
from diffbir_jax.restoration.flags import (
    add_guidance_flags,
    add_network_flags,
    add_pixel_limit,
    add_stage2_flags,
)

# What a photographer needs: --help shows these, --help-all every flag.
BASIC = (
    "paths",
    "output",
    "upscale",
    "detail",
    "auto",
    "version",
    "task",
    "format",
    "compare",
    "seed",
    "skip_existing",
)
FORMATS = ("png", "jpeg", "webp", "tiff", "same")
BIT_DEPTHS = ("same", "8", "16")
# Words of --captions.
SIDECARS, AUTO = "sidecars", "auto"
NOTHING = "no such file or folder; give an image or a folder of images"


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="diffbir restore",
        usage="diffbir restore PHOTO|FOLDER ... -o DIR [options]",
        basic=BASIC,
        description="Restore photographs of unknown degradation: stage 1 cleans, stage 2 regenerates detail.",
        epilog="Exit code: 0 if every image was restored or skipped, 1 if any image failed, 2 for a wrong flag, "
        f"{INTERRUPTED} after Ctrl-C.",
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
        after = any(str(path).startswith("-") for path in (args.input, *args.paths))
        hint = "; options stand before --, since all after it are photos" if after else ""
        parser.error(f"--output is missing: give the folder for the results, -o DIR{hint}")
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
    paths = [path for path in (args.input, *args.paths) if isinstance(path, Path) and not path.exists()]
    return f"{paths[0]}: {absent(paths[0], NOTHING)}" if paths else ""


def given_flags(parser: Parser, argv: Sequence[str] | None) -> frozenset[str]:
    """Return the names of the flags on the command line itself. The parser must have read that line already."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_args(argv)))


def add_input_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for inputs."""
    add = group.add_argument
    image = (
        "images of at least 16x16 pixels (PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP), or a folder of images; results "
        "keep its subfolders; gs://, s3:// and other URLs of fsspec with the extra [buckets] (this, --list or "
        "--from-sidecar is required)"
    )
    add("paths", type=path_or_url, nargs="*", metavar="PHOTO", help=image)
    add("--input", type=path_or_url, metavar="FILE|DIR", help="the same as one PHOTO (default: none)")
    paths = (
        "instead of PHOTO: a text file with one image path per line, or - for standard input; results keep the "
        "subfolders below the common parent of all paths; a missing file does not stop the run (default: none)"
    )
    add("--list", metavar="FILE|-", help=paths)
    add_caption_flags(group)
    again = (
        "make a result again, bit for bit; FILE is the .json file beside it and has all settings; if files have moved, "
        "give --input, --weights, --stage1 or --fidelity-mask (default: none)"
    )
    add("--from-sidecar", type=given_path, metavar="FILE", help=again)
    add_pixel_limit(group)


def add_caption_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for captions of the inputs."""
    add = group.add_argument
    words = (
        "what each photo shows, in front of --pos-prompt, for versions that read text: a folder with NAME.txt for each "
        f"input; a .csv or .jsonl file with file_name and caption; {SIDECARS}: those of an earlier run, beside its "
        f"results; {AUTO}: by --captioner; or none; write ./{AUTO} for a folder of that name (default: none)"
    )
    add("--captions", type=captions_word, metavar=f"FILE|DIR|{SIDECARS}|{AUTO}", help=words)
    model = (
        f"the model for --captions {AUTO}: any image-to-text model of transformers, by its folder or its name on "
        "huggingface.co, such as microsoft/git-large-coco; needs the extra [captions] (default: none)"
    )
    add("--captioner", type=os.path.expanduser, metavar="NAME|FOLDER", help=model)
    question = (
        "what --captioner is asked, or the beginning of all captions, depending on the model (default: for models that "
        "chat to describe the photo in one sentence, for others nothing)"
    )
    add("--captioner-prompt", metavar="TEXT", help=question)


def captions_word(text: str) -> str | Path | None:
    """Return what --captions says: a word, a path, or None for none."""
    return text if text in (SIDECARS, AUTO) else None if text == "none" else given_path(text)


def add_output_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for outputs."""
    add = group.add_argument
    add(
        "-o",
        "--output",
        type=path_or_url,
        metavar="DIR",
        help="folder for the results, <stem>.png by default; it is made if missing; or a URL, as for PHOTO (required)",
    )
    add(
        "--upscale",
        type=positive,
        default=4.0,
        metavar="X",
        help="enlargement of each side: 2 makes 200x200 of 100x100 pixels (default: %(default)g)",
    )
    kind = "format of the results; same: the format of each input, PNG for BMP (default: %(default)s)"
    add("--format", choices=FORMATS, default="png", help=kind)
    best = "quality of JPEG and WebP results, 1 to 100 (default: 95)"
    add("--quality", type=quality, default=95, metavar="N", help=best)
    depth = (
        "bits per channel of the results; same: the bits of each input; JPEG, WebP and maps always have 8 bits "
        "(default: %(default)s)"
    )
    add("--bit-depth", choices=BIT_DEPTHS, default="same", help=depth)
    auto = (
        "estimate noise, JPEG quality and scale of each photo and choose the settings by a table; clean photos are "
        "left alone at --upscale 1, and copied if the result has their format; flags that are given win; diffbir "
        "inspect shows the estimate (default: off)"
    )
    add("--auto", action="store_true", help=auto)
    compare = "also write <stem>_compare: input, stage 1 and result side by side (default: off)"
    add("--compare", action="store_true", help=compare)
    stages = "also write the result of stage 1 as <stem>_stage1 (default: off)"
    add("--save-stages", action="store_true", help=stages)
    several = (
        "results per image, each with other noise; two or more are <stem>_1, <stem>_2 and so on (default: 1)"
    )
    add("--n-samples", type=count, default=1, metavar="K", help=several)
    deviation = (
        "with --n-samples 2 or more, also write <stem>_std.png, the standard deviation of the results at each pixel; "
        "white is 16 levels or more; detail that differs is invented (default: off)"
    )
    add("--std-map", action="store_true", help=deviation)
    pages = (
        "also write index.html with before and after of every result, and open it in the browser if there is a display "
        "(default: off)"
    )
    add("--open", action="store_true", help=pages)
    sidecar = (
        "write a file for --from-sidecar beside each result: input, parameters, weights, versions and timings; its "
        "name is <stem>.json, or <name>.json with --format same (default: on)"
    )
    add("--sidecar", action=argparse.BooleanOptionalAction, default=True, help=sidecar)


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags for long runs and for sharing them among hosts."""
    add = group.add_argument
    skip = "skip inputs whose results all exist, to continue a run that ended early"
    add("--skip-existing", action="store_true", help=f"{skip} (default: off)")
    report = (
        "also write the summary as JSON: restored, skipped and failed images with reasons, and those not tried; with "
        "several hosts, host I writes <stem>.I.json (default: none)"
    )
    add("--report", type=given_path, metavar="FILE", help=report)
    memory = (
        "memory limit in GiB: on CPUs that of the process, else that of a device; tiles and batches are chosen to fit; "
        "--tile sets the tiles of stage 2 by hand (default: most of the memory)"
    )
    add("--memory-gb", type=positive, metavar="X", help=memory)
    add(
        "--plan",
        action="store_true",
        help="print the tiles and the peak memory, then stop (default: off)",
    )
    warm = "compile all programs for these inputs into the cache, then stop; later runs start at once"
    add("--warmup", action="store_true", help=f"{warm} (default: off)")
    norms = (
        "statistics that normalise the tiles in the autoencoder; image: of the whole image, one pass per layer; tile: "
        "of each tile, one pass, with about 54 dB PSNR to image (default: %(default)s)"
    )
    add("--vae-norms", choices=("image", "tile"), default="image", help=norms)
    hosts = "share the work among N hosts, each with its own --host-index; hosts need no connection"
    add("--hosts", type=count, metavar="N", help=f"{hosts} (default: 1)")
    add("--host-index", type=whole, metavar="I", help="index of this host, from 0 to N-1 (default: 0)")
    distributed = (
        "let jax.distributed set --hosts and --host-index, on clusters and TPU pods; on other machines also give "
        "--coordinator, --hosts and --host-index (default: off)"
    )
    add("--distributed", action="store_true", help=distributed)
    address = "HOST:PORT of host 0 for --distributed (default: JAX_COORDINATOR_ADDRESS, or the cluster's)"
    add("--coordinator", metavar="ADDRESS", help=address)
