"""Whether what is stored in one language is found before the same in another."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation.intervals import Interval, bootstrap_interval, difference_intervals

__all__ = ["FactRanking", "LanguageSkew", "SkewRow", "language_skew"]


@dataclass(frozen=True)
class FactRanking:
    """A query for a fact that is stored in two languages, and what it found.

    Attributes:
        fact: what the fact is called; queries for the same fact are not independent, and are drawn together.
        asked: language of the query.
        items: the items that say it, by language; two languages, the same for all facts.
        ranking: items found, best first.
    """

    fact: Hashable
    asked: str
    items: Mapping[str, Collection[Hashable]]
    ranking: Sequence[Hashable]


@dataclass(frozen=True)
class SkewRow:
    """Which language is found first.

    Attributes:
        queries: how many.
        first: share of the queries in which this language is found before the other, by language.
        neither: share in which neither is found. With ``first`` it makes 1.
        gap: rank of the second language minus rank of the first, over queries that find at least one: positive if the first
            language is found earlier. What is not found counts as found one place behind the ranking's end. None if no query
            finds either.
    """

    queries: int
    first: Mapping[str, Interval]
    neither: Interval
    gap: Interval | None


@dataclass(frozen=True)
class LanguageSkew:
    """How far one language pushes aside the other.

    Asked in one language, its own items may well come first. There is skew where the two directions differ: compare how often
    a language is found first when it is asked in itself, and when the other one is; and see ``overall``, where with as many
    queries in each language a gap of 0 is fair.

    Attributes:
        languages: the two, in alphabetical order.
        asked: by language of the query.
        overall: over the facts; of a fact's queries the mean counts.
    """

    languages: tuple[str, str]
    asked: Mapping[str, SkewRow]
    overall: SkewRow

    @property
    def fair(self) -> bool:
        """Whether the interval of the overall gap holds 0: no skew beyond the noise."""
        return self.overall.gap is None or 0 in self.overall.gap

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        return {**asdict(self), "languages": list(self.languages), "fair": self.fair}

    def __str__(self) -> str:
        lines = []
        for name, row in [*((f"asked in {language}", row) for language, row in self.asked.items()), ("overall", self.overall)]:
            shares = ", ".join(f"{language} first {100 * one.mean:.0f} %" for language, one in row.first.items())
            gap = "" if row.gap is None else f"; rank of {self.languages[1]} minus rank of {self.languages[0]}: {row.gap}"
            lines.append(f"{name}: {shares}, neither {100 * row.neither.mean:.0f} %{gap} ({row.queries} queries)")
        return "\n".join([*lines, "No skew beyond the noise." if self.fair else f"Skewed towards {self._favoured()}."])

    def _favoured(self) -> str:
        return self.languages[0] if self.overall.gap is not None and self.overall.gap.mean > 0 else self.languages[1]


def language_skew(pairs: Sequence[FactRanking], *, seed: int = 0) -> LanguageSkew:
    """Tell which of two languages is found first, for the same facts stored in both.

    Args:
        pairs: queries; best each fact asked once in each language.
        seed: of the bootstrap.

    Raises:
        QueryError: there are no queries, or not the same two languages for all, or a fact without items in one, or an item
            that is there in both.
    """
    if not pairs:
        raise QueryError("Expected at least one query for a fact in two languages, got none.")
    languages = tuple(sorted(pairs[0].items))
    for one in pairs:
        sets = [set(items) for items in one.items.values()]
        if len(languages) != 2 or tuple(sorted(one.items)) != languages or not all(sets) or sets[0] & sets[1]:
            raise QueryError(
                f"Expected different items in the same two languages for each fact, got {dict(one.items)} for {one.fact!r}."
            )
    pair = (languages[0], languages[1])
    by_asked: dict[str, list[FactRanking]] = {}
    for one in pairs:
        by_asked.setdefault(one.asked, []).append(one)
    asked = {language: _row(by_asked[language], pair, seed) for language in sorted(by_asked)}
    return LanguageSkew(pair, asked, _row(pairs, pair, seed))


def _row(queries: Sequence[FactRanking], languages: tuple[str, str], seed: int) -> SkewRow:
    """Means over facts, each being the mean over its queries."""
    outcomes: dict[Hashable, list[tuple[float, float, float]]] = {}
    gaps: dict[Hashable, list[float]] = {}
    for one in queries:
        ranking = list(dict.fromkeys(one.ranking))
        ranks = [next((at for at, item in enumerate(ranking, 1) if item in one.items[name]), None) for name in languages]
        end = len(ranking) + 1
        first, second = (end if rank is None else rank for rank in ranks)
        outcomes.setdefault(one.fact, []).append((float(first < second), float(second < first), float(first == second)))
        if first != second:
            gaps.setdefault(one.fact, []).append(float(second - first))
    shares = np.array([np.mean(of_fact, axis=0) for of_fact in outcomes.values()])
    intervals = [bootstrap_interval(shares[:, at], seed=seed) for at in range(3)]
    gap = difference_intervals([[np.mean(of_fact)] for of_fact in gaps.values()], seed=seed)[0] if gaps else None
    return SkewRow(len(queries), dict(zip(languages, intervals[:2], strict=True)), intervals[2], gap)
