"""Judgments from files: CSV and JSON Lines."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_index_mm.errors import DecodeError, QueryError
from llama_index_mm.evaluation.judgments import Identity, Judged, check_identity, own_item
from llama_index_mm.retrieval.query import MediaQuery

__all__ = ["COLUMNS", "Judgments", "RowProblem", "load_judgments"]

COLUMNS = (
    "query", "image", "audio", "mesh", "modalities", "spaces", "relevant", "grade", "exclude", "kind", "language",
)  # fmt: skip
"""What a file of judgments may hold."""

_FILES = ("image", "audio", "mesh")
_BETWEEN = "|"
_OTHER_SIGNS = {";": "semicolons", "\t": "tabs"}  # that spreadsheets put between cells


@dataclass(frozen=True)
class RowProblem:
    """A row that could not be taken.

    Attributes:
        row: in a CSV, 1 is the header; in JSON Lines, the number of the line.
        column: where it is wrong; empty if the whole row is.
        reason: what is wrong.
    """

    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}{f', column {self.column}' if self.column else ''}: {self.reason}"


@dataclass(frozen=True)
class Judgments:
    """What a file of judgments holds.

    Attributes:
        queries: in the order of the file.
        problems: rows that could not be taken.
        ignored: columns that are not known, and were not looked at.
        by: what the items are called by.
    """

    queries: tuple[Judged, ...]
    problems: tuple[RowProblem, ...]
    ignored: tuple[str, ...]
    by: Identity


@dataclass
class _Gathered:
    """A query as it comes together from its rows."""

    row: int
    query: MediaQuery
    kind: str
    language: str
    grades: dict[str, float] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)


class _Wrong(Exception):  # noqa: N818
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


def load_judgments(path: Path | str, *, by: Identity = "file_name") -> Judgments:
    """Read queries and what they should find from a CSV with a header, or from JSON Lines (``.jsonl``). Both are UTF-8.

    Columns, of which ``relevant`` and one of the first four must be there:

    ``query``
        words.
    ``image``, ``audio``, ``mesh``
        a file to ask with; its path is relative to the folder of the CSV. It never counts as found in the ranking of its own
        query, unless it is among the relevant.
    ``modalities``
        what to look for, with ``|`` between; empty for everything (for a query without words: for what is of its own kind).
    ``spaces``
        spaces to search, with ``|`` between; empty for all.
    ``relevant``
        items that should be found: one to a row, or several with ``|`` between. Folders before a name are left out if items
        are called by ``file_name``, and are relative to the folder of the CSV if by ``file_path``.
    ``grade``
        of these items, a number of at least 0; 1 if empty. 0: judged, and not relevant.
    ``exclude``
        further items to leave out of the ranking, with ``|`` between.
    ``kind``, ``language``
        as in `Judged`.

    Rows that agree in all but ``relevant``, ``grade`` and ``exclude`` are one query. In JSON Lines each line is an object with
    these keys; where several go in, there may be a list, and ``relevant`` may be an object of grades. A row that is wrong is
    reported and the rest is taken. Other columns are not looked at, which is reported, too.

    Args:
        path: the file.
        by: what items are called by; see `item_of`.

    Raises:
        OSError: the file can't be read.
        DecodeError: it is no such table: not UTF-8, or without the columns that must be there.

    Example:
        A caption for a photo, two chairs for a word, of which one is better, and a sketch for a mesh::

            query,image,modalities,relevant,grade,language
            a dog on the beach,,image,beach/1001.jpg,,en
            ein Stuhl,,mesh,chair_1.off,2,de
            ein Stuhl,,mesh,chair_2.off,1,de
            ,sketches/table.png,mesh,table_1.off|table_2.off,,
    """
    check_identity(by)
    path = Path(path)
    problems: list[RowProblem] = []
    gathered: dict[tuple[Any, ...], _Gathered] = {}
    ignored: list[str] = []
    read = _lines if path.suffix.lower() in (".jsonl", ".ndjson") else _rows
    for number, row in read(path, problems, ignored):
        try:
            _take(row, number, path.parent, by, gathered)
        except _Wrong as wrong:
            problems.append(RowProblem(number, wrong.column, wrong.reason))
    queries = []
    for one in gathered.values():
        try:
            queries.append(_judged(one, by))
        except QueryError as error:
            problems.append(RowProblem(one.row, "relevant", str(error)))
    return Judgments(tuple(queries), tuple(sorted(problems, key=lambda problem: problem.row)), tuple(ignored), by)


def _judged(one: _Gathered, by: Identity) -> Judged:
    files = [getattr(one.query, part) for part in _FILES]
    own = {item for file in files if file is not None and (item := own_item(file, by)) and not one.grades.get(item)}
    return Judged(one.query, one.grades, frozenset(one.excluded | own), kind=one.kind, language=one.language)


def _read(path: Path, what: str) -> io.StringIO:
    """The text of a file in UTF-8."""
    data = path.read_bytes()
    try:
        return io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DecodeError(f"{path} is no {what} in UTF-8: {error.reason} in line {line}. Save it as UTF-8.") from error


def _rows(path: Path, problems: list[RowProblem], ignored: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a CSV with their numbers, counted as spreadsheets do: the header is 1."""
    reader = csv.reader(_read(path, "CSV"), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        ignored += [name for name in header if name not in COLUMNS]
        for number, cells in enumerate(reader, 2):
            if len(cells) == len(header):
                if any(cell.strip() for cell in cells):
                    yield number, dict(zip(header, cells, strict=True))
            elif cells:
                reason = f"Expected {len(header)} cells, got {len(cells)}. Cells with commas need quotation marks."
                problems.append(RowProblem(number, "", reason))
    except csv.Error as error:
        raise DecodeError(f"{path} is no CSV: {error}, in line {reader.line_num}.") from error


def _check_header(path: Path, header: list[str]) -> None:
    if "relevant" not in header or not {"query", *_FILES} & set(header):
        between = next((what for sign, what in _OTHER_SIGNS.items() if any(sign in name for name in header)), "")
        raise DecodeError(
            f"Expected the column 'relevant' and one of 'query', 'image', 'audio', 'mesh' in the first row of {path}, "
            f"got {', '.join(header) or 'nothing'}."
            + (f" Its cells have {between} between: save it with commas." * bool(between))
        )
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise DecodeError(f"Expected each column once in the first row of {path}, got {twice[0]!r} twice.")


def _lines(path: Path, problems: list[RowProblem], ignored: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Objects of a file of JSON Lines with their line numbers; empty lines are passed over."""
    for number, line in enumerate(_read(path, "JSON Lines"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits, too
            problems.append(RowProblem(number, "", f"No JSON: {error}."))
            continue
        if not isinstance(row, dict):
            problems.append(RowProblem(number, "", f"Expected an object, got {type(row).__name__}."))
            continue
        ignored += [name for name in row if name not in COLUMNS and name not in ignored]
        yield number, row


def _take(row: Mapping[str, Any], number: int, folder: Path, by: Identity, gathered: dict[tuple[Any, ...], _Gathered]) -> None:
    words = _text(row, "query")
    files = {part: folder / name for part in _FILES if (name := _text(row, part))}
    if not words and not files:
        raise _Wrong("query", "Nothing is asked: give words, a picture, a recording or a mesh.")
    for part, file in files.items():
        try:
            there = file.is_file()
        except OSError:  # a name that is too long
            there = False
        if not there:
            raise _Wrong(part, f"There is no file {file}.")
    modalities, spaces = _several(row, "modalities"), _several(row, "spaces")
    kind, language = _text(row, "kind"), _text(row, "language")
    grades = _grades(row, folder, by)
    excluded = {_item(name, folder, by) for name in _several(row, "exclude")}
    key = (words, *(files.get(part) for part in _FILES), modalities, spaces, kind, language)
    if key not in gathered:
        try:
            query = MediaQuery(words, **files, modalities=modalities, spaces=spaces)  # type: ignore[arg-type]
        except QueryError as error:
            raise _Wrong("modalities", str(error)) from error
        gathered[key] = _Gathered(number, query, kind, language)
    one = gathered[key]
    if differing := [item for item, grade in grades.items() if one.grades.get(item, grade) != grade]:
        raise _Wrong("grade", f"{differing[0]} has grade {one.grades[differing[0]]:g} in an earlier row of this query.")
    one.grades.update(grades)
    one.excluded |= excluded


def _grades(row: Mapping[str, Any], folder: Path, by: Identity) -> dict[str, float]:
    given = row.get("relevant")
    if isinstance(given, dict):
        grades = {_whole(name, "relevant"): _number(grade, "relevant") for name, grade in given.items()}
    else:
        grade = _number(row.get("grade"), "grade")
        grades = dict.fromkeys(_several(row, "relevant"), grade)
    if not grades:
        raise _Wrong("relevant", "Nothing is given that should be found.")
    items: dict[str, float] = {}
    for name, grade in grades.items():
        if items.setdefault(item := _item(name, folder, by), grade) != grade:
            raise _Wrong("relevant", f"{item} is given with the grades {items[item]:g} and {grade:g}.")
    return items


def _number(value: Any, column: str) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return 1.0
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise _Wrong(column, f"Expected a number of at least 0, got {value!r}.")
    return number


def _item(name: str, folder: Path, by: Identity) -> str:
    return own_item(folder / name, by) or name


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise _Wrong(column, f"Expected a text, got {value!r}.")
    return _whole(value or "", column).strip()


def _whole(text: str, column: str) -> str:
    """The text itself. JSON can hold halves of characters, which can't be encoded or printed."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _Wrong(column, f"Expected whole characters, got {text!r}.")
    return text


def _several(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = row.get(column)
    parts = value if isinstance(value, list) else _text(row, column).split(_BETWEEN)
    if wrong := [part for part in parts if not isinstance(part, str)]:
        raise _Wrong(column, f"Expected texts, got {wrong[0]!r}.")
    return tuple(_whole(part, column).strip() for part in parts if part.strip())
