"""One run over files: what is on its way from the disk to the store."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode, NodeRelationship, TransformComponent

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.errors import (
    DecodeError,
    EncodeError,
    MediaError,
    MissingExtraError,
    ModelError,
    SpaceError,
    StoreError,
)
from llama_index_mm.ingestion.documents import as_media
from llama_index_mm.ingestion.encode import encode_nodes
from llama_index_mm.ingestion.found import Found
from llama_index_mm.ingestion.report import IngestReport
from llama_index_mm.media import MediaLimits, Modality
from llama_index_mm.media.decode import Content, Pages
from llama_index_mm.media.pool import DecodePool, Decoding
from llama_index_mm.nodes import MediaNode, modality_of_node
from llama_index_mm.readers import Problem
from llama_index_mm.readers.media import document_of
from llama_index_mm.readers.remote import is_remote
from llama_index_mm.stores import NodeStore, Source
from llama_index_mm.transforms.base import MediaTransform
from llama_index_mm.transforms.pages import SplitPages

__all__ = ["Run", "Stages"]

_BATCH = 16  # nodes that are encoded and stored together
_TOGETHER: dict[Modality, int] = {"image": 16, "mesh": 8}  # documents that go through the transforms together; others alone
_AHEAD = 48  # files that are decoded before it is their turn
_STALE = 30.0  # seconds that a batch may wait to become full, while files of other kinds come
_PATIENCE = 1.0  # seconds that a file may keep those behind it waiting, once

# What is wrong with the installation, not with a file.
_FATAL = (MissingExtraError, ModelError, StoreError, SpaceError)


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, MediaError | EncodeError | OSError):
        return str(error)
    return f"{Path(name).name} can't be worked on: {str(error) or type(error).__name__}."


@dataclass
class _Job:
    """One document on its way into the store, and the files that hold it."""

    document_id: str
    modality: Modality
    make: Callable[[Content | None], BaseNode]
    decoding: Decoding | None = None
    sources: list[Source] = field(default_factory=list)
    digest: str = ""
    found: Found | None = None
    content: Content | None = None
    nodes: list[BaseNode] = field(default_factory=list)
    was_waited_for: bool = False

    @property
    def is_ready(self) -> bool:
        return self.decoding is None or self.decoding.done()

    @property
    def name(self) -> str:
        return self.sources[0].path if self.sources else self.document_id

    @property
    def suffix(self) -> str:
        return self.found.file.suffix.lower() if self.found is not None else ""


@dataclass(frozen=True)
class Stages:
    """What files go through.

    Attributes:
        store: where nodes go.
        spaces: whose encoders make vectors of them.
        splitter: cuts texts into nodes.
        media: transforms of media nodes, in order.
    """

    store: NodeStore
    spaces: Sequence[EmbeddingSpace]
    splitter: TransformComponent
    media: Sequence[TransformComponent]


class Run:
    """One run: what is on its way, and how far it got.

    Files come in order. Each is decoded in another process (``_coming``), goes through the transforms together with others of
    its modality (``_groups``), and its nodes wait until a batch of them is full (``_waiting``).
    """

    def __init__(
        self,
        stages: Stages,
        report: IngestReport,
        pool: DecodePool,
        limits: MediaLimits,
        bar: Any,
        *,
        retry_failed: bool = False,
    ) -> None:
        self._stages = stages
        self._store = stages.store
        self._report = report
        self._pool = pool
        self._limits = limits
        self._bar = bar
        self._retry_failed = retry_failed
        self.errors: list[Exception] = []
        self._looked_at: set[str] = set()
        self._jobs: dict[str, _Job] = {}  # all that are on their way, by document
        self._coming: deque[_Job] = deque()
        self._groups: dict[Modality, list[_Job]] = {}
        self._waiting: dict[Modality, list[_Job]] = {}
        self._since: dict[Modality, float] = {}  # when the first of those came that wait

    # -- what comes in ----------------------------------------------------------------------------------------------

    def take(self, found: Found) -> None:
        """Take in one file."""
        self._bar.set_postfix_str(found.name.rsplit("/", 1)[-1][-30:], refresh=False)
        if found.problem:
            self._refuse(found)
        elif (job := self._begin(found)) is not None:
            self._enter(job)

    def take_document(self, document: BaseNode) -> None:
        """Take in one document of the user's."""
        try:
            media = as_media(document, self._store)
        except MediaError as error:
            self.errors.append(error)
            self._report.problems.append(Problem.of(document.node_id, str(error)))
            self._bar.update()
            return
        if media.source_node is not None:  # what is inserted is a document of its own
            media = media.model_copy(deep=True)
            del media.relationships[NodeRelationship.SOURCE]
        if media.node_id in self._jobs:
            self.finish()
        job = _Job(media.node_id, modality_of_node(media), lambda _: media)
        if isinstance(media, MediaNode):
            job.digest = media.digest
            job.decoding = self._pool.submit(media.path, media.modality)
        self._enter(job)

    def look(self, found: Found) -> None:
        """Tell what would become of a file, without decoding it."""
        self._bar.update()
        known = None if found.problem else self._store.source(found.name)
        if found.problem:
            self._report.problems.append(Problem.of(found.name, found.problem))
        elif known is not None and known.digest == found.digest:
            if known.status == "indexed":
                self._report.unchanged += 1
            else:
                self._report.problems.append(Problem.of(found.name, known.reason))
        elif found.digest in self._looked_at or self._store.sources(document_id=found.digest[:32]):
            self._report.duplicates += 1
        else:
            self._report.added += 1
            self._looked_at.add(found.digest)

    def finish(self) -> None:
        """Bring all that is on its way into the store."""
        while self._coming:
            self._advance()
        for modality in list(self._groups):
            self._transform(modality)
        for modality in list(self._waiting):
            self._flush(modality)

    def _begin(self, found: Found) -> _Job | None:
        """Start on a file; None if nothing is to be encoded."""
        source = Source(found.name, found.digest, "indexed", document_id=found.digest[:32])
        known = self._store.source(found.name)
        if known is not None and known.digest == found.digest:
            if known.status == "indexed":
                self._report.unchanged += 1
                self._bar.update()
                return None
            if not self._retry_failed:
                self._report.problems.append(Problem.of(found.name, known.reason))
                self._bar.update()
                return None
        if known is not None:
            self._store.release(found.name)
        if (same := self._jobs.get(found.digest[:32])) is not None:
            if same.suffix == found.file.suffix.lower():
                same.sources.append(source)
                return None
            self.finish()  # by another ending it is decoded in another way, which may do where this one's fails
        if self._store.sources(document_id=found.digest[:32]):
            self._share(source)
            return None
        make = partial(_document, found, self._limits)
        job = _Job(found.digest[:32], found.modality, make, sources=[source], found=found)
        job.digest = found.digest
        if found.modality != "text" or found.file.suffix.lower() == ".pdf":
            job.decoding = self._pool.submit(found.file, found.modality)
        return job

    def _refuse(self, found: Found) -> None:
        """Note a file that can't be read. What the index has of it stays if that may pass."""
        known = self._store.source(found.name)
        if not found.notable or (not found.lasting and known is not None and known.status == "indexed"):
            self._report.problems.append(Problem.of(found.name, found.problem))
            self._bar.update()
            return
        if known is not None:
            self._store.release(found.name)
        self._tell(found.name, "", found.problem)

    def _share(self, source: Source) -> None:
        """Note that a file holds what is in the index already."""
        self._store.note_sources([source])
        for other in self._store.sources(document_id=source.document_id):
            if not is_remote(other.path) and not Path(other.path).exists():  # the file was renamed or moved
                self._store.release(other.path)
        self._report.duplicates += 1
        self._bar.update()

    # -- through the stages -----------------------------------------------------------------------------------------

    def _enter(self, job: _Job) -> None:
        self._jobs[job.document_id] = job
        self._coming.append(job)
        ahead = _AHEAD if self._pool.workers else 1
        while self._coming and (len(self._coming) >= ahead or self._coming[0].decoding is None):
            self._advance()

    def _advance(self) -> None:
        """Take the next file that is decoded: in order, but one that takes long doesn't keep the others waiting."""
        first = self._coming[0]
        if not first.is_ready and not first.was_waited_for:
            first.was_waited_for = True
            Decoding.wait_for_any(_decodings([first]), _PATIENCE)
        while (job := next((one for one in self._coming if one.is_ready), None)) is None:
            Decoding.wait_for_any(_decodings(self._coming), _PATIENCE)
        self._coming.remove(job)
        self._flush_stale()
        try:
            job.content = job.decoding.result() if job.decoding is not None else None
        except _FATAL:
            raise
        except Exception as error:
            self._fail(job, error)
            return
        group = self._groups.setdefault(job.modality, [])
        group.append(job)
        self._since.setdefault(job.modality, time.monotonic())
        if len(group) >= _TOGETHER.get(job.modality, 1):
            self._transform(job.modality)

    def _transform(self, modality: Modality) -> None:
        """Send a group through the transforms."""
        done = self._each(self._groups.pop(modality, []), self._apply)
        waiting = self._waiting.setdefault(modality, [])
        waiting.extend(done)
        if sum(len(job.nodes) for job in waiting) >= _BATCH:
            self._flush(modality)

    def _flush_stale(self) -> None:
        """Bring what has waited long into the store, so that it is safe, and its memory free."""
        for modality in [one for one, since in self._since.items() if time.monotonic() - since > _STALE]:
            self._transform(modality)
            self._flush(modality)

    def _flush(self, modality: Modality) -> None:
        """Encode and store what is waiting."""
        self._since.pop(modality, None)
        for job in self._each(self._waiting.pop(modality, []), self._encode):
            self._jobs.pop(job.document_id, None)
            self._bar.update(max(1, len(job.sources)))

    def _each(self, jobs: list[_Job], work: Callable[[list[_Job]], None]) -> list[_Job]:
        """Do work on jobs together; if that fails, on each alone, and only the bad ones fail. Gives those that were done."""
        if not jobs:
            return []
        try:
            work(jobs)
        except _FATAL:
            raise
        except Exception as error:  # whatever a model raises for one file must not stop the run
            if len(jobs) > 1:
                return [job for one in jobs for job in self._each([one], work)]
            self._fail(jobs[0], error)
            return []
        return jobs

    def _apply(self, jobs: list[_Job]) -> None:
        """Make nodes of documents."""
        documents = [job.make(job.content) for job in jobs]
        for job in jobs:
            if job.found is not None:
                job.found.check_same()
        if jobs[0].modality == "text":
            nodes = list(self._stages.splitter(SplitPages()(documents)))
        else:
            nodes, loaded = documents, self._loaded(jobs)
            for transform in self._stages.media:
                given = {"loaded": loaded} if isinstance(transform, MediaTransform) else {}
                nodes = list(transform(nodes, **given))
        if len(jobs) == 1:
            jobs[0].nodes = nodes
            return
        of = {document.node_id: list[BaseNode]() for document in documents}
        for node in nodes:
            of[node.ref_doc_id or node.node_id].append(node)
        for job, document in zip(jobs, documents, strict=True):
            job.nodes = of[document.node_id]

    def _encode(self, jobs: list[_Job]) -> None:
        """Encode and store."""
        nodes = [node for job in jobs for node in job.nodes]
        records = encode_nodes(nodes, self._stages.spaces, self._loaded(jobs))
        sources = [source for job in jobs for source in job.sources]
        self._store.add(records, sources, replacing=[job.document_id for job in jobs])
        self._report.added += len(jobs)
        self._report.duplicates += len(sources) - sum(bool(job.sources) for job in jobs)
        self._report.nodes += len(records)

    def _loaded(self, jobs: list[_Job]) -> Loaded:
        return Loaded({job.digest: job.content for job in jobs if job.content is not None}, self._limits)

    # -- what can't be taken ----------------------------------------------------------------------------------------

    def _fail(self, job: _Job, error: Exception) -> None:
        self._jobs.pop(job.document_id, None)
        self.errors.append(error)
        # What the decoder refused it will refuse again, as long as the file is the same. Anything else may have passed by then.
        digest = job.digest if isinstance(error, DecodeError) else ""
        reason = _reason(job.name, error)
        for source in job.sources:
            own = reason.replace(Path(job.name).name, Path(source.path).name, 1)  # what is said of this one's content
            self._tell(source.path, digest, own)
        if not job.sources:
            self._report.problems.append(Problem.of(job.document_id, reason))
            self._bar.update()

    def _tell(self, name: str, digest: str, reason: str) -> None:
        self._report.problems.append(Problem.of(name, reason))
        self._store.note_sources([Source(name, digest, "failed", reason)])
        self._bar.update()


def _decodings(jobs: Iterable[_Job]) -> list[Decoding]:
    return [job.decoding for job in jobs if job.decoding is not None]


def _document(found: Found, limits: MediaLimits, content: Content | None) -> BaseNode:
    pages = content.pages if isinstance(content, Pages) else None
    return document_of(found.file, found.digest, name=found.title, url=found.url, limits=limits, pages=pages)
