"""Compare this package with the reference implementation: diffbir parity --golden DIR.

DIR holds golden files (*.npz) and meta.json. Files of one-step methods may be in a folder `onestep` beside DIR. All
files are read, and keys that no check uses are reported as unknown.
Exit status: 0 if all cases that ran agree, 1 if any misses, 2 if the command or the folder cannot be used.
"""

import json
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffbir_jax.console.extras import MissingExtraError, require
from diffbir_jax.console.parser import INTERRUPTED, Parser
from diffbir_jax.files.places import given_path, json_path

if TYPE_CHECKING:
    from diffbir_jax.parity.case import Case
    from diffbir_jax.parity.runner import Result
    from diffbir_jax.parity.suite import Suite

PASS, MISS, ABSENT = "pass", "MISS", "not implemented"
KEYS_SHOWN = 6
# The whole set if it is beside the checkout, otherwise the part that the tests need.
DEFAULTS = (Path("../shared/golden"), Path("tests/golden"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        require("train")
    except MissingExtraError as error:
        parser.refuse(error)
    # Here, as JAX takes seconds to import.
    from diffbir_jax.parity.suite import ParityError, collect

    try:
        if args.json and not args.json.parent.is_dir():
            raise ParityError(f"no folder {args.json.parent} for --json; make it first")
        suite = collect(args.golden.expanduser()).only(args.only, args.small)
        if not suite.cases and not suite.unknown:
            raise ParityError(
                f"nothing in {args.golden} matches --only {args.only!r}; --cases shows what there is"
            )
    except ParityError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if args.cases:
        _list(suite)
        return 0
    rows = _run(suite)
    if args.json:
        # Written after all cases; the folder was checked before, so a long run does not end in vain.
        args.json.write_text(json.dumps(_report(suite, rows), indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["result"] == MISS for row in rows) else 0


def make_parser() -> Parser:
    """Return the parser of the command line."""
    summary, details = (__doc__ or "").split("\n\n", 1)
    parser = Parser(prog="diffbir parity", description=summary, epilog=details)
    parser.add_argument(
        "--golden",
        type=given_path,
        default=_default_folder(),
        metavar="DIR",
        help="folder of golden files (default: %(default)s, as for make parity)",
    )
    parser.add_argument(
        "--only",
        default="*",
        metavar="PATTERN",
        help="cases whose FILE or FILE:CASE matches, e.g. samplers or '*:wavelet'",
    )
    parser.add_argument("--small", action="store_true", help="leave out the full-size networks")
    parser.add_argument("--cases", action="store_true", help="show the cases and run nothing")
    parser.add_argument(
        "--json", type=json_path, metavar="FILE", help="also write the results for machines, a .json file"
    )
    return parser


def _default_folder() -> Path:
    """The same choice as the Makefile's GOLDEN."""
    return next((folder for folder in DEFAULTS if folder.is_dir()), DEFAULTS[-1])


def _list(suite: "Suite") -> None:
    for case in suite.cases:
        print(case.label if case.compute else f"{case.label}  ({ABSENT})")
    _print_unknown(suite)


def _run(suite: "Suite") -> list[dict]:
    """Run every case, printing the table line by line."""
    from diffbir_jax.parity.runner import peak_bytes, run_case

    width = max((len(case.label) for case in suite.cases), default=4)
    print(
        f"{'case':{width}}  {'max error':>9}  {'tolerance':>9}  {'result':6}  {'time':>7}  {'peak memory':>11}"
    )
    rows = []
    for case in suite.cases:
        result = run_case(case, suite.folder) if case.compute else None
        rows.append(_row(case, result))
        if result:
            # Flushed, because the next case may take minutes.
            print(f"{case.label:{width}}  {_line(case, result, rows[-1])}".rstrip(), flush=True)
    _print_absent(suite)
    _print_unknown(suite)
    counts = Counter(row["result"] for row in rows)
    summary = [f"{counts[kind]} {kind}" for kind in (PASS, MISS, ABSENT)]
    unknown = sum(map(len, suite.unknown.values()))
    print(f"{', '.join(summary)}, {unknown} unknown keys; this process: {_gigabytes(peak_bytes())} at most")
    return rows


def _row(case: "Case", result: "Result | None") -> dict:
    """One case for machines; JSON knows neither inf nor nan, so these are strings."""
    row = {"case": case.label, "tolerance": case.limit.value, "outputs": list(case.outputs)}
    if result is None:
        return row | {"result": ABSENT}
    errors = {key: x if math.isfinite(x) else str(x) for key, x in result.errors.items()}
    row |= {"result": PASS if result.passes(case) else MISS, "errors": errors, "problem": result.problem}
    return row | {"seconds": round(result.seconds, 2), "peak_bytes": result.peak_bytes}


def _line(case: "Case", result: "Result", row: dict) -> str:
    """The columns after the name."""
    error = case.worst(result.errors)[1] if result.errors else float("nan")
    memory = "" if result.peak_bytes is None else _gigabytes(result.peak_bytes)
    columns = [
        f"{case.limit.show(error):>9}",
        f"{case.limit.show(case.limit.value):>9}",
        f"{row['result']:6}",
        f"{result.seconds:5.1f} s",
        f"{memory:>11}",
    ]
    return "  ".join(columns if row["result"] == PASS else [*columns, result.explain(case)])


def _print_absent(suite: "Suite") -> None:
    """One line per file: what is known and has nothing here to be checked against."""
    absent: dict[str, list[Case]] = {}
    for case in suite.cases:
        if case.compute is None:
            absent.setdefault(case.file, []).append(case)
    for file, cases in absent.items():
        values = sum(len(case.outputs) for case in cases)
        print(_wrapped(f"{ABSENT}, {file} ({values} values): {', '.join(case.name for case in cases)}"))


def _print_unknown(suite: "Suite") -> None:
    for file, keys in suite.unknown.items():
        shown = ", ".join(keys[:KEYS_SHOWN])
        rest = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
        what = "unknown file" if file in suite.strangers else "unknown keys in"
        print(_wrapped(f"{what} {file}.npz: {shown}{rest}"))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _report(suite: "Suite", rows: list[dict]) -> dict:
    return {"folder": str(suite.folder), "cases": rows, "unknown": suite.unknown}


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
