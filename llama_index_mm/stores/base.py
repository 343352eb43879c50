"""What a store of nodes is to the rest of the package, wherever it keeps them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, MetadataFilters
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.stores.approximate import ApproximateFacts
from llama_index_mm.stores.maintenance import CheckReport, PartitionStatistics
from llama_index_mm.stores.records import Hit, Record, Source, StoredSpace

__all__ = ["Among", "NodeStore", "SeqAmong", "Seqs", "seqs_of"]

Seqs = NDArray[np.int64]
"""Numbers of nodes in one store, ``(n,)``. They say nothing in another store."""


class Among(ABC):
    """Nodes to choose from. A store makes it of what was asked for; the nodes themselves may stay where they are."""

    @abstractmethod
    def __and__(self, other: "Among") -> "Among":
        """What is in both."""

    @abstractmethod
    def without(self, seqs: Seqs) -> "Among":
        """All but some."""

    @abstractmethod
    def but(self, other: "Among") -> "Among":
        """What is here and not there."""

    @abstractmethod
    def only(self, seqs: Seqs) -> Seqs:
        """Those of some that are here, ascending."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether it is known that nothing is left."""


class SeqAmong(Among):
    """Nodes by their numbers.

    Args:
        seqs: ascending.
    """

    def __init__(self, seqs: Seqs) -> None:
        self.seqs = seqs

    def __and__(self, other: Among) -> "SeqAmong":
        return SeqAmong(np.intersect1d(self.seqs, seqs_of(other)))

    def without(self, seqs: Seqs) -> "SeqAmong":
        """All but some."""
        return SeqAmong(np.setdiff1d(self.seqs, seqs))

    def but(self, other: Among) -> "SeqAmong":
        """What is here and not there."""
        return self.without(seqs_of(other))

    def only(self, seqs: Seqs) -> Seqs:
        """Those of some that are here, ascending."""
        return np.intersect1d(seqs, self.seqs)

    @property
    def is_empty(self) -> bool:
        """Whether it is known that nothing is left."""
        return not len(self.seqs)


def seqs_of(among: Among) -> Seqs:
    """The numbers of nodes that were listed by a store which lists them.

    Raises:
        TypeError: they are of a store that does not.
    """
    if not isinstance(among, SeqAmong):
        raise TypeError(f"Expected nodes of the same store, got {type(among).__name__}.")
    return among.seqs


