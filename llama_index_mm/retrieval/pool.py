"""The nodes that a query may be answered with, and what every channel says of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray

from llama_index_mm.media import Modality
from llama_index_mm.nodes import modality_of_node
from llama_index_mm.retrieval.channels import Channel
from llama_index_mm.retrieval.foreign import ForeignHit, ForeignList
from llama_index_mm.stores import Among, NodeStore

__all__ = ["Item", "Judge", "Judged", "Pool", "Scores", "matched"]

Item = int | str
"""Number of a node in the store, or id of one that another retriever found elsewhere."""

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


class Judged(NamedTuple):
    """What one judge says of items.

    Attributes:
        raws: raw similarities; None if another retriever gave none.
        scores: in [0, 1], of the same items.
    """

    raws: Mapping[Item, float | None]
    scores: Mapping[Item, float]


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
        store: NodeStore,
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
        self._fingerprints = {
            space.name: space.fingerprint for space in {one.space.name: one.space for one in channels}.values()
        }
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

    def search(self, among: Among | None, full: Collection[str] = ()) -> bool:
        """Add the nearest of every channel but the negative ones; tell whether there may be more.

        Args:
            among: nodes to choose from; None for all.
            full: modalities that are not wanted any more.
        """
        more = False
        # One after the other: the store itself reads large partitions in threads, and for small ones these only cost.
        for channel, judge in zip(self._channels, self.judges, strict=False):
            if judge.negative or channel.modality in full:
                continue
            name = channel.space.name
            hits = self._store.search(
                name, channel.modality, channel.vector, self._depth, among, fingerprint=self._fingerprints[name]
            )
            self.add(channel.modality, [hit.seq for hit in hits])
            more |= len(hits) == self._depth
        return more

    def judge(self) -> list[Judged]:
        """For each judge: what it says of every candidate of its modality that it can judge."""
        ordered = {modality: sorted(seqs) for modality, seqs in self._seqs.items()}
        lists: list[Judged] = []
        for channel in self._channels:
            seqs = ordered.get(channel.modality, [])
            if not seqs:
                lists.append(Judged({}, {}))
                continue
            raw = self._store.similarities(channel.space.name, channel.modality, channel.vector, seqs)
            scores = self._scores(channel, raw, seqs)
            if (missing := np.isnan(raw)).any():  # of nodes that have no vector there
                seqs, raw, scores = np.asarray(seqs)[~missing].tolist(), raw[~missing], scores[~missing]
            lists.append(Judged(dict(zip(seqs, raw.tolist(), strict=True)), dict(zip(seqs, scores.tolist(), strict=True))))
        for _, hits in self._foreign:
            raws, judged = ({item: getattr(hit, name) for item, hit in hits.items()} for name in ("raw", "score"))
            lists.append(Judged(raws, judged))
        return lists

    def groups(self, lists: Sequence[Judged]) -> dict[Item, list[int]]:
        """For each item that anybody wants, the judges that can find it: of its modality, and for foreign ones only foreign."""
        wanting = [at for at, judge in enumerate(self.judges) if not judge.negative]
        out: dict[Item, list[int]] = {}
        for modality in self.modalities:
            every = [at for at in wanting if self.judges[at].modality == modality]
            foreign = [at for at in every if at >= len(self._channels)]
            for at in every:
                out |= dict.fromkeys(lists[at].scores, every)
            out |= dict.fromkeys((item for at in foreign for item in lists[at].scores if isinstance(item, str)), foreign)
        return out

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
    store: NodeStore,
    among: Among | None,
    modalities: Collection[Modality],
    passes: Callable[[BaseNode], bool],
) -> dict[Modality, dict[Item, ForeignHit]]:
    """What another retriever found, by modality: as nodes of the store where they are there, by their ids where they aren't.

    Args:
        found: by the retriever.
        store: to look in.
        among: nodes that may be found; None for all.
        modalities: that may be found; empty for all.
        passes: whether a node from elsewhere may be found.
    """
    seqs = store.find(node_ids=list(found.hits)) if found.hits else np.zeros(0, np.int64)
    ours = {node.node_id: (seq, modality_of_node(node)) for seq, node in store.nodes(seqs.tolist()).items()}
    allowed = set((seqs if among is None else among.only(seqs)).tolist())
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
