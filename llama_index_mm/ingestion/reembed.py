"""An index brought to other encoders: only the spaces that changed are encoded anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.schema import BaseNode
from tqdm import tqdm

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.errors import EncodeError, MediaError, SpaceError
from llama_index_mm.ingestion.encode import encode_nodes, lives_in
from llama_index_mm.media import LIMITS, MediaLimits, Modality
from llama_index_mm.media.decode import Content
from llama_index_mm.media.pool import DecodePool, Decoding
from llama_index_mm.nodes import MediaNode, MeshMedia
from llama_index_mm.presets import Preset
from llama_index_mm.readers import Problem
from llama_index_mm.stores import NodeStore, Record

__all__ = ["UNFINISHED", "ReembedReport", "reembed"]

UNFINISHED = "~"  # before the name of a space that is being filled, until it takes the place of the old one
_BATCH = 32  # nodes that are encoded and stored together


@dataclass
class ReembedReport:
    """What was done to each space.

    Attributes:
        encoded: nodes that were encoded in this run, by space.
        kept: spaces that stayed as they were.
        dropped: spaces that the preset does not have.
        problems: nodes without a vector in a space, as their files can't be read any more.
    """

    encoded: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{name}: {count} nodes encoded" for name, count in self.encoded.items()]
        parts += [f"{name}: kept" for name in self.kept] + [f"{name}: dropped" for name in self.dropped]
        return ", ".join([*parts, f"{len(self.problems)} problems"])


def reembed(
    store: NodeStore,
    preset: Preset,
    spaces: Sequence[str] = (),
    *,
    show_progress: bool = False,
    num_workers: int | None = None,
    media_limits: MediaLimits = LIMITS,
) -> ReembedReport:
    """Bring the vectors of a store to a preset. Nodes, and the vectors of spaces that are the same, are not touched.

    A space is filled beside the old one, which can be searched meanwhile and is replaced in one transaction at the end. A run
    that was stopped goes on where it stopped when it is called again.

    Args:
        store: of the index.
        preset: with the new encoders.
        spaces: names of spaces to encode anew whatever their fingerprints say.
        show_progress: show a bar on standard error.
        num_workers: processes that decode, as in `Ingestor.ingest`.
        media_limits: as in `Ingestor.ingest`.

    Raises:
        SpaceError: the preset has no space of a name that was given.
    """
    wanted = {space.name: space for space in preset.spaces}
    if unknown := sorted(set(spaces) - set(wanted)):
        raise SpaceError(f"Preset {preset.name!r} has no space {unknown[0]!r}; it has {', '.join(wanted)}.")
    stored = store.spaces()
    report = ReembedReport()
    for name, space in wanted.items():
        same = name in stored and stored[name][:2] == (space.dimension, space.fingerprint)
        if same and name not in spaces:
            report.kept.append(name)
            continue
        _fill(store, space, report, show_progress, num_workers, media_limits)
        store.replace_space(name, by=UNFINISHED + name)
    for name in sorted(set(stored) - set(wanted)):
        store.drop_space(name)
        if not name.startswith(UNFINISHED):
            report.dropped.append(name)
    store.set_meta("preset", preset.name)
    return report


def _fill(
    store: NodeStore,
    space: EmbeddingSpace,
    report: ReembedReport,
    show_progress: bool,
    num_workers: int | None,
    limits: MediaLimits,
) -> None:
    """Encode every node into a space beside that of the same name."""
    name = UNFINISHED + space.name
    before = store.spaces().get(name)
    if before is not None and before[:2] != (space.dimension, space.fingerprint):
        store.drop_space(name)
    store.declare_space(name, space.dimension, space.fingerprint)
    report.encoded[space.name] = 0
    have = set(store.find(space=name).tolist())
    missing = {
        modality: [seq for seq in store.find(modalities=[modality]).tolist() if seq not in have] for modality in space.encoders
    }
    total = sum(map(len, missing.values()))
    with (
        DecodePool(num_workers, limits) as pool,
        tqdm(total=total, desc=space.name, unit="node", disable=not show_progress) as bar,
    ):
        for modality, seqs in missing.items():
            media = space.encoders[modality].payload != "text"
            for nodes, decoding in _decoded(store, space, modality, seqs, pool if media else None):
                report.encoded[space.name] += _store(store, space, name, nodes, decoding, limits, report)
                bar.update(len(nodes))


_Decodings = dict[str, Decoding | Content]


def _decoded(
    store: NodeStore, space: EmbeddingSpace, modality: Modality, seqs: Sequence[int], pool: DecodePool | None
) -> Iterator[tuple[list[BaseNode], _Decodings]]:
    """Nodes in batches, and their files on the way through the decoders, one batch ahead."""
    earlier: tuple[list[BaseNode], _Decodings] | None = None
    drawn = space.encoders[modality].payload == "views"  # of those that are kept, none is decoded again
    for at in range(0, len(seqs), _BATCH):
        nodes = [node for node in store.nodes(seqs[at : at + _BATCH]).values() if lives_in(node, space)]
        decodings: _Decodings = {}
        for node in nodes if pool is not None else ():
            if isinstance(node, MediaNode) and node.digest not in decodings and not (drawn and _has_views(node)):
                shared = earlier[1].get(node.digest) if earlier else None  # a recording with many spans
                decodings[node.digest] = shared or pool.submit(node.path, modality)  # type: ignore[union-attr]
        if earlier is not None:
            yield earlier
        earlier = (nodes, decodings)
    if earlier is not None:
        yield earlier


def _has_views(node: BaseNode) -> bool:
    return isinstance(node, MeshMedia) and node.views is not None and node.views.is_file()


def _store(
    store: NodeStore,
    space: EmbeddingSpace,
    name: str,
    nodes: list[BaseNode],
    decodings: _Decodings,
    limits: MediaLimits,
    report: ReembedReport,
) -> int:
    """Encode a batch into the space ``name``; gives how many nodes got a vector."""
    contents: dict[str, Content] = {}
    errors: dict[str, Exception] = {}
    for digest, one in decodings.items():
        try:
            contents[digest] = one.result() if isinstance(one, Decoding) else one
        except MediaError as error:
            errors[digest] = error
    good = []
    for node in nodes:
        if isinstance(node, MediaNode) and node.digest in errors:
            report.problems.append(_problem(node, errors[node.digest]))
        else:
            good.append(node)
    records = _encode(good, space, Loaded(contents, limits), report)
    store.add([Record(record.node, {name: record.vectors[space.name]}) for record in records])
    return len(records)


def _encode(nodes: list[BaseNode], space: EmbeddingSpace, loaded: Loaded, report: ReembedReport) -> list[Record]:
    try:
        return encode_nodes(nodes, [space], loaded)
    except (MediaError, EncodeError) as error:
        if len(nodes) > 1:
            return [record for node in nodes for record in _encode([node], space, loaded, report)]
        report.problems += [_problem(node, error) for node in nodes]
        return []


def _problem(node: Any, error: Exception) -> Problem:
    return Problem.of(getattr(node, "path", node.node_id), str(error))
