"""Pairs out of a CSV file."""

import csv
from pathlib import Path

from llama_index_mm.alignment.pairs import Pair
from llama_index_mm.errors import AlignmentError

__all__ = ["COLUMNS", "load_pairs"]

COLUMNS = ("file", "label", "caption", "pair", "group")
_TARGETS = ("label", "caption", "pair")


def load_pairs(
    table: Path | str, items: Path | str | None = None, *, by: str | None = None, unseen: bool = False
) -> list[Pair]:
    """Read pairs.

    Args:
        table: CSV with a column ``file`` and one of ``label``, ``caption`` (texts) and ``pair`` (a file of a modality that
            the space has). A file may come in several rows. What has the same text in a column ``group`` stays on one side
            when some are held out. Other columns are passed over.
        items: folder that files are named from; that of the table if not given.
        by: the column that tells what belongs with a file; ``"file"`` pairs each file with itself, for a second encoder of
            the same files. If not given, the only one there is.
        unseen: hold out whole labels.

    Raises:
        AlignmentError: the table can't be read, a column or a cell is missing, or a file does not exist.
    """
    table = Path(table)
    folder = Path(items) if items is not None else table.parent
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AlignmentError(f"{table} can't be read as CSV ({error}).") from error
    there = [name for name in _TARGETS if name in columns]
    by = by or (there[0] if len(there) == 1 else None)
    if "file" not in columns or by is None or by not in columns:
        raise AlignmentError(
            f"Expected {table} to have a column file and one of {', '.join(_TARGETS)}, or to be told which one of them; "
            f"it has {', '.join(columns) or 'none'}."
        )
    pairs = []
    for number, row in enumerate(rows, 2):
        item, target = (row.get("file") or "").strip(), (row.get(by) or "").strip()
        if not item or not target:
            raise AlignmentError(f"{table}, row {number}: expected something under file and under {by}, got {row}.")
        paths = [folder / item, *([folder / target] if by in ("pair", "file") else [])]
        if missing := [path for path in paths if not path.is_file()]:
            raise AlignmentError(f"{table}, row {number}: there is no file {missing[0]}.")
        group = target if unseen else (row.get("group") or "").strip()
        pairs.append(Pair(paths[0], paths[1] if len(paths) > 1 else target, group=group))
    if not pairs:
        raise AlignmentError(f"{table} has no rows; expected one for each pair.")
    return pairs
