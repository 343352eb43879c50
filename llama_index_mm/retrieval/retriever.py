"""The retriever that fuses embedding spaces."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.retrieval.channels import Channel, Hear, plan
from llama_index_mm.retrieval.fusion import FUSIONS, Fused, Fusion, normalise
from llama_index_mm.retrieval.query import parts_of
from llama_index_mm.retrieval.reasons import ChannelReason, attach_reasons
from llama_index_mm.stores import MediaStore

__all__ = ["FusionRetriever", "Weights"]

Weights = Mapping[str, float]
"""Weight by space, by ``space:modality``, or by ``part:space:modality``; the most exact one counts, and 1 if there is none."""

_CANDIDATES = 5  # times k are taken from each channel before fusion
_LEAST = 50
_SAMPLE = 256  # stored vectors that a query is held against to learn what is usual


class FusionRetriever(BaseRetriever):
    """Search every space that a query can be asked in, and make one ranking of what is found.

    For each channel the ``5 k`` nearest nodes are taken (50 at least). Every node that any channel found is then scored in
    all channels that can find its modality, so a node is never worse off because one list was cut short. Raw similarities
    become comparable by `normalise`; then the fusion weighs them. Nodes come back as copies with their reasons.

    Args:
        store: where the vectors are.
        spaces: what to ask, with their encoders.
        similarity_top_k: how many nodes to give; that many come while that many match.
        modalities: what to look for. Empty: everything for a query with words, and for a query without words what is of
            its own kind (a picture finds pictures; a recording finds recordings, and texts that say what is said in it).
        filters: metadata filters on every query.
        fusion: ``"convex"`` or ``"reciprocal_rank"``.
        weights: see `Weights`.
        hear: turns an audio part into words, so that speech can be asked with.
    """

    def __init__(
        self,
        store: MediaStore,
        spaces: Sequence[EmbeddingSpace],
        *,
        similarity_top_k: int = 5,
        modalities: Sequence[Modality] = (),
        filters: MetadataFilters | None = None,
        fusion: Fusion = "convex",
        weights: Weights | None = None,
        hear: Hear | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if similarity_top_k < 1:
            raise QueryError(f"similarity_top_k must be at least 1, got {similarity_top_k}.")
        if fusion not in FUSIONS:
            raise QueryError(f"Unknown fusion {fusion!r}; there are: {', '.join(FUSIONS)}.")
        unknown = [modality for modality in modalities if modality not in MODALITIES]
        if unknown:
            raise QueryError(f"Unknown modalities {unknown}; there are: {', '.join(MODALITIES)}.")
        if wrong := {key: weight for key, weight in (weights or {}).items() if not 0 <= weight < float("inf")}:
            raise QueryError(f"Weights must be numbers of at least 0, got {wrong}.")
        super().__init__(callback_manager=callback_manager)
        self._store = store
        self._spaces = tuple(spaces)
        self._k = similarity_top_k
        self._modalities = tuple(modalities)
        self._filters = filters
        self._fusion = fusion
        self._weights = dict(weights or {})
        self._hear = hear

    def _weight(self, part: str, space: str, modality: str) -> float:
        for key in (f"{part}:{space}:{modality}", f"{space}:{modality}", space):
            if key in self._weights:
                return self._weights[key]
        return 1.0

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        channels = self._plan(query_bundle)
        among = self._among(query_bundle)
        lists = self._search(channels, among)
        fused = self._fuse(channels, lists)
        best = sorted(fused, key=lambda seq: (-fused[seq].score, seq))[: self._k]
        return self._nodes(best, fused, channels, lists)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _plan(self, query: QueryBundle) -> list[Channel]:
        only = getattr(query, "spaces", ())
        known = {space.name for space in self._spaces}
        if unknown := [name for name in only if name not in known]:
            raise QueryError(f"Unknown spaces {unknown}; this index has: {', '.join(sorted(known))}.")
        spaces = [space for space in self._spaces if not only or space.name in only]
        wanted: Sequence[Modality] = getattr(query, "modalities", ()) or self._modalities
        return plan(parts_of(query), spaces, wanted, self._weight, self._hear)

    def _among(self, query: QueryBundle) -> NDArray[np.int64] | None:
        """Numbers of the nodes that pass the filters of the retriever and of the query; None without filters."""
        among = None
        for filters in (self._filters, getattr(query, "filters", None)):
            if filters is not None:
                passed = self._store.find(filters=filters)
                among = passed if among is None else np.intersect1d(among, passed)
        return among

    def _search(self, channels: Sequence[Channel], among: NDArray[np.int64] | None) -> list[dict[int, tuple[float, float]]]:
        """For each channel: raw similarity and normalised score of every candidate of its modality."""
        depth = max(_LEAST, _CANDIDATES * self._k)
        candidates: dict[str, set[int]] = {}
        for channel in channels:
            space = channel.space
            hits = self._store.search(space.name, channel.modality, channel.vector, depth, among, fingerprint=space.fingerprint)
            candidates.setdefault(channel.modality, set()).update(hit.seq for hit in hits)
        lists: list[dict[int, tuple[float, float]]] = []
        for channel in channels:
            seqs = sorted(candidates[channel.modality])
            raw = self._store.similarities(channel.space.name, channel.modality, channel.vector, seqs)
            background = self._store.sample(channel.space.name, channel.modality, _SAMPLE) @ channel.vector
            usual = channel.space.background.get((channel.asked, channel.modality))
            known = (usual.mean, usual.deviation) if usual is not None else None
            lists.append(
                {
                    seq: (float(value), normalise(float(value), background, known=known))
                    for seq, value in zip(seqs, raw, strict=True)
                    if not np.isnan(value)
                }
            )
        return lists

    def _fuse(self, channels: Sequence[Channel], lists: Sequence[Mapping[int, tuple[float, float]]]) -> dict[int, Fused]:
        groups: dict[int, list[int]] = {}
        of = {
            modality: [at for at, channel in enumerate(channels) if channel.modality == modality]
            for modality in {channel.modality for channel in channels}
        }
        for channel, found in zip(channels, lists, strict=True):
            groups.update(dict.fromkeys(found, of[channel.modality]))
        scores = [{seq: score for seq, (_, score) in found.items()} for found in lists]
        fused: dict[int, Fused] = FUSIONS[self._fusion](scores, [channel.weight for channel in channels], groups)
        return fused

    def _nodes(
        self,
        seqs: Sequence[int],
        fused: Mapping[int, Fused],
        channels: Sequence[Channel],
        lists: Sequence[Mapping[int, tuple[float, float]]],
    ) -> list[NodeWithScore]:
        nodes: dict[int, Any] = self._store.nodes(seqs)
        out = []
        for seq in seqs:
            if seq not in nodes:  # deleted by another process between search and now
                continue
            reasons = [
                ChannelReason(channels[at].part, channels[at].space.name, *lists[at][seq], channels[at].weight, share)
                for at, share in fused[seq].contributions.items()
            ]
            attach_reasons(nodes[seq], sorted(reasons, key=lambda reason: -reason.contribution))
            out.append(NodeWithScore(node=nodes[seq], score=fused[seq].score))
        return out
