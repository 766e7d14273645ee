"""Grids of settings: all combinations of the values in a text."""

import itertools
import re
import zlib

from diffbir_jax.console.errors import UserError

Overrides = dict[str, str]
# A value ends at a comma or space, except inside brackets or quotes.
VALUE = r"(?:\([^()]*\)|\[[^\[\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,()\[\]'\"])+"
AXIS = re.compile(rf"(?P<key>[A-Za-z_][\w.]*)=(?P<values>{VALUE}(?:,{VALUE})*)(?:\s+|$)")
# Longer folder names are cut; a checksum keeps them unique. File systems allow 255 bytes.
LONGEST = 100


def parse_grid(text: str) -> list[Overrides]:
    """Return the combinations of a grid; the last axis varies fastest.

    Args:
        text: for example "train.lr=1e-3,1e-4 data.batch_size=4,8"; keys are relative to `config`. Values with commas or
            spaces need brackets or quotes, as in Python: "train.betas=(0.9,0.99),(0.9,0.999)".

    Raises:
        ValueError: the text cannot be parsed, or names a key or a value twice.
    """
    axes: dict[str, list[str]] = {}
    text, at = text.strip(), 0
    # "or not text": an empty text must reach the error below.
    while at < len(text) or not text:
        match = AXIS.match(text, at)
        if match is None:
            raise UserError(
                f"--grid: cannot read {text[at:]!r}; allowed is 'KEY=VALUE,VALUE KEY=VALUE,VALUE'"
            )
        key, values = match["key"], re.findall(VALUE, match["values"])
        if key in axes or len(set(values)) < len(values):
            raise UserError(f"--grid: {key} or one of its values is there twice: {match[0].strip()!r}")
        axes[key], at = values, match.end()
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def run_name(overrides: Overrides) -> str:
    """Return a run's folder name: its settings, with characters that are unsafe in file names replaced by "_"."""
    text = ",".join(f"{key}={value}" for key, value in overrides.items())
    name = re.sub(r"[^\w.,=+-]", "_", text)[:LONGEST]
    return name if name == text else f"{name}-{zlib.crc32(text.encode()):08x}"
