"""The retriever that fuses embedding spaces."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import MetadataFilters
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.retrieval.calibration import Calibration
from llama_index_mm.retrieval.candidates import Candidates, gather
from llama_index_mm.retrieval.channels import Channel, Hear, plan, stored_in
from llama_index_mm.retrieval.foreign import ForeignHit, ForeignList, OnError, aask, ask, passes
from llama_index_mm.retrieval.fusion import FUSIONS, Fusion, Ranking, normalise_all, subtract
from llama_index_mm.retrieval.pool import Item, Judge, Judged, Pool, matched
from llama_index_mm.retrieval.query import filters_of, parts_of
from llama_index_mm.retrieval.select import Selection
from llama_index_mm.retrieval.selecting import Selecting
from llama_index_mm.stores import Among, NodeStore

__all__ = ["FusionRetriever", "Weights"]

Weights = Mapping[str, float]
"""Weight by space, by ``space:modality``, or by ``part:space:modality``; the most exact one counts, and 1 if there is none."""

_CANDIDATES = 5  # times k are taken from each channel before fusion
_LEAST = 50
_SAMPLE = 256  # stored vectors that a query is held against to learn what is usual
_QUERY = "query"  # part that other retrievers are asked with
_PARTS = (*MODALITIES, "speech", _QUERY)


class FusionRetriever(BaseRetriever):
    """Search every space that a query can be asked in, and make one ranking of what is found.

    For each channel the ``5 k`` nearest nodes are taken (50 at least). Every node that any channel found is then scored in
    all channels that can find its modality, so a node is never worse off because one list was cut short. Raw similarities
    become comparable by the calibration, or by `normalise` where there is none; then the fusion weighs them, and what is not
    wanted is taken away by `subtract`. Nodes come back as copies with their reasons, by score.

    Args:
        store: where the vectors are.
        spaces: what to ask, with their encoders.
        similarity_top_k: how many nodes to give; that many come while that many match.
        modalities: what to look for. Empty: everything for a query with words, and for a query without words what is of
            its own kind (a picture finds pictures; a recording finds recordings, and texts that say what is said in it).
        filters: metadata filters on every query.
        fusion: ``"convex"``, ``"reciprocal_rank"``, ``"distribution_based"`` or ``"maximum"``.
        weights: see `Weights`; other retrievers are weighed by their names like spaces. A name that is neither is refused.
        hear: turns an audio part into words, so that speech can be asked with.
        at_least: seats kept for a modality or a language, such as ``{"image": 2, "language:zh": 1}``. They are filled with
            the best of it, as far as there is any that matches.
        at_most: seats that a modality or a language may take; the rest goes to others.
        similarity_cutoff: score in [0, 1] below which nothing is given.
        collapse: ``"document"`` to give only the best node of each document, so that k results are k documents.
        expand: with ``collapse``, give this many of the best nodes of each of the k documents: up to ``k * expand`` results.
        diversity: in [0, 1]; above 0, nodes that are like better ones give way (maximal marginal relevance).
        retrievers: other LlamaIndex retrievers by name, such as BM25. They are asked with the words of a query, if it has
            any. What they find counts among the modalities of what they find; nodes that are not in the store come back as
            copies. Their scores are scaled list by list, see `read_results`. Filters hold for them, too.
        on_error: ``"skip"`` to go on without another retriever that fails, with a warning in the log.
        calibration: makes scores of similarities; a channel that it does not know is scored by `normalise`.
        language_balance: in [0, 1], share of what usually sets the languages of recordings and texts apart that is taken
            away; needs a calibration. It brings languages that a query is not in to the front, at the cost of the others.
    """

    def __init__(
        self,
        store: NodeStore,
        spaces: Sequence[EmbeddingSpace],
        *,
        similarity_top_k: int = 5,
        modalities: Sequence[Modality] = (),
        filters: MetadataFilters | None = None,
        fusion: Fusion = "convex",
        weights: Weights | None = None,
        hear: Hear | None = None,
        at_least: Mapping[str, int] | None = None,
        at_most: Mapping[str, int] | None = None,
        similarity_cutoff: float | None = None,
        collapse: Literal["document"] | None = None,
        expand: int | None = None,
        diversity: float = 0.0,
        retrievers: Mapping[str, BaseRetriever] | None = None,
        on_error: OnError = "raise",
        calibration: Calibration | None = None,
        language_balance: float = 0.0,
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
        if taken := sorted({space.name for space in spaces} & set(retrievers or ())):
            raise QueryError(f"The names {', '.join(taken)} of other retrievers are names of spaces. Give them other names.")
        _check_names(weights or {}, [*(space.name for space in spaces), *(retrievers or ())])
        if on_error not in ("raise", "skip"):
            raise QueryError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        if not 0 <= language_balance <= 1:
            raise QueryError(f"language_balance must be in [0, 1], got {language_balance}.")
        self._selection = Selection(dict(at_least or {}), dict(at_most or {}), similarity_cutoff, collapse, expand, diversity)
        self._selection.check_seats(similarity_top_k)
        super().__init__(callback_manager=callback_manager)
        self._store = store
        self._spaces = tuple(spaces)
        self._k = similarity_top_k
        self._modalities = tuple(modalities)
        self._filters = filters
        self._fusion = fusion
        self._weights = dict(weights or {})
        self._hear = hear
        self._retrievers = dict(retrievers or {})
        self._on_error = on_error
        self._calibration = calibration
        self._prints = {space.name: space.fingerprint for space in spaces} if calibration is not None else {}
        self._balance = language_balance

    def _weight(self, part: str, space: str, modality: str) -> float:
        for key in (f"{part}:{space}:{modality}", f"{space}:{modality}", space):
            if key in self._weights:
                return self._weights[key]
        return 1.0

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._answer(query_bundle, *self._found(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._answer, query_bundle, *await self._afound(query_bundle))

    def candidates(self, query: QueryType) -> Candidates:
        """Give what every channel says of the nodes that a query may be answered with: to look at, or to fit weights to.

        It is what `retrieve` makes its first ranking of; seats, cutoff, collapse and diversity come after it.

        Raises:
            QueryError: as `retrieve`.
        """
        bundle = QueryBundle(query) if isinstance(query, str) else query
        return self._candidates(bundle, *self._found(bundle))

    async def acandidates(self, query: QueryType) -> Candidates:
        """Like `candidates`, off the event loop."""
        bundle = QueryBundle(query) if isinstance(query, str) else query
        return await asyncio.to_thread(self._candidates, bundle, *await self._afound(bundle))

    def _found(self, query: QueryBundle) -> tuple[list[Channel], list[ForeignList]]:
        """The channels of a query, and what other retrievers found."""
        channels = self._plan(query)
        return channels, ask(*self._asked(query), self._on_error)

    async def _afound(self, query: QueryBundle) -> tuple[list[Channel], list[ForeignList]]:
        planned, asked = await asyncio.gather(
            asyncio.to_thread(self._plan, query),
            aask(*self._asked(query), self._on_error),
            return_exceptions=True,  # so that nothing is left running
        )
        if isinstance(planned, BaseException):
            raise planned
        if isinstance(asked, BaseException):
            raise asked
        return planned, asked

    def _plan(self, query: QueryBundle) -> list[Channel]:
        only = getattr(query, "spaces", ())
        known = {space.name for space in self._spaces}
        if unknown := [name for name in only if name not in known]:
            raise QueryError(f"Unknown spaces {unknown}; this index has: {', '.join(sorted(known))}.")
        spaces = [space for space in self._spaces if not only or space.name in only]
        parts = parts_of(query)
        others = bool(self._asked(query)[0])  # which are enough
        if not spaces and others:
            return []
        wanted = self._wanted(query)
        return plan(parts, spaces, wanted, self._weight, self._hear, stored_in(self._store), needed=not others)

    def _wanted(self, query: QueryBundle) -> Sequence[Modality]:
        return getattr(query, "modalities", ()) or self._modalities

    def _asked(self, query: QueryBundle) -> tuple[dict[str, BaseRetriever], str]:
        """Other retrievers that the query is for, and its words."""
        words = query.query_str.strip()
        weights = {
            name: max(self._foreign_weight(query, name, modality) for modality in self._wanted(query) or MODALITIES)
            for name in self._retrievers
        }
        return {name: one for name, one in self._retrievers.items() if words and weights[name] > 0}, words

    def _foreign_weight(self, query: QueryBundle, name: str, modality: str) -> float:
        return self._weight(_QUERY, name, modality) * float(getattr(query, "part_weights", {}).get("text", 1.0))

    def _among(self, query: QueryBundle) -> Among | None:
        """The nodes that pass the filters of the retriever and of the query; None without filters."""
        among = None
        for filters in (self._filters, filters_of(query)):
            if filters is not None:
                passed = self._store.among(filters=filters)
                among = passed if among is None else among & passed
        return among

    def _answer(self, query: QueryBundle, channels: Sequence[Channel], foreign: Sequence[ForeignList]) -> list[NodeWithScore]:
        among = self._among(query)
        pool = self._pool(query, channels, foreign, among)
        return Selecting(self._store, pool, self._fuse, self._selection, self._k).results(among)

    def _pool(
        self,
        query: QueryBundle,
        channels: Sequence[Channel],
        foreign: Sequence[ForeignList],
        among: Among | None,
    ) -> Pool:
        judged = self._judged(query, foreign, among)
        return Pool(self._store, channels, judged, self._scores, max(_LEAST, _CANDIDATES * self._k))

    def _candidates(self, query: QueryBundle, channels: Sequence[Channel], foreign: Sequence[ForeignList]) -> Candidates:
        among = self._among(query)
        pool = self._pool(query, channels, foreign, among)
        pool.search(among)
        return gather(pool, self._store, channels, self._weight, self._fusion)

    def _judged(
        self, query: QueryBundle, foreign: Sequence[ForeignList], among: Among | None
    ) -> list[tuple[Judge, dict[Item, ForeignHit]]]:
        """What other retrievers found, as judges of one modality each."""
        out = []
        filters = [one for one in (self._filters, filters_of(query)) if one is not None]
        for found in foreign:
            by_modality = matched(
                found, self._store, among, self._wanted(query), lambda node: all(passes(node, one) for one in filters)
            )
            for modality, hits in by_modality.items():
                weight = self._foreign_weight(query, found.name, modality)
                out.append((Judge(_QUERY, found.name, modality, weight, negative=False), hits))
        return out

    def _scores(self, channel: Channel, raw: NDArray[np.floating], seqs: Sequence[int]) -> NDArray[np.floating]:
        """Scores of a channel's raw similarities to nodes of one modality; NaN stays NaN."""
        space = channel.space
        if self._calibration is not None:
            key = (space.name, channel.asked, channel.modality)
            scores = self._calibration.scores(
                self._store, key, self._prints[space.name], raw, seqs, self._balance, channel.script
            )
            if scores is not None:
                return scores
        background = self._store.sample(channel.space.name, channel.modality, _SAMPLE) @ channel.vector
        usual = channel.space.background.get((channel.asked, channel.modality))
        return normalise_all(raw, background, known=(usual.mean, usual.deviation) if usual is not None else None)

    def _fuse(self, pool: Pool, lists: Sequence[Judged]) -> Ranking[Item]:
        scores = [found.scores for found in lists]
        weights = [judge.weight for judge in pool.judges]
        fused: Ranking[Item] = FUSIONS[self._fusion](scores, weights, pool.groups(lists))
        unwanted = {at: scores[at] for at, judge in enumerate(pool.judges) if judge.negative}
        return subtract(fused, unwanted, dict(enumerate(weights))) if unwanted else fused


def _check_names(weights: Weights, names: Sequence[str]) -> None:
    """Refuse weights of what can't be a channel; modalities of which nothing is stored yet may have theirs."""
    known = set(names)

    def is_known(key: str) -> bool:
        if key in known:
            return True
        space, _, modality = key.rpartition(":")
        if modality not in MODALITIES:
            return False
        part, _, name = space.partition(":")
        return space in known or (part in _PARTS and name in known)

    if unknown := [key for key in weights if not is_known(key)]:
        raise QueryError(
            f"Unknown weights {unknown}. Expected names of spaces or other retrievers ({', '.join(dict.fromkeys(names))}), "
            f"alone, as NAME:MODALITY with one of {', '.join(MODALITIES)}, or as PART:NAME:MODALITY with a part of "
            f"{', '.join(_PARTS)}."
        )
