"""The index: media in, results and answers out."""

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llama_index.core import Settings
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode, TransformComponent
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from typing_extensions import Unpack

from llama_index_mm.answers.answering import Answering
from llama_index_mm.errors import QueryError, SpaceError, StoreError
from llama_index_mm.ingestion import Ingestor, IngestReport, ReembedReport
from llama_index_mm.ingestion.reembed import UNFINISHED, reembed
from llama_index_mm.media import LIMITS, MediaLimits
from llama_index_mm.presets import Preset, load_preset
from llama_index_mm.readers import FetchLimits
from llama_index_mm.retrieval import FusionRetriever
from llama_index_mm.retrieval.calibrating import calibrated, follow, follow_reembedding
from llama_index_mm.retrieval.calibration import Calibration
from llama_index_mm.retrieval.calibration_report import CalibrationReport
from llama_index_mm.retrieval.options import RetrieverOptions
from llama_index_mm.stores import NodeStore
from llama_index_mm.stores.external import VectorStores
from llama_index_mm.stores.opening import open_store

if TYPE_CHECKING:
    from llama_index_mm.ingestion.ray_options import RayOptions
    from llama_index_mm.ingestion.shards_merge import MergeReport

__all__ = ["MultiModalIndex"]


class MultiModalIndex(Answering):
    """Text, pictures, recordings and meshes in one index on disk.

    Example:
        >>> index = MultiModalIndex.open("my-index", create=True)
        >>> index.ingest("holiday/")
        >>> index.as_retriever(similarity_top_k=3).retrieve("a boat in a storm")
        >>> print(index.as_query_engine().query("When was the lighthouse built?"))

    Args:
        store: where it is kept.
        preset: the spaces and encoders; they must be those that the store was made with.
        transformations: LlamaIndex transforms that media go through before they are encoded, such as `CaptionImages`.

    Raises:
        SpaceError: the store was made with another preset, or with other weights.
    """

    def __init__(self, store: NodeStore, preset: Preset, *, transformations: Sequence[TransformComponent] = ()) -> None:
        made = store.meta("preset")
        if made is not None and made != preset.name:
            raise SpaceError(
                f"The index in {store.name} was made with preset {made!r}, not {preset.name!r}. "
                "Open it with that preset, or bring it to this one: llama-index-mm reembed."
            )
        names = {space.name for space in preset.spaces}
        stored = {name for name in store.spaces() if not name.startswith(UNFINISHED)}
        if made is not None and (other := names ^ stored):
            raise SpaceError(
                f"The index in {store.name} and preset {preset.name!r} differ in the spaces {', '.join(sorted(other))}. "
                "Open it with the preset that it was made with, or bring it to this one: llama-index-mm reembed."
            )
        for space in preset.spaces:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        if made is None:
            store.set_meta("preset", preset.name)
        self.store = store
        self.preset = preset
        self._transformations = tuple(transformations)
        self._ingestor = Ingestor(store, preset, transformations=transformations)
        self._calibration = Calibration.load(store)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        preset: Preset | str | None = None,
        create: bool = False,
        transformations: Sequence[TransformComponent] = (),
        vector_stores: VectorStores | None = None,
    ) -> "MultiModalIndex":
        """Open an index.

        Args:
            folder: where it is; or the address of a PostgreSQL database, ``postgresql://user:password@host:5432/database``.
            preset: a preset or its name; default is what the index says, or ``"offline"`` for a new one.
            create: start a new index if there is none.
            transformations: LlamaIndex transforms that media go through before they are encoded, such as `CaptionImages`.
            vector_stores: gives for each space, by its name and the length of its vectors, the LlamaIndex vector store that
                searches in place of FAISS. The folder stays the record of nodes, vectors and files.

        Raises:
            StoreError: there is no index and ``create`` is not set, or it is damaged.
            SpaceError: it was made with another preset.
        """
        if isinstance(preset, str):
            preset = load_preset(preset)
        store = open_store(folder, create=create, vector_stores=vector_stores)
        try:
            recorded = store.meta("preset")
            if recorded is None and not create:
                raise StoreError(
                    f"The index in {store.name} is empty. Make it with: llama-index-mm ingest FOLDER --store {store.name}"
                )
            return cls(store, preset or load_preset(recorded or "offline"), transformations=transformations)
        except BaseException:
            store.close()
            raise

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[BaseNode],
        *,
        folder: Path | str | None = None,
        preset: Preset | str | None = None,
        show_progress: bool = False,
        num_workers: int | None = None,
        transformations: Sequence[TransformComponent] = (),
    ) -> "MultiModalIndex":
        """Make an index of documents.

        Args:
            documents: what `MediaReader` gives, or LlamaIndex's own documents.
            folder: where to keep the index; default is a temporary folder that goes with the index.
            preset: as in `open`.
            show_progress: show a bar on standard error.
            num_workers: as in `ingest`.
            transformations: as in `open`.
        """
        temporary = None
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="llama-index-mm-")
            folder = temporary.name
        try:
            index = cls.open(folder, preset=preset, create=True, transformations=transformations)
            index.store.temporary = temporary  # lives as long as anything that searches it
            try:
                index._ingestor.insert(documents, show_progress=show_progress, num_workers=num_workers)
                index._calibration = follow(index.store, index.preset.spaces, show_progress=show_progress)
            except BaseException:
                index.close()
                raise
        except BaseException:
            if temporary is not None:
                temporary.cleanup()
            raise
        return index

    @staticmethod
    def reembed(
        folder: Path | str,
        *,
        preset: Preset | str | None = None,
        spaces: Sequence[str] = (),
        show_progress: bool = False,
        num_workers: int | None = None,
        media_limits: MediaLimits = LIMITS,
    ) -> ReembedReport:
        """Bring an index to another preset, or to other encoders of the same: only spaces that differ are encoded anew.

        Nodes, texts and the vectors of the other spaces are not touched. A run that was stopped goes on where it stopped. An
        index that was calibrated is so again.

        Args:
            folder: where the index is; nobody else may be writing to it.
            preset: with the new encoders; default is what the index says.
            spaces: names of spaces to encode anew even though their encoders say that they are the same.
            show_progress: show a bar on standard error.
            num_workers: processes that decode, as in `ingest`.
            media_limits: as in `ingest`.

        Raises:
            StoreError: there is no index.
            SpaceError: the preset has no space of a name that was given.
        """
        if isinstance(preset, str):
            preset = load_preset(preset)
        with open_store(folder) as store:
            made = preset or load_preset(store.meta("preset") or "offline")
            report = reembed(
                store, made, spaces, show_progress=show_progress, num_workers=num_workers, media_limits=media_limits
            )
            follow_reembedding(store, made.spaces, report.encoded, show_progress=show_progress)
        return report

    def close(self) -> None:
        """Close the store; an index in a temporary folder is gone with that."""
        self.store.close()

    def __enter__(self) -> "MultiModalIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ingest(
        self,
        source: Path | str | Iterable[Path | str],
        *,
        show_progress: bool = False,
        prune: bool = False,
        dry_run: bool = False,
        retry_failed: bool = False,
        follow_links: bool = False,
        num_workers: int | None = None,
        limits: FetchLimits | None = None,
        media_limits: MediaLimits = LIMITS,
        calibrate: bool = True,
        engine: Literal["local", "ray"] = "local",
        ray: "RayOptions | None" = None,
    ) -> IngestReport:
        """Take in files and folders: new and changed files are read, broken ones are reported, the rest goes on.

        Files are decoded in other processes while the models encode here. A run that was stopped, even killed, goes on where
        it stopped when it is called again.

        Args:
            source: a path, a folder, an address such as ``https://...`` or ``s3://...``, or several of these.
            show_progress: show a bar on standard error.
            prune: take files out of the index that were in one of these folders and are gone.
            dry_run: change nothing; the report tells what would be done, as far as names and digests show that.
            retry_failed: also try files again that could not be decoded in an earlier run and have not changed since.
            follow_links: also take what links within folders lead to; a link that leads out of its folder is refused otherwise.
            num_workers: processes that decode; None for one on each processor, 0 to decode in this one, where a decoder that
                crashes takes the run along.
            limits: of what is fetched from elsewhere: bytes, seconds, and whether private addresses may be asked.
            media_limits: on each file: bytes, pixels, seconds, faces, and what decoding it may take.
            calibrate: learn anew what similarities mean where the index has changed much, see `calibrate`. Where that fails
                there is a warning in the log.
            engine: ``"ray"`` to work on all machines of a Ray cluster; files must have the same names on each of them.
            ray: how the work is spread there.
        """
        if engine == "ray":
            take = self._ingest_on_cluster(ray)
        elif engine == "local":
            take = self._ingestor.ingest
        else:
            raise QueryError(f"Unknown engine {engine!r}; there are: local, ray.")
        report = take(
            source,
            show_progress=show_progress,
            prune=prune,
            dry_run=dry_run,
            retry_failed=retry_failed,
            follow_links=follow_links,
            num_workers=num_workers,
            limits=limits,
            media_limits=media_limits,
        )
        if calibrate and not dry_run:
            self._calibration = follow(self.store, self.preset.spaces, show_progress=show_progress) or self._calibration
        return report

    def _ingest_on_cluster(self, options: "RayOptions | None") -> Callable[..., IngestReport]:
        from llama_index_mm.ingestion.engines import ingest_on_cluster
        from llama_index_mm.ingestion.ray_options import RayOptions

        return partial(
            ingest_on_cluster, self.store, self.preset, options=options or RayOptions(), transformations=self._transformations
        )

    async def aingest(
        self,
        source: Path | str | Iterable[Path | str],
        *,
        show_progress: bool = False,
        prune: bool = False,
        dry_run: bool = False,
        retry_failed: bool = False,
        follow_links: bool = False,
        num_workers: int | None = None,
        limits: FetchLimits | None = None,
        media_limits: MediaLimits = LIMITS,
        calibrate: bool = True,
        engine: Literal["local", "ray"] = "local",
        ray: "RayOptions | None" = None,
    ) -> IngestReport:
        """Like `ingest`, off the event loop."""
        return await asyncio.to_thread(
            self.ingest,
            source,
            show_progress=show_progress,
            prune=prune,
            dry_run=dry_run,
            retry_failed=retry_failed,
            follow_links=follow_links,
            num_workers=num_workers,
            limits=limits,
            media_limits=media_limits,
            calibrate=calibrate,
            engine=engine,
            ray=ray,
        )

    def merge(self, shards: Path | str, *, show_progress: bool = False, calibrate: bool = True) -> "MergeReport":
        """Load shards that a cluster wrote: every document once. Merging again changes nothing.

        Args:
            shards: their folder.
            show_progress: show a bar on standard error.
            calibrate: as in `ingest`.

        Raises:
            StoreError: there are none, or they are damaged.
            SpaceError: they were made with other encoders.
        """
        from llama_index_mm.ingestion.shards_merge import merge_shards

        report = merge_shards(shards, self.store, show_progress=show_progress)
        if calibrate:
            self._calibration = follow(self.store, self.preset.spaces, show_progress=show_progress) or self._calibration
        return report

    def insert(self, document: BaseNode) -> None:
        """Take in one document; one with the same id is replaced.

        Raises:
            MediaError: its media can't be decoded.
        """
        self._ingestor.insert([document])

    def insert_nodes(self, nodes: Sequence[BaseNode], *, show_progress: bool = False, num_workers: int | None = 0) -> None:
        """Take in documents or nodes, in batches; those with an id that is there already are replaced.

        Args:
            nodes: what `MediaReader` gives, or LlamaIndex's own nodes and documents.
            show_progress: show a bar on standard error.
            num_workers: processes that decode media; 0 decodes in this one, which is all that texts need.

        Raises:
            MediaError, EncodeError: one can't be decoded or encoded; the first such error. The others have been stored.
        """
        self._ingestor.insert(nodes, show_progress=show_progress, num_workers=num_workers)

    async def ainsert(self, document: BaseNode) -> None:
        """Like `insert`, off the event loop."""
        await asyncio.to_thread(self.insert, document)

    def delete_ref_doc(self, ref_doc_id: str) -> int:
        """Delete all nodes of a document; gives how many there were."""
        return self.store.delete(ref_doc_ids=[ref_doc_id])

    async def adelete_ref_doc(self, ref_doc_id: str) -> int:
        """Like `delete_ref_doc`, off the event loop."""
        return await asyncio.to_thread(self.delete_ref_doc, ref_doc_id)

    def calibrate(self, *, show_progress: bool = False, anew: bool = False) -> CalibrationReport:
        """Learn from the index what similarities mean, so that scores compare across modalities and spaces.

        What has changed little since the last time is kept. `ingest` and `from_documents` do this by themselves; after many
        calls of `insert` it is worth doing. Some 250 texts are encoded, which costs what a service asks for that. With less
        than 20 nodes of a modality scores stay as they are. Retrievers that were made before go on as they are.

        Args:
            show_progress: show a bar on standard error.
            anew: keep nothing.

        Raises:
            StoreLockedError: somebody else is writing.
        """
        self._calibration, report = calibrated(self.store, self.preset.spaces, show_progress=show_progress, anew=anew)
        return report

    def vector_store(self, space: str) -> BasePydanticVectorStore:
        """One space as a LlamaIndex vector store."""
        return self.store.vector_store(space)

    def as_retriever(
        self, *, similarity_top_k: int = 5, calibrated: bool = True, **options: Unpack[RetrieverOptions]
    ) -> FusionRetriever:
        """Make a retriever over all spaces.

        Args:
            similarity_top_k: how many nodes it gives.
            calibrated: make scores by what `calibrate` had learned when the index was opened, or has since.
            **options: modalities, filters, fusion, weights, quotas and more: see `RetrieverOptions`.
        """
        transcriber = self.preset.transcriber
        options["weights"] = {**self.preset.weights, **(options.get("weights") or {})}
        return FusionRetriever(
            self.store,
            self.preset.spaces,
            similarity_top_k=similarity_top_k,
            hear=None if transcriber is None else lambda sound: transcriber.transcribe(sound).text,
            calibration=self._calibration if calibrated else None,
            **options,
        )

    def _default_llm(self) -> LLM:
        if Settings._llm is not None:
            return Settings._llm
        if self.preset.llm is None:
            raise QueryError(
                f"Preset {self.preset.name!r} has no LLM of its own: give one, or set llama_index.core.Settings.llm."
            )
        return self.preset.llm()
