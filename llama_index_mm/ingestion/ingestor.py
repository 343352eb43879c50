"""Files, folders, addresses and documents into a store."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, TransformComponent
from tqdm import tqdm

from llama_index_mm.ingestion.found import examined
from llama_index_mm.ingestion.listing import gone, list_sources
from llama_index_mm.ingestion.report import IngestReport
from llama_index_mm.ingestion.run import Run, Stages
from llama_index_mm.media import LIMITS, MediaLimits
from llama_index_mm.media.pool import DecodePool
from llama_index_mm.presets import Preset
from llama_index_mm.readers import FetchLimits
from llama_index_mm.stores import NodeStore
from llama_index_mm.transforms.audio import SplitAudio
from llama_index_mm.transforms.images import LabelImages
from llama_index_mm.transforms.meshes import DescribeMeshes

__all__ = ["Ingestor"]

_CHUNK = 256  # tokens of a text node


def _part_id(part: int, document: BaseNode) -> str:
    return f"{document.node_id}:{part}"


class Ingestor:
    """Runs the transforms and encoders of a preset over documents.

    Args:
        store: where nodes go.
        preset: what reads and encodes them.
        text_splitter: cuts texts into nodes; default is LlamaIndex's `SentenceSplitter` at 256 tokens.
        transformations: LlamaIndex transforms that media nodes go through after those of the preset, such as `CaptionImages`.
    """

    def __init__(
        self,
        store: NodeStore,
        preset: Preset,
        *,
        text_splitter: TransformComponent | None = None,
        transformations: Sequence[TransformComponent] = (),
    ) -> None:
        self.stages = Stages(
            store=store,
            spaces=preset.spaces,
            splitter=text_splitter or SentenceSplitter(chunk_size=_CHUNK, chunk_overlap=32, id_func=_part_id),
            media=(
                SplitAudio(preset.transcriber),
                LabelImages(preset.labeler),
                DescribeMeshes(store.media_path),
                *transformations,
            ),
        )

    def ingest(
        self,
        source: Path | str | Iterable[Path | str],
        *,
        show_progress: bool = False,
        on_file: Callable[[Path], None] | None = None,
        prune: bool = False,
        dry_run: bool = False,
        retry_failed: bool = False,
        follow_links: bool = False,
        num_workers: int | None = None,
        limits: FetchLimits | None = None,
        media_limits: MediaLimits = LIMITS,
    ) -> IngestReport:
        """Take files and folders in. A run that was stopped goes on where it stopped when it is called again.

        Args:
            source: a path, a folder, an address such as ``https://...`` or ``s3://...``, or several of these.
            show_progress: show a bar on standard error.
            on_file: called with each path when it is its turn to be taken in.
            prune: take files out of the index that were in one of these folders and are gone.
            dry_run: change nothing; the report tells what would be done, as far as names and digests show that. Addresses
                are not fetched.
            retry_failed: also try files again that could not be decoded in an earlier run and have not changed since.
            follow_links: also take what links within folders lead to, wherever that is.
            num_workers: processes that decode; None for one on each processor, 0 to decode here, unprotected.
            limits: of what is fetched from elsewhere.
            media_limits: on each file, and on the processes that decode.
        """
        began = time.monotonic()
        report = IngestReport()
        given = [source] if isinstance(source, str | os.PathLike) else list(source)
        files = list_sources(given, report.problems, media_limits, follow_links=follow_links)
        with (
            DecodePool(num_workers, media_limits) as pool,
            tqdm(total=len(files), desc="ingest", unit="file", disable=not show_progress) as bar,
        ):
            run = Run(self.stages, report, pool, media_limits, bar, retry_failed=retry_failed)
            at_hand = [one for one in files if isinstance(one, Path)] if dry_run else files
            for found in examined(at_hand, self.stages.store, media_limits, limits):
                if on_file is not None:
                    on_file(Path(found.name))
                if dry_run:
                    run.look(found)
                else:
                    run.take(found)
            run.finish()
        for name in gone(self.stages.store, given, files) if prune else []:
            report.removed += 1  # at last, for a file that was moved keeps its nodes
            if not dry_run:
                self.stages.store.release(name)
        report.seconds = time.monotonic() - began
        return report

    def insert(
        self,
        documents: Sequence[BaseNode],
        *,
        show_progress: bool = False,
        num_workers: int | None = None,
        media_limits: MediaLimits = LIMITS,
    ) -> IngestReport:
        """Take documents in: media nodes, LlamaIndex documents, images and text nodes.

        Documents of LlamaIndex's own that hold an image or a sound become media nodes; images in memory are kept in the
        store's media folder. A document with an id that is there already replaces the old one.

        Args:
            documents: what to take in.
            show_progress: show a bar on standard error.
            num_workers: as in `ingest`.
            media_limits: as in `ingest`.

        Raises:
            MediaError, EncodeError: a document can't be decoded or encoded; the first such error. The other documents have
                been stored.
        """
        report = IngestReport()
        with (
            DecodePool(num_workers, media_limits) as pool,
            tqdm(total=len(documents), desc="insert", unit="document", disable=not show_progress) as bar,
        ):
            run = Run(self.stages, report, pool, media_limits, bar)
            for document in documents:
                run.take_document(document)
            run.finish()
        if run.errors:
            raise run.errors[0]
        return report
