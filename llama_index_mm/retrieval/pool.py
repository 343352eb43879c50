"""The nodes that a query may be answered with, and what every channel says of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray

from llama_index_mm.media import Modality
from llama_index_mm.nodes import modality_of_node
from llama_index_mm.retrieval.channels import Channel
from llama_index_mm.retrieval.foreign import ForeignHit, ForeignList
from llama_index_mm.stores import MediaStore

__all__ = ["Item", "Judge", "Judged", "Pool", "Scores", "matched"]

Item = int | str
"""Number of a node in the store, or id of one that another retriever found elsewhere."""

Judged = tuple[float | None, float]
"""Raw similarity, None if another retriever gave none; score in [0, 1]."""

Scores = Callable[[Channel, NDArray[np.floating], Sequence[int]], NDArray[np.floating]]
"""Turns a channel's raw similarities to nodes of these numbers, ``(n,)``, into scores."""


@dataclass(frozen=True)
class Judge:
    """Who judges nodes of one modality: a channel, or another retriever.

    Attributes:
        part: as in `ChannelReason`.
        space: as in `ChannelReason`.
        modality: of what it judges.
        weight: in the fusion.
        negative: whether it tells what is not wanted.
    """

    part: str
    space: str
    modality: Modality
    weight: float
    negative: bool


