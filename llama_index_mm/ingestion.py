"""Files into an index: what is new is read, encoded and stored; what is broken is noted with its reason."""

import base64
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    MediaResource,
    Node,
    NodeRelationship,
    TextNode,
    TransformComponent,
)
from tqdm import tqdm

from llama_index_mm.embeddings.base import EmbeddingSpace, Payload, Vectors
from llama_index_mm.embeddings.payloads import node_payload
from llama_index_mm.errors import (
    DecodeError,
    EncodeError,
    MediaError,
    MissingExtraError,
    ModelError,
    SpaceError,
    StoreError,
)
from llama_index_mm.media import Waveform, digest_bytes, digest_file, load_audio, modality_of
from llama_index_mm.media.files import check_readable
from llama_index_mm.nodes import PREFIX, AudioMedia, MediaNode, modality_of_node
from llama_index_mm.presets import Preset
from llama_index_mm.readers import FetchLimits, Problem, list_files
from llama_index_mm.readers.media import document_of
from llama_index_mm.readers.remote import is_remote, list_remote, read_remote
from llama_index_mm.stores import MediaStore, Record, Source
from llama_index_mm.transforms.audio import SplitAudio
from llama_index_mm.transforms.images import LabelImages
from llama_index_mm.transforms.meshes import DescribeMeshes

__all__ = ["IngestReport", "Ingestor"]

_BATCH = 16  # nodes that are encoded and stored together
_CHUNK = 256  # tokens of a text node


# What is wrong with the installation, not with a file.
_FATAL = (MissingExtraError, ModelError, StoreError, SpaceError)


def _is_unicode(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MediaError | EncodeError | OSError) else f"{type(error).__name__}: {error}"


def _part_id(part: int, document: BaseNode) -> str:
    return f"{document.node_id}:{part}"


@dataclass
class IngestReport:
    """What became of the files of one run.

    Attributes:
        added: files that were read and stored.
        unchanged: files whose content was stored already.
        duplicates: files with the content of another file; they share its nodes.
        removed: files that are gone from disk and were taken out of the index.
        problems: files that could not be taken, with reasons.
        nodes: how many nodes were stored.
    """

    added: int = 0
    unchanged: int = 0
    duplicates: int = 0
    removed: int = 0
    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0

    def __str__(self) -> str:
        parts = [f"{self.added} added ({self.nodes} nodes)", f"{self.unchanged} unchanged"]
        parts += [f"{self.duplicates} duplicates"] if self.duplicates else []
        parts += [f"{self.removed} removed"] if self.removed else []
        return ", ".join([*parts, f"{len(self.problems)} not taken"])


@dataclass
class _Item:
    """Nodes of one document on their way into the store, and the files that hold it."""

    document_id: str
    nodes: list[BaseNode]
    sources: list[Source] = field(default_factory=list)


def _is_full(waiting: Sequence[_Item]) -> bool:
    return sum(len(item.nodes) for item in waiting) >= _BATCH


