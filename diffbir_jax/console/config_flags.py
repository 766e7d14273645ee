"""The flags of programs that read a training configuration: which one, its settings, and its photos."""

import argparse
from collections.abc import Sequence
from typing import Any

from diffbir_jax.console import configurations
from diffbir_jax.console.errors import UserError
from diffbir_jax.console.extras import require
from diffbir_jax.console.parser import Parser


def add_config_flags(parser: Parser) -> None:
    """Declare which configuration is used. The parser must not have a --help of its own."""
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this text and the settings of --config, and exit")
    config = "a shipped configuration or a .py file; a variant of it follows a colon: bsr:tiny (required)"
    add("--config", metavar="NAME", help=config)
    photos = "folder of photos to train on, in place of the configuration's; part of them is held out"
    add("--photos", metavar="DIR", help=f"{photos} (default: those of the configuration)")
    pairs = "folders of degraded and of clean photos of the same names, in place of --photos; nothing is degraded then"
    add("--pairs", nargs=2, metavar=("LQ", "HQ"), help=f"{pairs} (default: none)")
    # Read by ml_collections, which knows what the configuration has.
    add(
        "--config.KEY",
        dest="changes",
        metavar="VALUE",
        help="change a setting, such as --config.train.steps=100",
    )


def parse(parser: Parser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Read a command line that names a configuration; return its flags and the words that change settings.

    Prints the help if it is asked for, and ends the process.
    """
    args, words = parser.parse_known_args(argv)
    if args.help:
        print(explained(parser, args))
        parser.exit()
    if unknown := [word for word in words if word.startswith("-") and not configurations.is_change(word)]:
        parser.error(setting_like(unknown[0], args.config) or parser.explain(unknown[0]))
    if args.config is None:
        parser.refuse(f"--config is missing: give one of {', '.join(configurations.names())}, or a file")
    return args, words


def setting_like(word: str, given: str | None) -> str:
    """Return what to type instead of an option that is a setting of the configuration, such as --steps, or ""."""
    name = word.partition("=")[0]
    try:
        keys = [row.partition("=")[0] for row in configurations.settings(configurations.load(given or ""))]
    except (UserError, ImportError):
        return ""
    like = [key for key in keys if key.rpartition(".")[2] == name.lstrip("-").replace("-", "_")]
    meant = " or ".join(f"{key}=VALUE" for key in sorted(like, key=lambda key: ".train." not in key))
    return f"no option {name}; did you mean {meant}?" if like else ""


def explained(parser: Parser, args: argparse.Namespace) -> str:
    """Return the help: with the settings of the configuration, or with the list of configurations."""
    if args.config is None:
        known = configurations.names()
        width = max(map(len, known))
        rows = [f"  {name:{width}} {text}" for name, text in known.items()]
        return "\n".join([parser.format_help(), "configurations:", *rows])
    rows = [f"  {row}" for row in configurations.settings(read_config(parser, args, ()))]
    return "\n".join([parser.format_help(), f"settings of {args.config}:", *rows])


def read_config(parser: Parser, args: argparse.Namespace, words: Sequence[str]) -> Any:
    """Return the configuration of a command line; what is wrong with it ends the process with one line."""
    try:
        require("train")
        return configurations.read(args.config, words, args.photos, args.pairs)
    except UserError as error:
        parser.refuse(error)
