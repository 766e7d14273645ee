"""Comparison of several results on the same images: the differences, and whether chance can explain them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.plain import plain
from diffbir_jax.console.tables import csv_table, markdown_table
from diffbir_jax.evaluation.aggregate import interval
from diffbir_jax.evaluation.result import Image, Result, read_result
from diffbir_jax.evaluation.tables import digits, marked

_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """The difference between a run and the first one in one metric, over the images that both have scores for.

    Attributes:
        metric: its name.
        title: the metric's title in tables.
        run: name of the run.
        mean: mean of the run's scores minus the first run's.
        low: lower end of the 95 % bootstrap interval of the mean, None for one image.
        high: its upper end.
        wins: number of images in which the run is better.
        count: number of images.
        wilcoxon: p of Wilcoxon's signed-rank test (1945) that the differences are symmetric about 0, two-sided,
            corrected; None if the test says nothing: for one image, or if no score differs.
        ttest: p of the paired t-test, in the same way; None also if all differences are equal.
    """

    metric: str
    title: str
    run: str
    mean: float
    low: float | None
    high: float | None
    wins: int
    count: int
    wilcoxon: float | None
    ttest: float | None


@dataclass(frozen=True)
class Comparison:
    """Differences to the run called `first`, and notes for the reader."""

    first: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def read_runs(folders: Sequence[Path]) -> list[Result]:
    """Read the results in folders. Paths become absolute; names that occur twice become the folders' names.

    Raises:
        FileNotFoundError: a folder holds no result.
        ValueError: its file is no result.
    """
    results = [read_result(folder / "result.json") for folder in folders]
    names = [result.name for result in results]
    return [
        dataclasses.replace(
            result,
            name=result.name if names.count(result.name) == 1 else str(folder),
            images=tuple(with_files(image, folder) for image in result.images),
        )
        for result, folder in zip(results, folders)
    ]


def with_files(image: Image, folder: Path) -> Image:
    """Return an image of the result in `folder`, with absolute paths."""
    files = {key: str(folder.absolute() / path) for key, path in image.files.items()}
    return dataclasses.replace(image, files=files)


def compare(results: Sequence[Result]) -> Comparison:
    """Compare all results with the first one.

    Scores of whole sets and deviations over seeds are left out: a set has only one number, and a deviation depends on
    the number of seeds. The p of each test are corrected for their number in the table (Holm 1979): if no run differed
    from the first, the chance that any p is below 0.05 would be at most 5 %.

    Raises:
        ValueError: there are fewer than two results, or they have different images, or were scored in different ways.
    """
    if len(results) < 2:
        raise UserError("nothing to compare: give two or more folders that diffbir evaluate wrote")
    first = results[0]
    for other in results[1:]:
        check_comparable(first, other)
    shared = [name for name in first.columns if all(_has_scores(result, name) for result in results)]
    found = [_difference(first, other, name) for name in shared for other in results[1:]]
    found = [each for each in found if each.count]
    # The two tests are corrected separately: readers look at one of them.
    pairs = zip(holm([each.wilcoxon for each in found]), holm([each.ttest for each in found]))
    differences = [dataclasses.replace(each, wilcoxon=w, ttest=t) for each, (w, t) in zip(found, pairs)]
    known = {each.metric for each in found}
    notes = [note for other in results[1:] for note in _notes(first, other)]
    columns = [each for result in results for each in result.columns.items()]
    if left := [column.title for name, column in columns if name not in known and column.kind != "spread"]:
        told = ", ".join(dict.fromkeys(left))
        notes.append(f"not in this table, since not every run has scores of images in it: {told}")
    return Comparison(first.name, tuple(differences), tuple(notes))


def check_comparable(a: Result, b: Result) -> None:
    """Raise ValueError if two results have different images, or were scored in different ways."""
    names_a, names_b = ({image.name for image in result.images} for result in (a, b))
    if names_a != names_b:
        told = [
            f"only in {r.name}: {_few(x)}" for r, x in ((a, names_a - names_b), (b, names_b - names_a)) if x
        ]
        raise UserError(
            f"{a.name} and {b.name} are of different images ({'; '.join(told)}); evaluate the same"
        )
    one, other = (dict(result.protocol.get("scoring", {})) for result in (a, b))
    # Metrics are compared one by one, because one run may have more of them.
    metrics = [each.pop("metrics", {}) for each in (one, other)]
    odd = [
        f"{key} is {one.get(key)} and {other.get(key)}"
        for key in one | other
        if one.get(key) != other.get(key)
    ]
    odd += [f"{x} is {metrics[0][x]} and {v}" for x, v in metrics[1].items() if metrics[0].get(x, v) != v]
    if odd:
        raise UserError(
            f"{a.name} and {b.name} were scored in different ways: {'; '.join(odd)}; evaluate both alike"
        )


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Correct p values for their number (Holm 1979); None stands for no test and stays None."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        # Corrected values never fall, or a larger p could become significant before a smaller one.
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def paired_tests(differences: np.ndarray) -> tuple[float | None, float | None]:
    """p of Wilcoxon's and of the t-test that (N,) differences are about 0; None if a test says nothing."""
    if len(differences) < 2 or not differences.any():
        return None, None
    # Wilcoxon assumes no normal distribution; the t-test is the one that most readers know.
    wilcoxon = float(stats.wilcoxon(differences).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    # Without any variance the t-test divides by 0.
    same = np.ptp(differences) <= 1e-12 * np.abs(differences).max()
    return wilcoxon, None if same else float(stats.ttest_1samp(differences, 0.0).pvalue)  # pyright: ignore


def comparison_markdown(comparison: Comparison) -> str:
    """Return differences as Markdown."""
    head = ["metric", "run", "difference", "95 % interval", "wins", "Wilcoxon p", "t-test p"]
    lines: list[list[str]] = []
    for each in comparison.differences:
        places = digits(each.metric)
        ends = "-" if each.low is None else f"[{each.low:+.{places}f}, {each.high:+.{places}f}]"
        mean, wins = f"{each.mean:+.{places}f}", f"{each.wins}/{each.count}"
        ps = (_p(each.wilcoxon), _p(each.ttest))
        lines.append([marked(each.title), marked(each.run), mean, ends, wins, *ps])
    text = markdown_table(head, lines, right=range(2, len(head)))
    first = marked(plain(comparison.first))
    said = f"Differences to {first}; wins are images in which the run is better; p corrected by Holm."
    return f"{text}\n{said}\n" + "".join(f"\nNote: {marked(plain(note))}.\n" for note in comparison.notes)


def comparison_csv(comparison: Comparison) -> str:
    """Return differences as CSV, in full precision; missing values are empty."""
    names = [field.name for field in dataclasses.fields(Difference)]
    return csv_table([names, *map(dataclasses.astuple, comparison.differences)])


def _has_scores(result: Result, name: str) -> bool:
    return name in result.summary and result.columns[name].kind not in ("set", "spread")


def _difference(first: Result, other: Result, name: str) -> Difference:
    """The difference of two results in one metric, with its p not yet corrected."""
    before = {image.name: image.scores.get(name) for image in first.images}
    pairs = [(before[image.name], image.scores.get(name)) for image in other.images]
    differences = np.array([b - a for a, b in pairs if a is not None and b is not None], np.float64)
    column = first.columns[name]
    better = differences > 0 if column.better == "higher" else differences < 0
    low, high = interval(differences) or (None, None)
    mean = float(differences.mean()) if len(differences) else float("nan")
    facts = (mean, low, high, int(better.sum()), len(differences), *paired_tests(differences))
    return Difference(name, column.title, other.name, *facts)


def _notes(first: Result, other: Result) -> list[str]:
    """Differences of two comparable results in versions and protocol, without scoring and folders."""
    kinds = (("versions", first.versions, other.versions), ("protocol", first.protocol, other.protocol))
    notes = []
    for what, a, b in kinds:
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key) and key not in ("scoring", "folders")]
        if keys:
            notes.append(f"{first.name} and {other.name} differ in {what}: {', '.join(keys)}")
    return notes


def _few(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


def _p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
