"""Tables of image paths and captions: Parquet, CSV and JSON lines, in pyarrow's memory."""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from diffbir_jax.data.caption_rows import KINDS, path_of
from diffbir_jax.data.captions import MISSING, clean, is_caption
from diffbir_jax.data.example import DataError, Example
from diffbir_jax.data.sources.beside import rows_of, say_odd
from diffbir_jax.data.sources.files import (
    check_some_exist,
    find_shards,
    folder_of,
    join,
    locate,
    read,
    reason,
    whole,
)
from diffbir_jax.data.sources.shared import digest, extra

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

SUFFIXES = (".parquet", ".csv", ".jsonl")
SHORT, LONG, LQ = "short", "long", "lq"
# Names that columns of captions have, unless another one is given.
SHORTS = KINDS[SHORT]


class TableSource:
    """Images and captions from tables. Columns stay in Arrow's memory, which takes about the bytes of their texts."""

    def __init__(
        self,
        path: str | Sequence[str],
        root: str | None = None,
        path_column: str = "image_path",
        short_column: str | None = None,
        long_column: str | None = None,
        lq_column: str | None = None,
    ):
        """Read the tables and concatenate them. Rows without a path are left out.

        Args:
            path: `.parquet`, `.csv` (UTF-8, with a header) and `.jsonl` files (an object per line): paths, URLs, globs,
                folders, ranges.
            root: folder of relative image paths; by default the folder of the first table.
            path_column: the column of paths.
            short_column: the column of short captions; by default the first of `short`, `caption` and `text` that
                exists. Cells that are null, empty, `None`, `NaN` or `null` are no captions.
            long_column: the column of long captions; by default `long`, if it exists.
            lq_column: the column of paths of degraded images, which makes pairs; rows without one are left out.

        Raises:
            DataError: a table cannot be read or lacks a column, or no checked row names an existing image.
        """
        files = find_shards(path, SUFFIXES)
        wanted = {"path": path_column, SHORT: short_column, LONG: long_column}
        wanted |= {LQ: lq_column} if lq_column else {}
        arrow = extra("pyarrow", "tables")
        table = arrow.concat_tables([_read(file, wanted) for file in files])
        if not len(table):
            raise DataError(f"{files[0]}: no row of {len(files)} table(s) has a path in column {path_column}")
        # One chunk: access by row is then direct, without a search for the chunk.
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        self._root = folder_of(files[0]) if root is None else root
        for name in self._columns.keys() & {"path", LQ}:
            check_some_exist(self._root, self._columns[name].to_pylist(), files[0])

    def __len__(self) -> int:
        return len(self._columns["path"])

    def __getitem__(self, index: int) -> Example:
        """Read the image of row `index`; BrokenExampleError if that fails."""
        row = {name: column[index].as_py() for name, column in self._columns.items()}
        url, degraded = join(self._root, row.pop("path")), row.pop(LQ, None)
        lq = read(join(self._root, degraded)) if degraded else None
        return Example(url, read(url), {kind: text for kind, text in row.items() if text}, lq)

    @property
    def fingerprint(self) -> str:
        """Digest of paths and captions."""
        return digest(
            text for name in sorted(self._columns) for text in (name, *self._columns[name].to_pylist())
        )


def _read(file: str, wanted: dict[str, str | None]) -> "Table":
    """Return a table's rows that have a path: columns `path`, `short` and `long` of strings, without nulls."""
    arrow, compute = extra("pyarrow", "tables"), extra("pyarrow.compute", "tables")
    with whole(file):
        names, columns = _columns(file, wanted)
    if wanted[SHORT] is None:
        wanted = wanted | {SHORT: next((name for name in SHORTS if name in names), None)}
    for kind, name in wanted.items():
        if name is not None and name not in names:
            raise DataError(f"{file}: has no column {name} for {kind}; it has {', '.join(names)}")
    rows = len(next(iter(columns.values())))
    texts = {}
    for kind, name in wanted.items():
        column = columns.get(name or kind)
        if column is not None:
            column = _plain(file, kind, name or kind, column)
        with whole(f"{file}, column {name or kind}"):
            text = (
                arrow.nulls(rows, arrow.large_string())
                if column is None
                else column.cast(arrow.large_string())
            )
        # One missing text must not make a column null in one table and text in the next.
        text = compute.fill_null(text, "")
        words = compute.utf8_lower(compute.utf8_trim_whitespace(text))
        missing = compute.is_in(words, value_set=arrow.array(MISSING, arrow.large_string()))
        texts[kind] = compute.if_else(missing, "", text)
    table = arrow.table(texts)
    for name in {"path", LQ} & {*texts}:
        table = table.filter(compute.not_equal(table[name], ""))
    return table


