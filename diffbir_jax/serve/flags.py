"""The flags of `diffbir serve` and `diffbir web`. Nothing here imports JAX or the web libraries."""

import argparse

from diffbir_jax.console.numbers import count, positive, refused
from diffbir_jax.console.pages import page
from diffbir_jax.console.parser import Parser
from diffbir_jax.files.places import given_path
from diffbir_jax.restoration import names
from diffbir_jax.restoration.flags import lora_word
from diffbir_jax.serve.limits import Limits

MOST_PORT = 65535
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_parser() -> Parser:
    """Return the parser of `diffbir serve`."""
    parser = Parser(
        prog="diffbir serve",
        description=f"Restore photos for other programs by HTTP (POST /restore). See {page('serve')}.",
        epilog="SIGTERM or Ctrl-C finishes all accepted jobs and stops. A second signal stops at once. Exit code: 0, "
        "or 1 if unfinished jobs went back to their clients.",
    )
    add_network_flags(parser.add_argument_group("networks"))
    add_address_flags(parser.add_argument_group("address"), 8000)
    keys = "file with an API key in each line, as NAME KEY or KEY; clients send Authorization: Bearer KEY"
    parser.add_argument("--keys", type=given_path, metavar="FILE", help=f"{keys} (default: no keys)")
    add_limit_flags(parser.add_argument_group("limits"))
    return parser


def add_network_flags(group: argparse._ArgumentGroup) -> None:
    """Declare which networks a service has."""
    add = group.add_argument
    version = (
        "version of the networks; repeat the flag for more versions; clients get the first one by default"
    )
    add("--version", action="append", choices=names.VERSIONS, help=f"{version} (default: one-step)")
    task = "selects networks of v1, v2 and v2.1 (default: %(default)s)"
    add("--task", choices=[name for name in names.TASKS if name != names.FACES], default="sr", help=task)
    faces = 'clients may also ask for "task": "faces", which restores the faces of whole photos apart'
    add("--faces", action="store_true", help=f"{faces} (default: off)")
    weights = "folder of .safetensors files (default: the included ones, else ~/.cache/diffbir_jax/weights)"
    add("--weights", type=given_path, metavar="DIR", help=weights)
    lora = (
        "merge a LoRA into the networks of every version, as diffbir restore does; SCALE is its strength, 1 if left "
        "out; give it again for several (default: none)"
    )
    add("--lora", type=lora_word, action="append", metavar="FILE[:SCALE]", help=lora)
    add(
        "--yes",
        action="store_true",
        help="download missing weights of realesrgan without asking (default: off)",
    )
    precision = "number format of networks and weights (default: %(default)s)"
    add("--precision", choices=names.PRECISIONS, default="fp32", help=precision)
    memory = "memory limit of restoring, in GiB (default: most of the memory)"
    add("--memory-gb", type=positive, metavar="X", help=memory)


def add_address_flags(group: argparse._ArgumentGroup, port: int) -> None:
    """Declare where a service listens."""
    host = "address to listen on; with 127.0.0.1 only this machine can connect (default: %(default)s)"
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    free = "port to listen on; 0 takes any free port (default: %(default)s)"
    group.add_argument("--port", type=port_number, default=port, metavar="N", help=free)


def add_limit_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the limits that depend on the machine."""
    add, default = group.add_argument, Limits()
    add(
        "--queue",
        type=count,
        default=default.queue,
        metavar="N",
        help="largest number of waiting jobs (default: %(default)s)",
    )
    mine = "largest number of waiting jobs of one API key (default: %(default)s)"
    add("--per-client", type=count, default=default.per_client, metavar="N", help=mine)
    rate = "largest number of pictures per minute of one API key or, without keys, one address; as many estimates"
    add("--rate", type=count, metavar="N", help=f"{rate} (default: no limit)")
    most = "refuse images with more pixels than this (default: %(default)s)"
    add("--max-pixels", type=count, default=default.pixels, metavar="N", help=most)
    result = "refuse results with more pixels than this, all samples together (default: %(default)s)"
    add("--max-output-pixels", type=count, default=default.output_pixels, metavar="N", help=result)
    samples = "results per picture that a client may ask for at most (default: %(default)s)"
    add("--max-samples", type=count, default=default.samples, metavar="N", help=samples)
    upload = "refuse requests of more than this many MB (default: %(default)s)"
    add("--max-upload-mb", type=count, default=default.upload_bytes // 2**20, metavar="N", help=upload)
    wait = "seconds that a job waits for more jobs of its batch (default: %(default)s)"
    add("--patience", type=positive, default=default.patience, metavar="S", help=wait)
    timeout = "seconds after which an unfinished job fails (default: %(default)g)"
    add("--timeout", type=positive, default=default.timeout, metavar="S", help=timeout)
    keep = "seconds for which results stay in memory (default: %(default)g)"
    add("--keep", type=positive, default=default.expiry, metavar="S", help=keep)
    kept = "MB of results in memory; above this the oldest results are deleted (default: %(default)s)"
    add("--keep-mb", type=count, default=default.kept_bytes // 2**20, metavar="N", help=kept)
    grace = (
        "seconds for accepted jobs after SIGTERM; then clients get the other jobs back (default: %(default)g)"
    )
    add("--grace", type=positive, default=600.0, metavar="S", help=grace)


def port_number(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or int(text) > MOST_PORT:
        raise refused(text, f"whole numbers up to {MOST_PORT}")
    return int(text)


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits of a command line."""
    return Limits(
        queue=args.queue,
        per_client=args.per_client,
        rate=args.rate,
        upload_bytes=args.max_upload_mb * 2**20,
        pixels=args.max_pixels,
        output_pixels=args.max_output_pixels,
        samples=args.max_samples,
        patience=args.patience,
        timeout=args.timeout,
        expiry=args.keep,
        kept_bytes=args.keep_mb * 2**20,
    )
