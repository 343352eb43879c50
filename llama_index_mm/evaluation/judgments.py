"""Queries with what they should find, and the nodes' names by which that is told."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llama_index.core.schema import BaseNode, QueryBundle

from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES
from llama_index_mm.retrieval.query import MediaQuery

__all__ = ["IDENTITIES", "Identity", "Judged", "check_identity", "item_of", "mixed", "own_item"]

Identity = Literal["file_name", "file_path", "ref_doc_id", "node_id"]
"""What judgments call an item by."""

IDENTITIES: tuple[Identity, ...] = get_args(Identity)


@dataclass(frozen=True)
class Judged:
    """One query and what it should find.

    Attributes:
        query: words, or a query with other parts. What it looks for (``modalities``) is part of it.
        relevant: items that should be found, called as `item_of` calls them; a mapping from item to grade where some are
            better than others. Grade 0 was judged and is not relevant; at least one item must be.
        excluded: items that are left out of every ranking before it is judged, such as the file that is asked with.
        kind: queries of one kind share a row in the report; default is ``asked -> sought``, as in ``text -> image``.
        name: what the query is called in reports; default is its words, or the names of its files.
        language: of the words, or of what is said; it is part of the default ``kind`` and restricts nothing.

    Raises:
        QueryError: nothing is relevant, a grade is no number of at least 0, or an item is both relevant and excluded.

    Example:
        >>> Judged(MediaQuery("a boat", modalities=["image"]), {"boat.jpg": 2, "harbour.jpg": 1}).kind
        'text -> image'
    """

    query: str | QueryBundle
    relevant: Collection[str]
    excluded: Collection[str] = frozenset()
    kind: str = ""
    name: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        for what, items in (("relevant", self.relevant), ("excluded", self.excluded)):
            if isinstance(items, str):
                raise QueryError(f"Expected a collection of {what} items, got the text {items!r}. Put it into a list.")
        grades = self.grades
        if wrong := {item: grade for item, grade in grades.items() if not 0 <= grade < math.inf}:
            raise QueryError(f"Grades must be numbers of at least 0, got {wrong}.")
        sought = {item for item, grade in grades.items() if grade > 0}
        if not sought:
            raise QueryError("Expected at least one relevant item, got none: such a query can't be judged. Leave it out.")
        if both := sought & set(self.excluded):
            raise QueryError(f"Items can't be both relevant and excluded: {', '.join(sorted(both))}.")
        object.__setattr__(self, "name", self.name or _name(self.query))
        object.__setattr__(self, "kind", self.kind or _kind(self.query, self.language))

    @property
    def grades(self) -> Mapping[str, float]:
        """Grade of each judged item; 1 where none was given."""
        return self.relevant if isinstance(self.relevant, Mapping) else dict.fromkeys(self.relevant, 1.0)


def check_identity(by: str) -> None:
    """Refuse a way to call items that is not known.

    Raises:
        QueryError: it is none of `IDENTITIES`.
    """
    if by not in IDENTITIES:
        raise QueryError(f"Unknown identity {by!r}; items can be called by: {', '.join(IDENTITIES)}.")


def item_of(node: BaseNode, by: Identity = "file_name") -> str:
    """What judgments call a node. Nodes of one item, such as spans of one recording, are called the same.

    Args:
        node: as it was found.
        by: ``"file_name"``: the name without its folder, the same on every machine, where names are unique in the index;
            ``"file_path"``: the whole path; ``"ref_doc_id"``: the document's id; ``"node_id"``: the node's own id, which tells
            spans apart. A node without a file is called by its document, and one without a document by its own id.
    """
    names = [str(node.metadata.get(by) or "")] if by in ("file_name", "file_path") else []
    if by != "node_id":
        names.append(node.ref_doc_id or "")
    return next((name for name in names if name), node.node_id)


def own_item(path: Path | str, by: Identity) -> str | None:
    """What judgments call a file that is asked with; None where ids are used, which a path does not tell."""
    if by == "file_name":
        return Path(path).name
    return str(Path(path).resolve()) if by == "file_path" else None


def mixed(judged: Iterable[Judged]) -> list[Judged]:
    """The same queries over everything that the index holds, instead of over the modalities that they look for.

    Their kind tells what they looked for: ``text -> image`` becomes ``text -> anything (image)``.
    """
    out = []
    for one in judged:
        query = one.query if isinstance(one.query, MediaQuery) else _media_query(one.query)
        asked, _, sought = one.kind.partition(" -> ")
        kind = one.kind
        if not sought.startswith("anything") and not kind.endswith(", anything"):
            kind = f"{asked} -> anything ({sought})" if sought else f"{kind}, anything"
        wide = dataclasses.replace(query, modalities=MODALITIES)
        out.append(dataclasses.replace(one, query=wide, kind=kind))
    return out


def _media_query(query: str | QueryBundle) -> MediaQuery:
    if isinstance(query, str):
        return MediaQuery(query)
    kept = {one.name: getattr(query, one.name) for one in dataclasses.fields(QueryBundle) if one.init}
    return MediaQuery(**kept)


def _asked(query: str | QueryBundle) -> dict[str, Any]:
    """Parts of a query by modality; words are stripped."""
    if isinstance(query, str):
        return {"text": query.strip()} if query.strip() else {}
    given = {
        "text": query.query_str.strip(),
        "image": _either(getattr(query, "image", None), query.image_path),
        "audio": getattr(query, "audio", None),
        "mesh": getattr(query, "mesh", None),
    }
    return {part: value for part, value in given.items() if _is_given(value)}


def _either(first: Any, second: Any) -> Any:
    return first if _is_given(first) else second


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, Sequence) and not len(value))


def _kind(query: str | QueryBundle, language: str) -> str:
    sought = "+".join(getattr(query, "modalities", ())) or "anything"
    return f"{'+'.join(_asked(query)) or 'nothing'} -> {sought}" + (f" ({language})" if language else "")


def _name(query: str | QueryBundle) -> str:
    said = []
    for part, value in _asked(query).items():
        if part == "text":
            said.append(" ".join(str(value).split()))
        else:
            several = value if isinstance(value, list | tuple) else [value]
            said += [Path(one).name if isinstance(one, str | Path) else f"({part})" for one in several]
    return " + ".join(said)
