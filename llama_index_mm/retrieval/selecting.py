"""From a pool of candidates to the nodes that are given."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np
from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from llama_index_mm.media import Modality
from llama_index_mm.nodes import PREFIX
from llama_index_mm.retrieval.asked import document_of
from llama_index_mm.retrieval.foreign import copy_of
from llama_index_mm.retrieval.fusion import Ranking
from llama_index_mm.retrieval.pool import Item, Judged, Pool
from llama_index_mm.retrieval.reasons import ChannelReason, attach_reasons
from llama_index_mm.retrieval.select import LANGUAGE, Selection, best_of_each, choose
from llama_index_mm.stores import Among, NodeStore

__all__ = ["Fuse", "Selecting"]

Fuse = Callable[[Pool, Sequence[Judged]], Ranking[Item]]
"""Makes one ranking of what the judges of a pool say."""

_LANGUAGE = PREFIX + "language"


class Selecting:
    """Ranks a pool, searches on where quotas or documents leave seats empty, and gives what is chosen.

    Args:
        store: where the nodes are.
        pool: of candidates; it grows.
        fuse: makes one ranking.
        selection: what to choose of it.
        k: how many.
    """

    def __init__(self, store: NodeStore, pool: Pool, fuse: Fuse, selection: Selection, k: int) -> None:
        self._store = store
        self._pool = pool
        self._fuse = fuse
        self._selection = selection
        self._k = k
        self._nodes: dict[Item, BaseNode] = {item: hit.node for item, hit in pool.elsewhere.items()}
        self._spoken: dict[str, Among] = {}  # nodes of the languages that have quotas, by key
        self._lists: list[Judged] = []
        self._fused: Ranking[Item] = Ranking({}, lambda _: {})
        self._ranked: dict[Item, float] = {}

    def results(self, among: Among | None) -> list[NodeWithScore]:
        """The nodes that are chosen, as copies with their reasons, by score.

        Args:
            among: nodes to choose from; None for all.
        """
        for code in self._selection.languages:
            filters = MetadataFilters(filters=[MetadataFilter(key=_LANGUAGE, value=code.lower())])
            self._spoken[LANGUAGE + code] = self._store.among(filters=filters)
        more = self._pool.search(among)
        for key, speaking in self._spoken.items():
            if self._selection.at_least.get(key):
                more |= self._pool.search(speaking if among is None else among & speaking)
        closed = self._rank()
        chosen = self._choose()
        left = among
        while more and closed < set(self._pool.modalities) and (len(chosen) < self._k or self._lacking(chosen)):
            left, full = self._left(left, chosen)
            if left.is_empty:
                break
            kinds = None if len(chosen) < self._k else self._lacking(chosen)
            more = self._search_on(left, closed.union(full), kinds)
            closed |= self._rank()
            chosen = self._choose()
        return self._given(chosen if self._selection.expand is None else self._expanded(among, chosen))

    def _lacking(self, chosen: Sequence[Item]) -> list[str]:
        """Kinds that have fewer seats than are kept for them: one document may have filled all that was searched of a kind."""
        if self._selection.collapse is None or not self._selection.at_least:
            return []
        seats = Counter(kind for kinds in self._kinds(chosen).values() for kind in kinds)
        return [kind for kind, least in self._selection.at_least.items() if seats[kind] < least]

    def _search_on(self, left: Among, closed: Collection[str], kinds: Sequence[str] | None) -> bool:
        """Search among what is left, only for some kinds if told so; tell whether there may be more."""
        if kinds is None:
            return self._pool.search(left, closed)
        more = False
        if wanted := set(kinds) - self._spoken.keys():
            more = self._pool.search(left, {*closed, *(set(self._pool.modalities) - wanted)})
        for key in kinds:
            if key in self._spoken and not (spoken := left & self._spoken[key]).is_empty:
                more |= self._pool.search(spoken, closed)
        return more

    def _rank(self) -> set[Modality]:
        """Rank the pool; gives modalities of which nothing new passes the cutoff, so that nothing beyond it will."""
        known = self._ranked
        self._lists = self._pool.judge()
        self._fused = self._fuse(self._pool, self._lists)
        scores = self._fused.scores
        # Of equal scores the older node comes first; those from elsewhere come last.
        elsewhere = scores.keys() & self._pool.elsewhere.keys()
        items = [*sorted(scores.keys() - elsewhere), *sorted(elsewhere)]
        least = self._selection.similarity_cutoff or 0.0
        order = sorted(items, key=scores.__getitem__, reverse=True)  # which keeps the order of equal ones
        self._ranked = {item: score for item in order if (score := scores[item]) >= least}
        if len(self._ranked) == len(order):
            return set()
        modalities = self._modalities()
        return set(self._pool.modalities) - {modalities[item] for item in self._ranked.keys() - known.keys()}

    def _choose(self) -> list[Item]:
        selection, ranked = self._selection, self._ranked
        plain = not selection.at_least and not selection.at_most and not selection.diversity
        if selection.collapse is not None:
            ranked = {item: ranked[item] for item in best_of_each(list(ranked), self._documents, self._k if plain else None)}
        if plain:
            return list(ranked)[: self._k]
        likeness = self._pool.likeness(list(ranked), self._modalities()) if selection.diversity else None
        return choose(
            ranked,
            self._k,
            kinds=self._kinds(list(ranked)),
            at_least=selection.at_least,
            at_most=selection.at_most,
            diversity=selection.diversity,
            likeness=likeness,
        )

    def _modalities(self) -> dict[Item, Modality]:
        judged = zip(self._pool.judges, self._lists, strict=True)
        return {item: judge.modality for judge, found in judged for item in found.scores}

    def _kinds(self, items: Sequence[Item]) -> dict[Item, list[str]]:
        """Modality of each item, and the keys of its language if there are quotas on it."""
        modalities = self._modalities()
        kinds: dict[Item, list[str]] = {item: [modalities[item]] for item in items}
        own = np.array([item for item in items if isinstance(item, int)], dtype=np.int64)
        for key, spoken in self._spoken.items():
            code = key.removeprefix(LANGUAGE).lower()
            speaking: list[Item] = [*spoken.only(own).tolist()]
            speaking += [item for item in items if isinstance(item, str) and self._nodes[item].metadata.get(_LANGUAGE) == code]
            for item in speaking:
                kinds[item].append(key)
        return kinds

    def _left(self, among: Among | None, chosen: Sequence[Item]) -> tuple[Among, list[str]]:
        """Nodes that are not known yet and may still be given; modalities that have all their seats."""
        seats = Counter(kind for kinds in self._kinds(chosen).values() for kind in kinds)
        full = [key for key, most in self._selection.at_most.items() if seats[key] >= most]
        closed = [self._pool.seqs]
        if self._selection.collapse is not None and chosen:
            closed.append(self._store.find(ref_doc_ids=list(self._documents(chosen).values())))
        left = self._store.among(modalities=self._pool.modalities) if among is None else among
        left = left.without(np.concatenate(closed))
        for key in full:
            left = left.but(self._spoken[key]) if key in self._spoken else left
        return left, [key for key in full if key not in self._spoken]

    def _expanded(self, among: Among | None, chosen: Sequence[Item]) -> list[Item]:
        """The best nodes of the documents of what is chosen, by score."""
        documents = set(self._documents(chosen).values())
        for modality in self._pool.modalities if documents else ():
            seqs = self._store.find(ref_doc_ids=sorted(documents), modalities=[modality])
            self._pool.add(modality, (seqs if among is None else among.only(seqs)).tolist())
        self._rank()
        of = {item: name for item, name in self._documents(list(self._ranked)).items() if name in documents}
        taken: Counter[str] = Counter()
        out = []
        for item in self._ranked:
            if item in of and taken[of[item]] < (self._selection.expand or 1):
                taken[of[item]] += 1
                out.append(item)
        return out

    def _documents(self, items: Sequence[Item]) -> dict[Item, str]:
        """The document of each item; a node that has none is its own. Items that are gone are left out."""
        self._load(items)
        return {item: document_of(node) for item in items if (node := self._nodes.get(item)) is not None}

    def _load(self, items: Sequence[Item]) -> None:
        missing = [item for item in items if isinstance(item, int) and item not in self._nodes]
        for seq, node in self._store.nodes(missing).items() if missing else ():
            self._nodes[seq] = node

    def _given(self, items: Sequence[Item]) -> list[NodeWithScore]:
        self._load(items)
        out = []
        for item in items:
            if item not in self._nodes:  # deleted by another process between search and now
                continue
            node = copy_of(self._nodes[item]) if isinstance(item, str) else self._nodes[item]
            fused = self._fused[item]
            reasons = [
                ChannelReason(
                    judge.part, judge.space, found.raws[item], found.scores[item], judge.weight, share, judge.negative
                )
                for at, share in fused.contributions.items()
                for judge, found in ((self._pool.judges[at], self._lists[at]),)
            ]
            attach_reasons(node, sorted(reasons, key=lambda reason: -reason.contribution))
            out.append(NodeWithScore(node=node, score=fused.score))
        return out
