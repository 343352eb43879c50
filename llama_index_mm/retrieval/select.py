"""Which of a ranking are given: seats by kind, one of each document, different from one another. Pure functions."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES

__all__ = ["LANGUAGE", "Selection", "best_of_each", "choose"]

T = TypeVar("T", bound=Hashable)
_AT_ONCE = 32  # items whose groups are asked for together
LANGUAGE = "language:"
"""What a key of quotas begins with that means a language, such as ``"language:zh"``."""


@dataclass(frozen=True)
class Selection:
    """What is taken of a ranking.

    Attributes:
        at_least: seats kept by modality, or by language as ``"language:zh"``. They are filled with the best of it, as far as
            there is any that matches.
        at_most: seats that a modality or a language may take.
        similarity_cutoff: score in [0, 1] below which nothing is given, also if it had a seat.
        collapse: ``"document"`` to give only the best node of each document.
        expand: how many of its best nodes to give of each document found; needs ``collapse``.
        diversity: in [0, 1]. 0 gives the best; above it what is like something already chosen stands back.

    Raises:
        QueryError: a value that has no meaning.
    """

    at_least: Mapping[str, int] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    similarity_cutoff: float | None = None
    collapse: Literal["document"] | None = None
    expand: int | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        for name, seats in (("at_least", self.at_least), ("at_most", self.at_most)):
            for key, count in seats.items():
                if key not in MODALITIES and not (key.startswith(LANGUAGE) and len(key) > len(LANGUAGE)):
                    raise QueryError(
                        f"Expected a modality ({', '.join(MODALITIES)}) or a language such as 'language:zh' in {name}, "
                        f"got {key!r}."
                    )
                if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                    raise QueryError(f"Expected a whole number of at least 0 for {key!r} in {name}, got {count!r}.")
        if wrong := [key for key, count in self.at_least.items() if count > self.at_most.get(key, count)]:
            raise QueryError(f"at_least is more than at_most for {', '.join(wrong)}.")
        if self.similarity_cutoff is not None and not 0 <= self.similarity_cutoff <= 1:
            raise QueryError(f"similarity_cutoff must be in [0, 1], as scores are; got {self.similarity_cutoff}.")
        if self.collapse not in (None, "document"):
            raise QueryError(f"collapse must be 'document' or None, got {self.collapse!r}.")
        if self.expand is not None and (self.expand < 1 or self.collapse is None):
            raise QueryError(f"expand must be at least 1, with collapse='document'; got {self.expand}.")
        if not 0 <= self.diversity <= 1:
            raise QueryError(f"diversity must be in [0, 1], got {self.diversity}.")

    def check_seats(self, k: int) -> None:
        """Refuse more kept seats than there are.

        Raises:
            QueryError: ``at_least`` keeps more than ``k`` for modalities, or for languages.
        """
        of_languages = sum(count for key, count in self.at_least.items() if key.startswith(LANGUAGE))
        kept = max(of_languages, sum(self.at_least.values()) - of_languages)
        if kept > k:
            raise QueryError(f"at_least keeps {kept} seats, but similarity_top_k is {k}. Raise it, or keep fewer.")

    @property
    def languages(self) -> list[str]:
        """Codes of the languages that have quotas."""
        keys = dict.fromkeys([*self.at_least, *self.at_most])
        return [key.removeprefix(LANGUAGE) for key in keys if key.startswith(LANGUAGE)]


def best_of_each(
    ranked: Sequence[T], group: Callable[[Sequence[T]], Mapping[T, str]], enough: int | None = None
) -> dict[T, str]:
    """The first item of each group, in order, with its group.

    Args:
        ranked: items, the best first.
        group: tells the groups of some items; is asked for a few items at a time, and passes over what is gone.
        enough: how many groups to stop at; None for all.
    """
    first: dict[str, T] = {}
    for at in range(0, len(ranked), _AT_ONCE):
        some = ranked[at : at + _AT_ONCE]
        groups = group(some)
        for item in some:
            if item in groups:
                first.setdefault(groups[item], item)
        if enough is not None and len(first) >= enough:
            break
    return {item: name for name, item in first.items()}


def choose(
    ranked: Mapping[T, float],
    k: int,
    *,
    kinds: Mapping[T, Collection[str]] | None = None,
    at_least: Mapping[str, int] | None = None,
    at_most: Mapping[str, int] | None = None,
    diversity: float = 0.0,
    likeness: Callable[[int], NDArray[np.floating]] | None = None,
) -> list[T]:
    """Choose ``k`` items of a ranking; they come in its order.

    One seat after the other is given to the item with the greatest marginal relevance (Carbonell and Goldstein 1998),

        (1 - diversity) score(i) - diversity max over chosen j of likeness(i, j),

    of those whose kinds have seats left. When no more seats are left than kinds still lack, only items of these kinds
    are asked. An item of several kinds counts for each of them.

    Args:
        ranked: scores in [0, 1] by item, the best first.
        k: how many; fewer only if ``at_most`` or the ranking leaves no more.
        kinds: of each item.
        at_least: seats kept, by kind; as many as there are items are filled.
        at_most: seats that a kind may take.
        diversity: in [0, 1].
        likeness: gives, for the position of an item in the ranking, how like it every item is: ``(n,)`` in [0, 1].
    """
    kinds, at_least, at_most = kinds or {}, at_least or {}, at_most or {}
    items = list(ranked)
    if not at_least and not at_most and not diversity:
        return items[:k]
    of = {kind: np.array([kind in kinds.get(item, ()) for item in items], bool) for kind in {*at_least, *at_most}}
    lacking = {kind: min(count, int(of[kind].sum())) for kind, count in at_least.items()}
    left = dict(at_most)
    waiting = np.ones(len(items), bool)
    closest = np.zeros(len(items))
    worth = (1 - diversity) * np.array(list(ranked.values()), dtype=np.float64)
    chosen: list[int] = []
    while len(chosen) < k:
        for kind in [kind for kind, seats in left.items() if seats <= 0]:
            waiting &= ~of[kind]
        asked = waiting
        if k - len(chosen) <= sum(lacking.values()):
            lacked = waiting & np.any([of[kind] for kind, count in lacking.items() if count], axis=0)
            asked = lacked if lacked.any() else waiting
        if not asked.any():
            break
        best = int(np.where(asked, worth - diversity * closest, -np.inf).argmax())  # the first of equal ones
        chosen.append(best)
        waiting[best] = False
        for kind in of:
            if of[kind][best]:
                lacking[kind] = max(0, lacking.get(kind, 0) - 1)
                left[kind] = left.get(kind, k) - 1
        if diversity and likeness is not None and len(chosen) < k:
            closest = np.maximum(closest, likeness(best))
    return [items[at] for at in sorted(chosen)]