class Ingestor:
    """Runs the transforms and encoders of a preset over documents.

    Args:
        store: where nodes go.
        preset: what reads and encodes them.
        text_splitter: cuts texts into nodes; default is LlamaIndex's `SentenceSplitter` at 256 tokens.
    """

    def __init__(self, store: MediaStore, preset: Preset, *, text_splitter: TransformComponent | None = None) -> None:
        self._store = store
        self._preset = preset
        self._splitter = text_splitter or SentenceSplitter(chunk_size=_CHUNK, chunk_overlap=32, id_func=_part_id)
        self._media: tuple[TransformComponent, ...] = (
            SplitAudio(preset.transcriber),
            LabelImages(preset.labeler),
            DescribeMeshes(store.media_path),
        )

    def ingest(
        self,
        source: Path | str | Iterable[Path | str],
        *,
        show_progress: bool = False,
        on_file: Callable[[Path], None] | None = None,
        prune: bool = False,
        dry_run: bool = False,
        limits: FetchLimits | None = None,
    ) -> IngestReport:
        """Take files and folders in. A run that was stopped goes on where it stopped when it is called again.

        Args:
            source: a path, a folder, an address such as ``https://...`` or ``s3://...``, or several of these.
            show_progress: show a bar on standard error.
            on_file: called with each path before it is read.
            prune: take files out of the index that were in one of these folders and are gone.
            dry_run: change nothing; the report tells what would be done, as far as names and digests show that. Addresses
                are not fetched.
            limits: of what is fetched from elsewhere.
        """
        report = IngestReport()
        waiting: list[_Item] = []
        every = [source] if isinstance(source, str | os.PathLike) else list(source)
        given = [one for one in every if not is_remote(one)]
        # Links are kept as they are.
        files: list[Path | str] = [Path(os.path.abspath(path)) for path in list_files(given)]  # noqa: PTH100
        for address in [str(one) for one in every if is_remote(one)]:
            try:
                files += list_remote(address)
            except DecodeError as error:
                report.problems.append(Problem(Path(address), str(error)))
        files = list(dict.fromkeys(files))
        with tqdm(files, desc="ingest", unit="file", disable=not show_progress) as bar:
            for path in bar:
                bar.set_postfix_str(str(path).rsplit("/", 1)[-1][-30:], refresh=False)
                if on_file is not None:
                    on_file(Path(path))
                if isinstance(path, str):
                    item = None if dry_run else self._address(path, waiting, report, limits)
                elif dry_run:
                    self._look(path, report)
                    continue
                else:
                    item = self._file(path, waiting, report)
                if item is not None:
                    waiting.append(item)
                if _is_full(waiting):
                    self._flush(waiting, report)
            self._flush(waiting, report)
        for gone in self._gone(given) if prune else []:  # at last, for a file that was moved keeps its nodes
            report.removed += 1
            if not dry_run:
                self._store.release(gone)
        return report

    def _gone(self, given: Sequence[Path | str]) -> list[str]:
        """Files that the index knows, that lay in one of these folders or were given themselves, and that are gone."""
        roots = [Path(os.path.abspath(one)) for one in given]  # noqa: PTH100 - links are kept
        known = [Path(one.path) for one in self._store.sources()]
        return [
            str(path)
            for path in known
            if not os.path.lexists(path) and any(path == root or root in path.parents for root in roots)
        ]

    def _look(self, path: Path, report: IngestReport) -> None:
        """Tell what would become of a file, without decoding it."""
        try:
            modality_of(path)
            check_readable(path)
            digest = digest_file(path)
        except (MediaError, OSError) as error:
            report.problems.append(Problem(path, str(error)))
            return
        known = self._store.source(str(path)) if _is_unicode(path) else None
        if known is not None and known.digest == digest and known.status == "indexed":
            report.unchanged += 1
        elif self._store.sources(document_id=digest[:32]):
            report.duplicates += 1
        else:
            report.added += 1

    def insert(self, documents: Sequence[BaseNode], *, show_progress: bool = False) -> IngestReport:
        """Take documents in: media nodes, LlamaIndex documents, images and text nodes.

        Documents of LlamaIndex's own that hold an image or a sound become media nodes; images in memory are kept in the
        store's media folder. A document with an id that is there already replaces the old one.

        Raises:
            MediaError: a document's media can't be decoded. Documents before it have been stored.
        """
        report = IngestReport()
        waiting: list[_Item] = []
        try:
            for document in tqdm(documents, desc="insert", unit="document", disable=not show_progress):
                media = as_media(document, self._store)
                if media.source_node is not None:  # what is inserted is a document of its own
                    media = media.model_copy(deep=True)
                    del media.relationships[NodeRelationship.SOURCE]
                if any(item.document_id == media.node_id for item in waiting):
                    self._flush(waiting, report)
                waiting.append(_Item(media.node_id, self._transform(media)))
                if _is_full(waiting):
                    self._flush(waiting, report)
        finally:
            self._flush(waiting, report)
        if report.problems:
            raise EncodeError("; ".join(problem.reason for problem in report.problems))
        return report

    def _file(self, path: Path, waiting: list[_Item], report: IngestReport) -> _Item | None:
        """Read one file; None if there is nothing to encode."""
        if not _is_unicode(path):  # can't be noted in the store either
            name = os.fsencode(path).decode("utf-8", "backslashreplace")
            report.problems.append(Problem(Path(name), "The file's name is not UTF-8. Rename it."))
            return None
        digest = ""
        try:
            modality_of(path)
            if path.is_file():  # anything else is refused by document_of, with the reason
                digest = digest_file(path)
            source = Source(str(path), digest, "indexed", document_id=digest[:32])
            if self._is_unchanged(source, report) or self._is_known(source, waiting, report):
                return None
            document = document_of(path, digest or None)
            return _Item(document.node_id, self._transform(document), [source])
        except _FATAL:
            raise
        except Exception as error:  # whatever a decoder or a model raises for one file must not stop the run
            self._fail(path, digest, _reason(error), report)
            return None

    def _is_unchanged(self, source: Source, report: IngestReport) -> bool:
        """Whether the index has a file as it is; one that it has otherwise is forgotten."""
        known = self._store.source(source.path)
        if known is not None and known.digest == source.digest and known.status == "indexed":
            report.unchanged += 1
            return True
        if known is not None:
            self._store.release(source.path)
        return False

    def _is_known(self, source: Source, waiting: list[_Item], report: IngestReport) -> bool:
        """Whether the content of a file is in the index or on its way; then it is noted that this file holds it too."""
        if same := [item for item in waiting if item.document_id == source.document_id]:
            same[0].sources.append(source)
            return True
        if not source.digest or not self._store.sources(document_id=source.document_id):
            return False
        self._store.note_sources([source])
        for other in self._store.sources(document_id=source.document_id):
            if not is_remote(other.path) and not Path(other.path).exists():  # the file was renamed or moved
                self._store.release(other.path)
        report.duplicates += 1
        return True

    def _address(self, address: str, waiting: list[_Item], report: IngestReport, limits: FetchLimits | None) -> _Item | None:
        """Fetch a file and keep it in the store's media folder; None if there is nothing to encode."""
        digest = ""
        try:
            fetched = read_remote(address, limits)
            modality_of(Path(fetched.name))
            digest = digest_bytes(fetched.data)
            source = Source(address, digest, "indexed", document_id=digest[:32])
            if self._is_unchanged(source, report):
                return None
            path = self._store.media_path(fetched.data, Path(fetched.name).suffix.lower())
            if self._is_known(source, waiting, report):
                return None
            document = document_of(path, digest, name=fetched.name, url=address)
            return _Item(document.node_id, self._transform(document), [source])
        except _FATAL:
            raise
        except Exception as error:
            self._fail(address, digest, _reason(error), report)
            return None

    def _fail(self, path: Path | str, digest: str, reason: str, report: IngestReport) -> None:
        report.problems.append(Problem(Path(path), reason))
        self._store.note_sources([Source(str(path), digest, "failed", reason)])

    def _transform(self, document: BaseNode) -> list[BaseNode]:
        """Make nodes of a document."""
        if not isinstance(document, MediaNode):
            return list(self._splitter([document]))
        nodes: list[BaseNode] = [document]
        for transform in self._media:
            nodes = list(transform(nodes))
        return nodes

    def _flush(self, waiting: list[_Item], report: IngestReport) -> None:
        """Encode and store what is waiting. If the batch fails, each document is tried alone, and only the bad ones fail."""
        items, waiting[:] = list(waiting), []
        if not items:
            return
        try:
            records = encode_nodes([node for item in items for node in item.nodes], self._preset.spaces)
        except _FATAL:
            raise
        except Exception as error:
            if len(items) > 1:
                for item in items:
                    self._flush([item], report)
                return
            for source in items[0].sources:
                self._fail(source.path, source.digest, _reason(error), report)
            if not items[0].sources:
                report.problems.append(Problem(Path(items[0].document_id), _reason(error)))
            return
        sources = [source for item in items for source in item.sources]
        self._store.add(records, sources, replacing=[item.document_id for item in items])
        report.added += len(items)
        report.duplicates += len(sources) - sum(bool(item.sources) for item in items)
        report.nodes += len(records)


