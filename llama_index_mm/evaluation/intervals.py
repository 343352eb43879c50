"""How far a mean can be trusted: bootstrap intervals. Pure functions of values per query."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "bootstrap_interval", "bootstrap_intervals", "difference_intervals", "paired_interval"]

_SAMPLES = 5000
_EQUAL = 1e-12  # differences that are rounding
_CELLS = 2_000_000  # of resampled values held at once


@dataclass(frozen=True)
class Interval:
    """A mean, and where it would lie with other queries of the same kind.

    Attributes:
        mean: of the values.
        low: lower end.
        high: upper end.
        count: how many values. With one, both ends are that value, and the interval says nothing; with fewer than some ten
            it is too narrow.
    """

    mean: float
    low: float
    high: float
    count: int

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(values: ArrayLike, *, level: float = 0.95, samples: int = _SAMPLES, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean (Efron 1979): the middle of the means of resampled queries.

    Args:
        values: ``(n,)`` one for each query.
        level: share of the resampled means that lie in the interval, in (0, 1).
        samples: how many times the n queries are drawn, with replacement.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: there are no values, or some are no numbers.

    Example:
        >>> bootstrap_interval([0, 1, 1, 1]).mean
        0.75
    """
    column = np.asarray(values, np.float64).reshape(-1, 1)
    return bootstrap_intervals(column, level=level, samples=samples, seed=seed)[0]


def bootstrap_intervals(values: ArrayLike, *, level: float = 0.95, samples: int = _SAMPLES, seed: int = 0) -> list[Interval]:
    """Like `bootstrap_interval`, for several metrics over the same queries at once.

    Args:
        values: ``(n, m)`` one row for each query, one column for each metric.
        level: as in `bootstrap_interval`.
        samples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.

    Returns:
        m intervals, over the same draws.

    Raises:
        ValueError: as in `bootstrap_interval`.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"Expected a finite value for each of at least one query, got an array of shape {table.shape}.")
    if not 0 < level < 1 or samples < 1:
        raise ValueError(f"Expected a level between 0 and 1 and at least one sample, got {level} and {samples}.")
    means = _resampled(table, samples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    ends = zip(table.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(mean, below, above, len(table)) for mean, below, above in ends]


def paired_interval(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, samples: int = _SAMPLES, seed: int = 0
) -> Interval:
    """Interval of the mean of ``second - first`` over the same queries: each query is drawn with both of its values.

    This is far narrower than two separate intervals suggest, because easy and hard queries are so for both. Where it holds 0,
    the two differ by no more than the choice of queries can explain. It holds 0 where too few queries differ, see
    `difference_intervals`.

    Args:
        first: ``(n,)`` values of one system.
        second: ``(n,)`` values of the other, in the same order of queries.
        level: as in `bootstrap_interval`.
        samples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.

    Raises:
        ValueError: they are not of the same length, or as in `bootstrap_interval`.
    """
    one, two = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    if len(one) != len(two):
        raise ValueError(f"Expected two values for each query, got {len(one)} and {len(two)} values.")
    return difference_intervals((two - one).reshape(-1, 1), level=level, samples=samples, seed=seed)[0]


def difference_intervals(
    differences: ArrayLike, *, level: float = 0.95, samples: int = _SAMPLES, seed: int = 0
) -> list[Interval]:
    """Like `bootstrap_intervals`, of differences between two systems over the same queries.

    Where only a few of many queries differ, all to the same side, nearly every resample holds some of them, and the bootstrap
    is sure of what may be chance: 4 queries of the same sign are one of 8 throws of a coin. So 0 is taken into the interval
    where even the test of signs (Arbuthnot 1710), with all signs alike, is not sure: with m queries that differ its p is at
    least ``2 ** (1 - m)``. For a level of 0.95 at least 6 queries must differ.

    Args:
        differences: ``(n, m)`` one row for each query, one column for each metric.
        level: as in `bootstrap_interval`.
        samples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.

    Raises:
        ValueError: as in `bootstrap_interval`.
    """
    table = np.asarray(differences, np.float64)
    told = bootstrap_intervals(table, level=level, samples=samples, seed=seed)
    differing = np.count_nonzero(np.abs(table) > _EQUAL, axis=0).tolist()
    return [
        one if 2.0 ** (1 - count) <= 1 - level else replace(one, low=min(one.low, 0.0), high=max(one.high, 0.0))
        for one, count in zip(told, differing, strict=True)
    ]


def _resampled(table: NDArray[np.float64], samples: int, seed: int) -> NDArray[np.float64]:
    """Means ``(samples, m)`` of queries drawn with replacement: counts of each query times its values."""
    rng = np.random.default_rng(seed)
    count = len(table)
    step = max(1, _CELLS // count)
    means = []
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append(counts @ table / count)
    return np.concatenate(means)
