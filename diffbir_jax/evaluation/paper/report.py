"""The paper's numbers beside ours, as Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffbir_jax.console.tables import markdown_table
from diffbir_jax.evaluation.paper.table import Number, Table
from diffbir_jax.evaluation.registry import METRICS
from diffbir_jax.evaluation.result import Result
from diffbir_jax.evaluation.tables import digits, marked
from diffbir_jax.files.writing import replace_file

FORMAT = 1
HEAD = ("data set", "metric", "paper", "ours", "difference", "images")


@dataclass(frozen=True)
class Line:
    """A number of the paper and ours.

    Attributes:
        number: the paper's.
        ours: our mean; None if there is no score.
        low, high: ends of its 95 % interval, None if there is none.
        images: number of images in the mean.
        reason: why there is no score; "" if there is one.
    """

    number: Number
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    images: int = 0
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's; None if one of them is missing."""
        if self.ours is None or self.number.paper is None:
            return None
        return self.ours - self.number.paper


def make_line(number: Number, result: Result) -> Line:
    """Return a number beside that of a result."""
    if number.metric in result.summary:
        mean = result.summary[number.metric]
        return Line(number, mean.mean, mean.low, mean.high, mean.count)
    problems = [each.problems[number.metric] for each in result.images if number.metric in each.problems]
    reason = result.unavailable.get(number.metric) or next(iter(problems), "no score of any image")
    return Line(number, reason=reason)


def markdown(table: Table, lines: Sequence[Line], results: Mapping[str, Result]) -> str:
    """Return the table with its source, and where the protocol differs."""
    rows = markdown_table(HEAD, [_cells(line) for line in lines], right=range(2, len(HEAD)))
    notes = [*table.notes, *measured(results)]
    return (
        f"# {marked(table.title)}\n\n{rows}\nDifference: ours - paper. In brackets 95 % bootstrap intervals.\n\n"
        f"Paper: {marked(table.source)}\n\nProtocol:\n\n"
        + "".join(f"- {marked(note)}\n" for note in notes)
        + "".join(
            f"- no score, {line.number.dataset}: {marked(line.reason)}\n" for line in lines if line.reason
        )
    )


def _cells(line: Line) -> list[str]:
    number, metric = line.number, METRICS[line.number.metric]
    places = digits(metric.name)
    paper = marked(number.claim) or "-" if number.paper is None else f"{number.paper:g}"
    ours = "-" if line.ours is None else f"{line.ours:.{places}f}"
    if line.low is not None and line.high is not None:
        ours += f" [{line.low:.{places}f}, {line.high:.{places}f}]"
    gap = "-" if line.difference is None else f"{line.difference:+.{places}f}"
    arrow = "↑" if metric.better == "higher" else "↓"
    return [marked(number.dataset), f"{metric.title} {arrow}", paper, ours, gap, str(line.images)]


def measured(results: Mapping[str, Result]) -> list[str]:
    """Say with what ours were measured: rows, seeds, digests of weights, versions of packages, reference sets."""
    return list(dict.fromkeys(text for result in results.values() for text in _facts(result)))


def _facts(result: Result) -> list[str]:
    restoring, scoring = result.protocol["restoring"], result.protocol["scoring"]
    seeds = ", ".join(map(str, restoring["seeds"])) or "none"
    weights = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(restoring["weights"].items()))
    files = ", ".join(f"{name} {crc}" for name, crc in sorted(result.checksums.items()))
    packages = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    suite, reference = result.protocol["suite"], scoring.get("reference")
    facts = [f"ours: suite {suite['name']} version {suite['version']}, row {result.name}, seeds {seeds}"]
    if reference:
        facts.append(f"ours: FID against {reference['folder']}, {reference['images']:,} images")
    facts += [f"ours: weights of the networks, SHA-256 {weights}"] * bool(weights)
    return [*facts, *[f"ours: weights of metrics, CRC-32 {files}"] * bool(files), f"ours: {packages}"]


def write(table: Table, lines: Sequence[Line], results: Mapping[str, Result], folder: Path) -> str:
    """Write reproduce.md and reproduce.json into `folder`, and return the Markdown."""
    text = markdown(table, lines, results)
    record = {
        "format": FORMAT,
        **{name: getattr(table, name) for name in ("name", "title", "source", "version", "method", "notes")},
        "numbers": [
            asdict(line.number)
            | {
                name: getattr(line, name)
                for name in ("ours", "low", "high", "difference", "images", "reason")
            }
            for line in lines
        ],
        "results": {
            place: {"protocol": result.protocol, "versions": result.versions, "checksums": result.checksums}
            for place, result in results.items()
        },
    }
    # The JSON comes last: with it, the run is complete.
    replace_file(folder / "reproduce.md", text.encode("utf-8", "backslashreplace"))
    replace_file(folder / "reproduce.json", (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    return text
