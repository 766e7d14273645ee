"""The part of the page about all images: the protocol, means by method, missing scores, plots."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from diffbir_jax.evaluation.report.markup import count, heading
from diffbir_jax.evaluation.report.sheet import Sheet
from diffbir_jax.evaluation.report.strips import strip_plot


def lead(sheet: Sheet) -> str:
    """Describe the numbers in a paragraph."""
    suite = sheet.results[0].protocol.get("suite", {}).get("name")
    of_suite = f" of suite {escape(suite)}" if suite else ""
    several = len(sheet.methods) > 1
    return (
        f"{count(len(sheet.images), 'image')}{of_suite}{f', {len(sheet.methods)} methods' if several else ''}. "
        "Scores are means over images; in brackets stands the 95&nbsp;% bootstrap interval of the mean. "
        f"Arrows show where better values lie{', and the best mean of a metric is bold' if several else ''}."
    )


def details(sheet: Sheet) -> str:
    """Tabulate everything that scores depend on; rows with differences between methods are marked."""
    groups = {
        "Protocol": [_flat(result.protocol) for result in sheet.results],
        "Versions": [_flat(result.versions) for result in sheet.results],
        "Checksums": [_flat(result.checksums) for result in sheet.results],
    }
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in sheet.methods)
    head = f'<thead><tr><th scope="col"></th>{names}</tr></thead>' if len(sheet.methods) > 1 else ""
    return f"<table>{head}{''.join(_group(title, tables) for title, tables in groups.items())}</table>"


def summary(sheet: Sheet) -> str:
    """Tabulate means, methods as rows and metrics as columns."""
    heads = "".join(
        f'<th scope="col">{heading(column.title, column.better)}</th>' for column in sheet.columns.values()
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_mean(sheet, m, i) for m in sheet.columns)}</tr>'
        for i, name in enumerate(sheet.methods)
    )
    return f'<table><thead><tr><th scope="col">Method</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def unavailable(sheet: Sheet) -> str:
    """List the scores that could not be computed, with the reason."""
    found = sheet.shared([result.unavailable for result in sheet.results])
    rows = "".join(f"<li><b>{escape(metric)}</b>: {escape(reason)}</li>" for metric, reason in found)
    return f'<div class="note"><p>Not computed:</p><ul>{rows}</ul></div>' if rows else ""


def plots(sheet: Sheet, cases: Sequence[int]) -> str:
    """Draw a strip plot per metric, without deviations over seeds; dots of `cases`, indices of images, are links."""
    metrics = [metric for metric in sheet.scores if sheet.columns[metric].kind != "spread"]
    return "".join(_plot(sheet, metric, cases) for metric in metrics)


def _group(title: str, tables: Sequence[Mapping[str, str]]) -> str:
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = "".join(_detail(key, [table.get(key, "–") for table in tables]) for key in keys)
    name = f'<tr><th scope="rowgroup" colspan="{len(tables) + 1}">{title}</th></tr>'
    return f"<tbody>{name}{rows}</tbody>" if rows else ""


def _detail(key: str, values: Sequence[str]) -> str:
    # One cell across all methods makes the rows that differ easy to see.
    if len(set(values)) == 1:
        return (
            f'<tr><th scope="row">{escape(key)}</th><td colspan="{len(values)}">{escape(values[0])}</td></tr>'
        )
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr class="differs"><th scope="row">{escape(key)} <small>differs</small></th>{cells}</tr>'


def _flat(value: object, key: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings as text, by keys joined with dots."""
    if not isinstance(value, Mapping):
        return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
    leaves = (_flat(each, f"{key}.{inner}" if key else str(inner)) for inner, each in value.items())
    return {name: text for leaf in leaves for name, text in leaf.items()}


def _mean(sheet: Sheet, metric: str, method: int) -> str:
    found = sheet.results[method].summary.get(metric)
    if found is None:
        return "<td>–</td>"
    text = sheet.text(metric, found.mean)
    notes = []
    if found.low is not None and found.high is not None:
        notes.append(f"[{sheet.text(metric, found.low)}, {sheet.text(metric, found.high)}]")
    # A mean of fewer images is not comparable, so the cell says so.
    if found.count != len(sheet.images):
        notes.append(f"of {count(found.count, 'image')}")
    # Only means over the most images compete; the others had an easier task.
    shown = f"<b>{text}</b>" if text == sheet.best_of(metric, sheet.whole_means(metric)) else text
    return f"<td>{shown}{''.join(f'<small>{note}</small>' for note in notes)}</td>"


def _plot(sheet: Sheet, metric: str, cases: Sequence[int]) -> str:
    column = sheet.columns[metric]
    caption = heading(column.title, column.better)
    return f"<figure><figcaption>{caption}</figcaption>{strip_plot(sheet, metric, cases)}</figure>"
