"""What every channel says of the nodes that a query may be answered with, before it becomes one ranking."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode

from llama_index_mm.retrieval.channels import Channel
from llama_index_mm.retrieval.fusion import Fusion
from llama_index_mm.retrieval.pool import Item, Pool
from llama_index_mm.stores import NodeStore

__all__ = ["CandidateList", "Candidates", "gather"]


@dataclass(frozen=True)
class CandidateList:
    """What one channel, or another retriever, says of the candidates that it can judge.

    Attributes:
        key: ``part:space:modality``, as `Weights` calls it; the part of other retrievers is ``"query"``.
        weight: what the retriever's weights give the key.
        share: how much of it this list has, by the part's own weight in the query.
        negative: whether it tells what is not wanted.
        steady: whether it answers whenever its part is asked; not so spaces for speech only, and other retrievers.
        scores: in [0, 1], by candidate.
    """

    key: str
    weight: float
    share: float
    negative: bool
    steady: bool
    scores: Mapping[Item, float]


@dataclass(frozen=True)
class Candidates:
    """Candidates of one query.

    Attributes:
        nodes: in the order in which those of equal score are given.
        lists: what is said of them.
        groups: for each candidate, the indices of the lists that can find it, as fusions take them.
        fusion: of the retriever.
    """

    nodes: Mapping[Item, BaseNode]
    lists: tuple[CandidateList, ...]
    groups: Mapping[Item, Sequence[int]]
    fusion: Fusion


def gather(
    pool: Pool,
    store: NodeStore,
    channels: Sequence[Channel],
    weight: Callable[[str, str, str], float],
    fusion: Fusion,
) -> Candidates:
    """Take what a pool holds.

    Args:
        pool: that was searched.
        store: where the nodes are; those that were deleted since are left out.
        channels: of the pool.
        weight: gives the weight of (kind of part, space, modality).
        fusion: of the retriever.
    """
    said = pool.judge()
    lists = []
    for at, (judge, found) in enumerate(zip(pool.judges, said, strict=True)):
        kind = judge.part.partition(" ")[0]
        full = weight(kind, judge.space, judge.modality)
        lists.append(
            CandidateList(
                key=f"{kind}:{judge.space}:{judge.modality}",
                weight=full,
                share=judge.weight / full if full else 0.0,
                negative=judge.negative,
                steady=at < len(channels) and not channels[at].space.speech_only,
                scores=found.scores,
            )
        )
    groups = pool.groups(said)
    own = store.nodes([item for item in groups if isinstance(item, int)])
    nodes: dict[Item, BaseNode] = {item: own[item] for item in sorted(own)}
    nodes.update((item, hit.node) for item, hit in sorted(pool.elsewhere.items()) if item in groups)
    return Candidates(nodes, tuple(lists), groups, fusion)