def encode_nodes(nodes: Sequence[BaseNode], spaces: Sequence[EmbeddingSpace]) -> list[Record]:
    """Encode nodes into every space in which they can live, in batches by encoder.

    Raises:
        MediaError, EncodeError: a node can't be loaded or encoded.
    """
    vectors: list[dict[str, Vectors]] = [{} for _ in nodes]
    loaded: dict[tuple[int, str], Any] = {}
    recordings = _Recordings()
    for space in spaces:
        for modality, encoder in space.encoders.items():
            places = [at for at, node in enumerate(nodes) if modality_of_node(node) == modality and lives_in(node, space)]
            for at in places:
                if (at, encoder.payload) not in loaded:
                    loaded[at, encoder.payload] = recordings.payload(nodes[at], encoder.payload)
            encoded = encoder.encode([loaded[at, encoder.payload] for at in places])
            for at, vector in zip(places, encoded, strict=True):
                vectors[at][space.name] = vector
    return [Record(node, found) for node, found in zip(nodes, vectors, strict=True)]


class _Recordings:
    """Cuts spans out of recordings; the last recording is kept, as decoding one from its beginning for each span is slow."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._sound: Waveform | None = None

    def payload(self, node: BaseNode, payload: Payload) -> Any:
        """Like `node_payload`."""
        if payload != "audio" or not isinstance(node, AudioMedia):
            return node_payload(node, payload)
        if self._sound is None or self._path != node.path:
            self._sound, self._path = load_audio(node.path), node.path
        return self._sound.cut(node.start, node.end)


def lives_in(node: BaseNode, space: EmbeddingSpace) -> bool:
    """Whether a node gets a vector in a space."""
    return not space.speech_only or not isinstance(node, AudioMedia) or node.speech


def as_media(document: BaseNode, store: MediaStore) -> BaseNode:
    """Turn LlamaIndex's own nodes that hold an image or a sound into media nodes; others are given back as they are.

    Raises:
        DecodeError: the media is neither a local file nor in memory.
    """
    if isinstance(document, MediaNode) or (isinstance(document, TextNode) and not isinstance(document, ImageNode)):
        return document
    if isinstance(document, ImageNode):
        path = document.image_path or document.metadata.get("file_path")
        data = base64.b64decode(document.image) if document.image and not path else None
    elif isinstance(document, ImageDocument) and document.image_resource is None:
        path, data = document.metadata.get("file_path"), None
    elif isinstance(document, Node) and (resource := document.image_resource or document.audio_resource):
        path, data = _file_or_bytes(resource)
    else:
        return document
    if path is None and data is None:
        raise DecodeError(f"Document {document.node_id} has media by URL only; download it first and give the file.")
    suffix = ".wav" if isinstance(document, Node) and document.audio_resource else ".png"
    file = store.media_path(data, suffix) if data is not None else Path(str(path))
    own = {key: value for key, value in document.metadata.items() if not key.startswith(PREFIX)}
    made = document_of(file, name=str(own["file_name"]) if own.get("file_name") else None)
    if not isinstance(made, MediaNode):
        raise DecodeError(f"Document {document.node_id}: {file.name} is no picture and no sound.")
    text = document.get_content().strip()
    fresh = made.with_facts(text=text or None)
    fresh.metadata.update(own)
    fresh.id_ = document.node_id
    return fresh


def _file_or_bytes(resource: MediaResource) -> tuple[str | None, bytes | None]:
    if resource.path is not None:
        return str(resource.path), None
    if resource.data is None:
        return None, None
    return None, base64.b64decode(resource.data)