class NodeStore(ABC):
    """Nodes, their vectors in several spaces, the files that they come from, and notes of the index on itself.

    `MediaStore` keeps them in a folder, `PostgresStore` in a database. Every change is one transaction: it is there whole, or
    not at all.

    Attributes:
        temporary: removed when the store is closed, if set.
    """

    temporary: TemporaryDirectory[str] | None = None

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it, and what opens it again: a folder, or an address without its password."""

    @property
    def address(self) -> str:
        """What opens the same store in another process; may hold a password, and so is not for messages."""
        return self.name

    @property
    @abstractmethod
    def media_folder(self) -> Path:
        """Where the files lie on this machine that belong to the store."""

    @abstractmethod
    def close(self) -> None:
        """Close the store; it can't be used any more."""

    def __enter__(self) -> "NodeStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def meta(self, key: str) -> str | None:
        """Read an entry of the store's own notes."""

    @abstractmethod
    def set_meta(self, key: str, value: str) -> None:
        """Write an entry of the store's own notes."""

    @property
    def identity(self) -> str:
        """By which the store is known, wherever it is moved: 16 hexadecimal digits."""
        return self.meta("identity") or ""

    @abstractmethod
    def spaces(self) -> dict[str, StoredSpace]:
        """What is known of every space."""

    @abstractmethod
    def declare_space(self, name: str, dimension: int, fingerprint: str, *, normalize: bool = True) -> None:
        """Add a space, or check that the one of this name is the same.

        Args:
            name: of the space.
            dimension: length of a vector.
            fingerprint: of its encoders.
            normalize: whether vectors and queries are scaled to unit length.

        Raises:
            SpaceError: the store holds vectors of another dimension or fingerprint under this name.
        """

    @abstractmethod
    def replace_space(self, name: str, *, by: str) -> None:
        """Let another space take the name and the place of one, in one transaction. Nodes stay as they are.

        Args:
            name: of the space that goes; nothing goes if there is none.
            by: name of the space that takes its place.

        Raises:
            SpaceError: there is no space ``by``.
        """

    @abstractmethod
    def drop_space(self, name: str) -> None:
        """Forget a space with all its vectors. Nodes stay, also those that are in no other space."""

    @abstractmethod
    def media_path(self, data: bytes, suffix: str) -> Path:
        """Keep bytes with the store, named by their digest, and give the file on this machine that holds them.

        Args:
            data: content of the file.
            suffix: ending of its name, with the dot.
        """

    @abstractmethod
    def vector_store(self, space: str) -> BasePydanticVectorStore:
        """One space as a LlamaIndex vector store."""

    # -- writing ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def add(self, records: Sequence[Record], sources: Sequence[Source] = (), replacing: Sequence[str] = ()) -> None:
        """Add nodes, in one transaction; a node with an id that is there already replaces the old one.

        The old one's vectors in spaces that ``records`` does not name are kept while text, media and metadata are the same.

        Args:
            records: nodes with their vectors.
            sources: files to note in the same transaction.
            replacing: ids of documents whose nodes go in the same transaction.

        Raises:
            SpaceError: a vector of an unknown space or of the wrong shape, not finite or of length 0.
            StoreError: an id that comes twice in ``records``; the store can't be written. Nothing is changed then.
        """

    @abstractmethod
    def delete(self, *, node_ids: Sequence[str] = (), ref_doc_ids: Sequence[str] = ()) -> int:
        """Delete nodes by their ids or by their documents'; unknown ids are passed over. Gives how many were deleted."""

    @abstractmethod
    def delete_from(self, space: str, seqs: Sequence[int] | Seqs) -> int:
        """Take nodes out of one space; a node that is in no other space is deleted. Gives how many were in the space."""

    @abstractmethod
    def clear(self) -> None:
        """Delete all nodes, and forget all files; spaces stay declared."""

    # -- files ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def release(self, path: str) -> None:
        """Forget a file. The nodes of its document go with it, unless another file holds the same: then they point there."""

    @abstractmethod
    def note_sources(self, sources: Sequence[Source]) -> None:
        """Note what became of files; an older note on the same path is replaced."""

    @abstractmethod
    def source(self, path: str) -> Source | None:
        """Give the note on a file."""

    @abstractmethod
    def sources(self, *, document_id: str | None = None, status: str | None = None) -> list[Source]:
        """Notes on files, by path; all of them, those of one document, or those of one status."""

    # -- reading ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How many nodes there are of each modality."""

    @abstractmethod
    def partitions(self) -> dict[tuple[str, str], int]:
        """How many vectors there are in each (space, modality); those of none are left out."""

    @abstractmethod
    def nodes(self, seqs: Sequence[int]) -> dict[int, BaseNode]:
        """Give nodes by their numbers, each of the class that it was; numbers that are gone are left out."""

    @abstractmethod
    def find(
        self,
        *,
        node_ids: Sequence[str] | None = None,
        ref_doc_ids: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        filters: MetadataFilters | None = None,
        space: str | None = None,
    ) -> Seqs:
        """Give the numbers of the nodes that match everything given, ascending; None and [] restrict nothing.

        Numbers ascend in the order in which nodes were added.

        Args:
            node_ids: ids of nodes.
            ref_doc_ids: ids of documents.
            modalities: of the nodes.
            filters: on metadata.
            space: in which the nodes have a vector.

        Raises:
            FilterError: a filter that has no meaning.
        """

    @abstractmethod
    def among(self, *, modalities: Sequence[str] | None = None, filters: MetadataFilters | None = None) -> Among:
        """Nodes to choose from in `search`: those that match everything given.

        Raises:
            FilterError: a filter that has no meaning.
        """

    @abstractmethod
    def spread(self, most: int, *, modalities: Sequence[str] | None = None, space: str | None = None) -> Seqs:
        """At most so many numbers of nodes that match everything given, evenly spread over them, ascending."""

    # -- searching --------------------------------------------------------------------------------------------------

    @abstractmethod
    def search(
        self,
        space: str,
        modality: str,
        query: Vectors,
        k: int,
        among: Among | Seqs | None = None,
        *,
        exact: bool = False,
        fingerprint: str | None = None,
    ) -> list[Hit]:
        """Find the nearest nodes of one modality in one space.

        Args:
            space: name of the space.
            modality: of the nodes.
            query: ``(d,)`` vector.
            k: how many.
            among: nodes to choose from, as `among` or `find` gives them; None for all.
            exact: read all vectors, even where there is an approximate index.
            fingerprint: of the encoder that made the query; None if that is not known.

        Returns:
            Best first; of equal similarities the older node.

        Raises:
            SpaceError: the space is unknown, or the query has another dimension or fingerprint, numbers that are not finite, or
                length 0.
        """

    @abstractmethod
    def similarities(self, space: str, modality: str, query: Vectors, seqs: Sequence[int]) -> Vectors:
        """Inner products of the query with these nodes; NaN for a node that has no vector there.

        Raises:
            SpaceError: as in `search`.
        """

    @abstractmethod
    def sample(self, space: str, modality: str, size: int) -> Vectors:
        """At most ``size`` vectors of a partition, evenly spread: ``(m, d)``.

        Raises:
            SpaceError: the space is unknown.
        """

    @abstractmethod
    def vectors(self, space: str, modality: str, seqs: Sequence[int]) -> Vectors:
        """Vectors of nodes, ``(n, d)``; zeros for a node that has none there."""

    # -- care -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def checkpoint(self, *, everything: bool = False) -> None:
        """Bring what speeds up searches up to date with what was written, where much was; nothing is lost without."""

    @abstractmethod
    def build_approximate(self, space: str, modality: str | None = None) -> dict[tuple[str, str], ApproximateFacts]:
        """Build approximate indexes whatever the number of vectors; they are kept up from then on.

        Args:
            space: name of the space.
            modality: of the nodes; None for each.

        Returns:
            What was measured, by space and modality, where it was.

        Raises:
            SpaceError: the space is unknown.
        """

    @abstractmethod
    def statistics(self) -> list[PartitionStatistics]:
        """Size and kind of index of every partition."""

    @abstractmethod
    def check(self) -> CheckReport:
        """Compare everything with everything, and tell what is wrong."""