def _plain(file: str, kind: str, name: str, column: "ChunkedArray") -> "ChunkedArray":
    """Return a column that casts to text: of lists of captions the first text; DataError for paths that are no text."""
    arrow = extra("pyarrow", "tables")
    types, form = arrow.types, column.type
    if kind in ("path", LQ):
        number = types.is_integer(form) or types.is_floating(form) or types.is_boolean(form)
        if types.is_nested(form) or (
            number and any(value == value for value in column.drop_null().to_pylist())
        ):
            raise DataError(
                f"{file}: column {name} holds {form}, but a path is a text; give another path column"
            )
    elif types.is_nested(form) or types.is_boolean(form):
        values = column.to_pylist()
        say_odd(file, [f"{name} of row {i}" for i, value in enumerate(values, 1) if not is_caption(value)])
        return arrow.chunked_array([arrow.array([clean(value) for value in values], arrow.large_string())])
    return column


def _columns(file: str, wanted: dict[str, str | None]) -> tuple[list[str], dict[str, "ChunkedArray"]]:
    """Return the names of all columns of a table, and the wanted columns that exist."""
    system, path = locate(file)
    chosen = {name or kind for kind, name in wanted.items()} | {*SHORTS}
    with system.open(path, "rb") as stream:
        if file.lower().endswith(".parquet"):
            parquet = extra("pyarrow.parquet", "tables").ParquetFile(stream)
            names = parquet.schema_arrow.names
            # Only these columns are read: tables of captions may have embeddings of gigabytes.
            table = parquet.read([name for name in names if name in chosen])
        elif file.lower().endswith(".csv"):
            table = _read_csv(stream, chosen)
            names = table.column_names
        elif file.lower().endswith(".jsonl"):
            table = _read_objects(file, chosen, {wanted["path"], wanted.get(LQ)})
            names = table.column_names
        else:
            raise DataError(f"{file}: is no table of a known kind; give {' or '.join(SUFFIXES)}")
    return names, {name: table[name] for name in names if name in chosen}


def _read_objects(file: str, chosen: set[str], paths: Container[str | None]) -> "Table":
    """Read JSON lines; chosen columns are text, others are empty. Rows need not have the same keys.

    Args:
        file: the table.
        chosen: columns to read.
        paths: those of paths; the others are captions.

    Raises:
        DataError: a path is no text.
    """
    arrow = extra("pyarrow", "tables")
    # Not pyarrow.json: it refuses NaN, which Python writes, and columns of two types.
    rows = list(rows_of(file))
    names = dict.fromkeys(key for row in rows for key in row)
    if not names:
        raise DataError(f"{file}: is empty; give a file with an object per line")

    odd: list[str] = []

    def cell(name: str, row: Mapping[str, object], number: int) -> str | None:
        if name not in chosen:
            return None
        if name in paths:
            return path_of(row, name, number)
        if not is_caption(row.get(name)):
            odd.append(f"{name} of row {number}")
        return clean(row.get(name))

    try:
        columns = {name: [cell(name, row, i) for i, row in enumerate(rows, 1)] for name in names}
    except ValueError as error:
        raise DataError(f"{file}: {reason(error)}; give paths of images") from None
    say_odd(file, odd)
    return arrow.table({name: arrow.array(column, arrow.large_string()) for name, column in columns.items()})


def _read_csv(stream: BinaryIO, chosen: set[str]) -> "Table":
    """Read a CSV file; captions may hold line breaks, and chosen columns are text even if they look like numbers."""
    csv, arrow = extra("pyarrow.csv", "tables"), extra("pyarrow", "tables")
    return csv.read_csv(
        stream,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(chosen, arrow.large_string())),
    )
