"""One space of a `MediaStore` behind LlamaIndex's vector store interface."""

import asyncio
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.utils import concat_dirs
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import QueryError, StoreError
from llama_index_mm.media import MODALITIES
from llama_index_mm.stores.filters import compile_filters
from llama_index_mm.stores.records import Hit, Record, StoredSpace, as_vector, scale
from llama_index_mm.stores.store import MediaStore

__all__ = ["SpaceVectorStore"]

_SEPARATOR = "__"  # LlamaIndex's, between the name of a store and that of its file
_KIND = "llama-index-mm store"
_MMR_FACTOR = 4  # candidates for each result
_MMR_LEAST = 64
_TRIES = 50  # of reading what somebody else is changing


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
        vectors = _matrix(nodes)
        if self.space not in self._store.spaces():
            # A first batch that is refused must not settle the dimension.
            scale(vectors, [node.node_id for node in nodes], self.space, {self.space: StoredSpace(len(vectors[0]), "")})
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
        if node_ids or compile_filters(filters) is not None:  # a group of empty groups is no filter
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
        nodes: dict[int, BaseNode] = {}
        for _ in range(_TRIES):
            seqs = self._store.find(node_ids=node_ids, filters=filters, space=self.space).tolist()
            nodes = self._store.nodes(seqs)
            if len(nodes) == len(seqs):  # else some were deleted meanwhile, or replaced, under new numbers
                break
        return list(nodes.values())

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
        vector = as_vector(query.query_embedding, "Query")
        for _ in range(_TRIES):
            found = self._query(query, vector, kwargs)
            if found is not None:
                return found
        raise StoreError("Nodes are being deleted faster than they can be read. Try again.")

    def _query(self, query: VectorStoreQuery, vector: Vectors, options: dict[str, Any]) -> VectorStoreQueryResult | None:
        """The result, or None if a node was deleted or replaced while it was looked for."""
        among = self._among(query)
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
            chosen = self._diverse(vector, hits, k, threshold)
            if chosen is None:
                return None
            hits = chosen
        if among is not None and len(hits) < k and _differ(among, self._among(query)):
            return None  # what is gone may be there again, under another number
        nodes = self._store.nodes([hit.seq for hit, _ in hits])
        if len(nodes) < len(hits):
            return None
        return VectorStoreQueryResult(
            nodes=[nodes[hit.seq] for hit, _ in hits],
            similarities=[hit.similarity for hit, _ in hits],
            ids=[nodes[hit.seq].node_id for hit, _ in hits],
        )

    def _among(self, query: VectorStoreQuery) -> NDArray[np.int64] | None:
        """Numbers of the nodes that a query may find; None for all."""
        if not query.node_ids and not query.doc_ids and compile_filters(query.filters) is None:
            return None
        return self._store.find(node_ids=query.node_ids, ref_doc_ids=query.doc_ids, filters=query.filters)

    def _diverse(
        self, vector: Vectors, hits: list[tuple[Hit, str]], k: int, threshold: float | None
    ) -> list[tuple[Hit, str]] | None:
        """Maximal marginal relevance, by LlamaIndex's own function; None if a vector was deleted meanwhile."""
        if not hits or k < 1:
            return []
        known: dict[int, Vectors] = {}
        for modality in {modality for _, modality in hits}:
            seqs = [hit.seq for hit, of in hits if of == modality]
            known.update(zip(seqs, self._store.vectors(self.space, modality, seqs), strict=True))
        if not all(one.any() for one in known.values()):
            return None
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
        if fs is not None:
            persist_path = str(fs._strip_protocol(persist_path))
        if fs is not None and not isinstance(fs, LocalFileSystem):
            self._upload(PurePosixPath(persist_path), fs)
            return
        path = Path(persist_path)
        folder, own = path.parent.resolve(), self._store.folder.resolve()
        # One copy for all spaces that are persisted into the same folder; the new one is whole before the old one goes.
        where = "." if own == folder else f"mm-store-{self._store.identity}"
        fresh = folder / f"{where}.{uuid.uuid4().hex}.part"
        told = {"kind": _KIND, "store": where, "space": self.space}
        try:
            if own == folder / where:  # it lies there, or was opened from there
                self._store.checkpoint()
            else:
                self._store.copy_to(fresh)
                shutil.rmtree(folder / where, ignore_errors=True)
                fresh.rename(folder / where)
            path.write_text(json.dumps(told), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path} can't be written: {error}.") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _upload(self, path: PurePosixPath, fs: fsspec.AbstractFileSystem) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / "persisted" / path.name
            self.persist(str(local))
            files = [one for one in local.parent.rglob("*") if one.is_file() and one != local]
            try:
                for file in [*sorted(files), local]:
                    target = path.parent / file.relative_to(local.parent).as_posix()
                    fs.makedirs(str(target.parent), exist_ok=True)
                    fs.put_file(str(file), str(target))
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
        if fs is not None:
            persist_path = str(fs._strip_protocol(persist_path))
        if fs is None or isinstance(fs, LocalFileSystem):
            where, space = _read_small(persist_path, Path(persist_path).read_bytes)
            return cls(MediaStore(Path(persist_path).parent / where, create=False), space)
        where, space = _read_small(persist_path, lambda: fs.cat_file(persist_path))
        temporary = tempfile.TemporaryDirectory(prefix="llama-index-mm-")
        try:
            _download(fs, PurePosixPath(persist_path).parent / where, Path(temporary.name))
            store = MediaStore(temporary.name, create=False)
        except BaseException:
            temporary.cleanup()
            raise
        store.temporary = temporary
        return cls(store, space)

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
        return cls.from_persist_path(concat_dirs(str(persist_dir), f"{namespace}{_SEPARATOR}{DEFAULT_PERSIST_FNAME}"), fs)


def _differ(some: NDArray[np.int64], others: NDArray[np.int64] | None) -> bool:
    return others is None or not np.array_equal(some, others)


def _read_small(path: str, read: Callable[[], bytes]) -> tuple[str, str]:
    """Folder of the store and name of the space, out of the small file that `persist` writes."""
    try:
        told = json.loads(read())
    except OSError as error:
        raise StoreError(f"There is no persisted store in {path}: {error}.") from error
    except ValueError as error:
        raise StoreError(f"{path} was not written by this store's persist: {error}.") from error
    if not isinstance(told, dict) or told.get("kind") != _KIND:
        raise StoreError(f"{path} was not written by this store's persist, but by another vector store.")
    where = str(told.get("store"))
    if where not in (".", PurePosixPath(where).name) or where == "..":
        raise StoreError(f"{path} points to {where!r}; a persisted store lies beside its small file.")
    return where, str(told.get("space"))


def _download(fs: fsspec.AbstractFileSystem, source: PurePosixPath, folder: Path) -> None:
    for remote in fs.find(str(source)):
        local = folder / PurePosixPath(remote).relative_to(source)
        local.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(remote, str(local))


def _matrix(nodes: Sequence[BaseNode]) -> Sequence[Vectors]:
    """The embeddings of nodes, ``(d,)`` float32 each."""
    given = [node.get_embedding() for node in nodes]
    try:
        vectors = np.empty((len(given), len(given[0])), np.float32)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            for row, embedding in zip(vectors, given, strict=True):
                if len(embedding) != len(row):
                    raise ValueError
                row[:] = embedding  # half the time of making an array of each list
    except (TypeError, ValueError):
        return [as_vector(embedding, f"Node {node.node_id}") for embedding, node in zip(given, nodes, strict=True)]
    return list(vectors)
