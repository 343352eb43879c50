"""Whether what judgments name is in the index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.evaluation.asking import taken
from llama_index_mm.evaluation.judgments import Identity, Judged, item_of
from llama_index_mm.evaluation.tables import Judgments
from llama_index_mm.stores import NodeStore

__all__ = ["ItemCheck", "check_items"]

_BATCH = 500
_NAMED = 3  # items that a note names


@dataclass(frozen=True)
class ItemCheck:
    """What judgments name, held against an index.

    Attributes:
        items: how many different items should be found.
        absent: those that nothing in the index is called by: they count as not found, whatever the retriever does.
        hopeless: how many queries should find absent items only.
        shared: items that several files in the index are called by: to find any of these counts.
    """

    items: int
    absent: tuple[str, ...]
    hopeless: int
    shared: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know when reading the figures; empty if all is well."""
        notes = []
        if self.absent:
            notes.append(
                f"{len(self.absent)} of {self.items} items that should be found are not in the index, and count as not "
                f"found: {_some(self.absent)}. Queries that seek nothing else: {self.hopeless}."
            )
        if self.shared:
            notes.append(
                f"{len(self.shared)} of {self.items} items that should be found are names of several files in the index, "
                f"any of which counts as found: {_some(self.shared)}. Call items by file_path."
            )
        return tuple(notes)


def check_items(store: NodeStore, judged: Judgments | Sequence[Judged], *, by: Identity | None = None) -> ItemCheck:
    """Look whether an index holds what queries should find; nothing is asked.

    Args:
        store: of the index.
        judged: queries with what they should find.
        by: what items are called by, see `item_of`; default is what the file of judgments was read with, else file names.

    Raises:
        QueryError: items can't be called so.

    Example:
        >>> for note in check_items(index.store, load_judgments("judgments.csv")).notes:
        ...     print(note)
    """
    queries, by = taken(judged, by)
    sought = [[item for item, grade in one.grades.items() if grade > 0] for one in queries]
    items = list(dict.fromkeys(item for some in sought for item in some))
    files: dict[str, set[str]] = {item: set() for item in items}
    for node in _called(store, items, by):
        name = item_of(node, by)
        if name in files:
            files[name].add(str(node.metadata.get("file_path") or node.ref_doc_id or node.node_id))
    absent = tuple(item for item in items if not files[item])
    shared = tuple(item for item in items if len(files[item]) > 1) if by == "file_name" else ()
    missing = set(absent)
    return ItemCheck(len(items), absent, sum(missing.issuperset(some) for some in sought), shared)


def _called(store: NodeStore, items: Sequence[str], by: Identity) -> Iterator[BaseNode]:
    """Nodes that may be called by one of these items; see `item_of`."""
    for at in range(0, len(items), _BATCH):
        some = list(items[at : at + _BATCH])
        found = [store.find(node_ids=some)]
        if by != "node_id":
            found.append(store.find(ref_doc_ids=some))
        if by in ("file_name", "file_path"):
            among = MetadataFilter(key=by, value=some, operator=FilterOperator.IN)
            found.append(store.find(filters=MetadataFilters(filters=[among])))
        yield from store.nodes(sorted({seq for seqs in found for seq in seqs.tolist()})).values()


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:_NAMED]) + (", ..." if len(items) > _NAMED else "")
