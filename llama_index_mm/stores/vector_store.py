"""One space of a `MediaStore` behind LlamaIndex's vector store interface."""

import asyncio
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import QueryError, SpaceError, StoreError
from llama_index_mm.media import MODALITIES
from llama_index_mm.stores.records import Hit, Record
from llama_index_mm.stores.store import MediaStore

__all__ = ["SpaceVectorStore"]

_SEPARATOR = "__"  # LlamaIndex's, between the name of a store and that of its file
_KIND = "llama-index-mm store"
_MMR_FACTOR = 4  # candidates for each result
_MMR_LEAST = 64
_TRIES = 5


class SpaceVectorStore(BasePydanticVectorStore):
    """A LlamaIndex vector store over one embedding space: exact, filtered before the search, durable at once.

    It sees and changes its own space only: several of these over one `MediaStore` share nodes, and each has its own vectors.
    A node that is deleted from its last space is gone.

    Example:
        >>> store = SpaceVectorStore("my-store")
        >>> context = StorageContext.from_defaults(vector_store=store)
        >>> VectorStoreIndex.from_documents(documents, storage_context=context)
        >>> VectorStoreIndex.from_vector_store(SpaceVectorStore("my-store"))  # later, elsewhere

    Args:
        store: where it lives, or a folder for it.
        space: name of the space.
        dimension: length of a vector; default is that of the first one added.
        fingerprint: of the model that makes the vectors; vectors of another one are refused.
        normalize: whether vectors and queries are scaled to unit length, so that similarity is the cosine; default is what the
            space was made with, or yes.

    Raises:
        SpaceError: the space is there with another dimension or fingerprint.
        StoreError: the folder can't be opened as a store.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    space: str
    _store: MediaStore = PrivateAttr()
    _fingerprint: str | None = PrivateAttr()
    _normalize: bool | None = PrivateAttr()

    def __init__(
        self,
        store: MediaStore | Path | str,
        space: str = "default",
        *,
        dimension: int | None = None,
        fingerprint: str | None = None,
        normalize: bool | None = None,
    ) -> None:
        super().__init__(space=space)  # type: ignore[call-arg]
        self._store = store if isinstance(store, MediaStore) else MediaStore(store)
        self._fingerprint = fingerprint
        self._normalize = normalize
        known = self._store.spaces().get(space)
        if known is not None or dimension is not None:
            self._declare(dimension)

    def _declare(self, dimension: int | None) -> None:
        known = self._store.spaces().get(self.space)
        dimension = dimension if dimension is not None else known.dimension if known else 0
        fingerprint = self._fingerprint if self._fingerprint is not None else known.fingerprint if known else ""
        normalize = self._normalize if self._normalize is not None else known.normalize if known else True
        self._store.declare_space(self.space, dimension, fingerprint, normalize=normalize)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "SpaceVectorStore"

    @property
    def client(self) -> MediaStore:
        """The store behind."""
        return self._store

    def close(self) -> None:
        """Close the store behind, for all its spaces."""
        self._store.close()

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes that carry their embedding. Gives their ids.

        A node with an id that is there already replaces the old one. All of them are stored when this returns, or none.

        Raises:
            SpaceError: an embedding of another length, with numbers that are not finite, or of length 0.
            StoreError: an id that comes twice; the disk is full.
            StoreLockedError: somebody else is writing.
        """
        if not nodes:
            return []
        vectors = [_array(node.get_embedding(), f"Node {node.node_id}") for node in nodes]
        if self.space not in self._store.spaces():
            self._declare(len(vectors[0]))
        self._store.add([Record(node, {self.space: vector}) for node, vector in zip(nodes, vectors, strict=True)])
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Like `add`, off the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._store.delete_from(self.space, self._store.find(ref_doc_ids=[ref_doc_id], space=self.space))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Like `delete`, off the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that match ids and filters; nothing if neither is given."""
        if node_ids or (filters is not None and filters.filters):
            self._store.delete_from(self.space, self._store.find(node_ids=node_ids, filters=filters, space=self.space))

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Like `delete_nodes`, off the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def clear(self) -> None:
        """Delete all nodes of this space."""
        self._store.delete_from(self.space, self._store.find(space=self.space))

    async def aclear(self) -> None:
        """Like `clear`, off the event loop."""
        await asyncio.to_thread(self.clear)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Give the nodes that match ids and filters, in the order in which they were added."""
        seqs = self._store.find(node_ids=node_ids, filters=filters, space=self.space)
        return list(self._store.nodes(seqs.tolist()).values())

    async def aget_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Like `get_nodes`, off the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find the nearest nodes over all modalities of the space.

        Args:
            query: of mode DEFAULT or MMR, with an embedding.
            **kwargs: ``exact=True`` reads all vectors even where there is an approximate index; ``fingerprint`` is that of the
                model which made the query; for MMR ``mmr_threshold`` in [0, 1], where 1 is no diversity at all (default 0.5),
                and ``mmr_prefetch_k`` or ``mmr_prefetch_factor``, the number of candidates, in all or for each result.

        Returns:
            Nodes, ids, and similarities: inner products, or in mode MMR the marginal relevance of each.

        Raises:
            QueryError: no embedding in the query, or another mode.
            SpaceError: the embedding has another length or fingerprint than the space.
            FilterError: a filter that has no meaning.
        """
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise QueryError(f"This store answers queries of mode 'default' and 'mmr', got {query.mode.value!r}.")
        if query.query_embedding is None:
            raise QueryError("The query has no embedding; give the index an embed_model.")
        if self.space not in self._store.spaces():
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])  # nothing was ever added
        vector = _array(query.query_embedding, "Query")
        for _ in range(_TRIES):
            found = self._query(query, vector, kwargs)
            if found is not None:
                return found
        raise StoreError("Nodes are being deleted faster than they can be read. Try again.")

    def _query(self, query: VectorStoreQuery, vector: Vectors, options: dict[str, Any]) -> VectorStoreQueryResult | None:
        """The result, or None if a node was deleted while it was looked for."""
        among = None
        if query.node_ids or query.doc_ids or query.filters is not None:
            among = self._store.find(node_ids=query.node_ids, ref_doc_ids=query.doc_ids, filters=query.filters)
        how = {name: options[name] for name in ("exact", "fingerprint") if name in options}
        mmr = query.mode == VectorStoreQueryMode.MMR
        k = query.similarity_top_k
        depth = k
        if mmr:
            depth = options.get("mmr_prefetch_k") or max(_MMR_LEAST, int(k * options.get("mmr_prefetch_factor", _MMR_FACTOR)))
            depth = max(k, depth)
        hits: list[tuple[Hit, str]] = []
        for modality in MODALITIES:
            found = self._store.search(self.space, modality, vector, depth, among, **how)
            hits += [(hit, modality) for hit in found]
        hits = sorted(hits, key=lambda pair: (-pair[0].similarity, pair[0].seq))[:depth]
        if mmr:
            threshold = options.get("mmr_threshold", query.mmr_threshold)
            hits = self._diverse(vector, hits, k, threshold)
        nodes = self._store.nodes([hit.seq for hit, _ in hits])
        if len(nodes) < len(hits):
            return None
        return VectorStoreQueryResult(
            nodes=[nodes[hit.seq] for hit, _ in hits],
            similarities=[hit.similarity for hit, _ in hits],
            ids=[nodes[hit.seq].node_id for hit, _ in hits],
        )

    def _diverse(self, vector: Vectors, hits: list[tuple[Hit, str]], k: int, threshold: float | None) -> list[tuple[Hit, str]]:
        """Maximal marginal relevance, by LlamaIndex's own function."""
        if not hits:
            return []
        known: dict[int, Vectors] = {}
        for modality in {modality for _, modality in hits}:
            seqs = [hit.seq for hit, of in hits if of == modality]
            known.update(zip(seqs, self._store.vectors(self.space, modality, seqs), strict=True))
        scores, chosen = get_top_k_mmr_embeddings(
            vector.tolist(),
            [known[hit.seq].tolist() for hit, _ in hits],
            similarity_top_k=k,
            embedding_ids=list(range(len(hits))),
            mmr_threshold=threshold,
        )
        return [(Hit(hits[at][0].seq, float(score)), hits[at][1]) for score, at in zip(scores, chosen, strict=True)]

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Like `query`, off the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    # -- files ------------------------------------------------------------------------------------------------------

    def persist(
        self,
        persist_path: str = os.path.join(DEFAULT_PERSIST_DIR, DEFAULT_PERSIST_FNAME),  # noqa: PTH118 - LlamaIndex's default
        fs: fsspec.AbstractFileSystem | None = None,
    ) -> None:
        """Write what `from_persist_path` needs: a small file, and a copy of the store beside it unless it lies there already.

        The store itself needs no persisting: what was added is on disk. To avoid the copy, persist into the store's own folder.

        Args:
            persist_path: the small file.
            fs: where it is, if not on this machine's disk.

        Raises:
            StoreError: it can't be written.
        """
        if fs is not None and not isinstance(fs, LocalFileSystem):
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / "persisted" / PurePosixPath(persist_path).name
                self.persist(str(local))
                fs.makedirs(str(PurePosixPath(persist_path).parent), exist_ok=True)
                for path in sorted(local.parent.rglob("*")):
                    if path.is_file():
                        target = PurePosixPath(persist_path).parent / path.relative_to(local.parent).as_posix()
                        fs.makedirs(str(target.parent), exist_ok=True)
                        fs.put_file(str(path), str(target))
            return
        path = Path(persist_path)
        if path.parent.resolve() == self._store.folder.resolve():
            where = "."
            self._store.checkpoint()
        else:
            # One copy for all spaces that are persisted into the same folder; the new one is whole before the old one goes.
            where = f"mm-store-{self._store.identity}"
            fresh = path.parent / f"{where}.{uuid.uuid4().hex}.part"
            self._store.copy_to(fresh)
            shutil.rmtree(path.parent / where, ignore_errors=True)
            fresh.rename(path.parent / where)
        told = {"kind": _KIND, "store": where, "space": self.space}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(told), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path} can't be written: {error}.") from error

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: fsspec.AbstractFileSystem | None = None) -> "SpaceVectorStore":
        """Open what `persist` wrote.

        Args:
            persist_path: the small file.
            fs: where it is, if not on this machine's disk; it is copied into a temporary folder then.

        Raises:
            StoreError: there is nothing there, or something else.
        """
        temporary = None
        if fs is not None and not isinstance(fs, LocalFileSystem):
            temporary = tempfile.TemporaryDirectory(prefix="llama-index-mm-")
            if not fs.exists(persist_path):
                raise StoreError(f"There is no persisted store in {persist_path}.")
            fs.get(str(PurePosixPath(persist_path).parent) + "/", temporary.name, recursive=True)
            persist_path = str(Path(temporary.name) / PurePosixPath(persist_path).name)
        path = Path(persist_path)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StoreError(f"There is no persisted store in {path}: {error}.") from error
        except ValueError as error:
            raise StoreError(f"{path} was not written by this store's persist: {error}.") from error
        if not isinstance(told, dict) or told.get("kind") != _KIND:
            raise StoreError(f"{path} was not written by this store's persist, but by another vector store.")
        store = MediaStore(path.parent / told["store"], create=False)
        store.temporary = temporary
        return cls(store, told["space"])

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str = DEFAULT_PERSIST_DIR,
        namespace: str = "default",
        fs: fsspec.AbstractFileSystem | None = None,
    ) -> "SpaceVectorStore":
        """Open what a storage context persisted.

        Args:
            persist_dir: its folder.
            namespace: name of the vector store in the storage context.
            fs: as in `from_persist_path`.

        Raises:
            StoreError: as in `from_persist_path`.
        """
        return cls.from_persist_path(str(PurePosixPath(persist_dir) / f"{namespace}{_SEPARATOR}{DEFAULT_PERSIST_FNAME}"), fs)


def _array(embedding: Any, whose: str) -> Vectors:
    """An embedding as ``(d,)`` float32.

    Raises:
        SpaceError: it is no list of numbers.
    """
    try:
        vector = np.asarray(embedding, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"{whose}: expected an embedding of numbers, got {type(embedding).__name__}: {error}.") from error
    if vector.ndim != 1:
        raise SpaceError(f"{whose}: expected an embedding of shape (d,), got {vector.shape}.")
    return vector