class Pool:
    """Candidates of one query.

    Args:
        store: where the vectors are.
        channels: of the query.
        foreign: for each other retriever, as a judge of one modality, what it said of items.
        scores: how raw similarities become scores.
        depth: how many nodes a channel gives in one search.
    """

    def __init__(
        self,
        store: MediaStore,
        channels: Sequence[Channel],
        foreign: Sequence[tuple[Judge, Mapping[Item, ForeignHit]]],
        scores: Scores,
        depth: int,
    ) -> None:
        self._store = store
        self._channels = channels
        self._foreign = foreign
        self._scores = scores
        self._depth = depth
        self._seqs: dict[Modality, set[int]] = {}
        own = [Judge(one.part, one.space.name, one.modality, one.weight, one.negative) for one in channels]
        self.judges = [*own, *(judge for judge, _ in foreign)]
        self.elsewhere = {item: hit for _, hits in foreign for item, hit in hits.items() if isinstance(item, str)}
        for judge, hits in foreign:
            self.add(judge.modality, (item for item in hits if isinstance(item, int)))

    @property
    def modalities(self) -> list[Modality]:
        """What the channels look for."""
        return list(dict.fromkeys(judge.modality for judge in self.judges if not judge.negative))

    @property
    def seqs(self) -> NDArray[np.int64]:
        """Numbers of the candidates in the store, ascending."""
        return np.array(sorted(set().union(*self._seqs.values())), dtype=np.int64)

    def add(self, modality: Modality, seqs: Iterable[int]) -> None:
        """Add candidates."""
        self._seqs.setdefault(modality, set()).update(seqs)

    def search(self, among: NDArray[np.int64] | None, full: Collection[str] = ()) -> bool:
        """Add the nearest of every channel but the negative ones; tell whether there may be more.

        Args:
            among: numbers to choose from; None for all.
            full: modalities that are not wanted any more.
        """
        more = False
        # One after the other: the store itself reads large partitions in threads, and for small ones these only cost.
        for channel, judge in zip(self._channels, self.judges, strict=False):
            if judge.negative or channel.modality in full:
                continue
            space = channel.space
            hits = self._store.search(
                space.name, channel.modality, channel.vector, self._depth, among, fingerprint=space.fingerprint
            )
            self.add(channel.modality, (hit.seq for hit in hits))
            more |= len(hits) == self._depth
        return more

    def judge(self) -> list[dict[Item, Judged]]:
        """For each judge: what it says of every candidate of its modality that it can judge."""
        ordered = {modality: sorted(seqs) for modality, seqs in self._seqs.items()}
        lists: list[dict[Item, Judged]] = []
        for channel in self._channels:
            seqs = ordered.get(channel.modality, [])
            if not seqs:
                lists.append({})
                continue
            raw = self._store.similarities(channel.space.name, channel.modality, channel.vector, seqs)
            scores = self._scores(channel, raw, seqs)
            judged = zip(seqs, raw.tolist(), scores.tolist(), strict=True)
            lists.append({seq: (value, score) for seq, value, score in judged if value == value})  # NaN: has no vector
        for _, hits in self._foreign:
            lists.append({item: (hit.raw, hit.score) for item, hit in hits.items()})
        return lists

    def groups(self, lists: Sequence[Mapping[Item, Judged]]) -> dict[Item, list[int]]:
        """For each item that anybody wants, the judges that can find it: of its modality, and for foreign ones only foreign."""
        wanting = [at for at, judge in enumerate(self.judges) if not judge.negative]
        of = {
            (modality, own): [
                at for at in wanting if self.judges[at].modality == modality and (own or at >= len(self._channels))
            ]
            for modality in {judge.modality for judge in self.judges}
            for own in (True, False)
        }
        return {item: of[self.judges[at].modality, isinstance(item, int)] for at in wanting for item in lists[at]}

    def likeness(self, items: Sequence[Item], modalities: Mapping[Item, Modality]) -> Callable[[int], NDArray[np.float64]]:
        """How like one item the others are, by its position: ``(n,)`` in [0, 1].

        Two nodes are held against each other in the space that weighs most of those in which both have a vector, and scored
        like a query that is the first of them. Nodes that share no space, and those of other retrievers, are not alike.
        """
        spaces: dict[str, Channel] = {}
        for channel, judge in zip(self._channels, self.judges, strict=False):
            if not judge.negative and channel.weight > getattr(spaces.get(channel.space.name), "weight", 0.0):
                spaces[channel.space.name] = channel
        heaviest = sorted(spaces.values(), key=lambda channel: -channel.weight)
        places: dict[Modality, tuple[list[int], list[int]]] = {}
        for at, item in enumerate(items):
            if isinstance(item, int):
                rows, seqs = places.setdefault(modalities[item], ([], []))
                rows.append(at)
                seqs.append(item)

        def row(at: int) -> NDArray[np.float64]:
            like = np.full(len(items), np.nan)
            item = items[at]
            for channel in heaviest if isinstance(item, int) else ():
                own, space = modalities[item], channel.space
                vector = self._store.vectors(space.name, own, [int(item)])[0]
                if own not in space.encoders or not vector.any():
                    continue
                asked: Modality = "text" if space.encoders[own].payload == "text" else own
                for modality, (rows, seqs) in places.items():
                    raw = self._store.similarities(space.name, modality, vector, seqs)
                    scores = self._scores(replace(channel, asked=asked, modality=modality, vector=vector), raw, seqs)
                    missing = np.isnan(like[rows])
                    like[rows] = np.where(missing & ~np.isnan(raw), scores, like[rows])
            return np.where(np.isnan(like), 0.0, like)

        return row


def matched(
    found: ForeignList,
    store: MediaStore,
    among: NDArray[np.int64] | None,
    modalities: Collection[Modality],
    passes: Callable[[BaseNode], bool],
) -> dict[Modality, dict[Item, ForeignHit]]:
    """What another retriever found, by modality: as nodes of the store where they are there, by their ids where they aren't.

    Args:
        found: by the retriever.
        store: to look in.
        among: numbers of nodes that may be found; None for all.
        modalities: that may be found; empty for all.
        passes: whether a node from elsewhere may be found.
    """
    seqs = store.find(node_ids=list(found.hits)) if found.hits else np.zeros(0, np.int64)
    ours = {node.node_id: (seq, modality_of_node(node)) for seq, node in store.nodes(seqs.tolist()).items()}
    allowed = set((seqs if among is None else np.intersect1d(seqs, among)).tolist())
    out: dict[Modality, dict[Item, ForeignHit]] = {}
    for node_id, hit in found.hits.items():
        item: Item = node_id
        modality = modality_of_node(hit.node)
        if node_id in ours:
            item, modality = ours[node_id]
            if item not in allowed:
                continue
        elif not passes(hit.node):
            continue
        if not modalities or modality in modalities:
            out.setdefault(modality, {})[item] = hit
    return out
