import itertools
import math

import numpy as np
import pytest

from llama_index_mm.evaluation import (
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    difference_intervals,
    paired_interval,
)


def test_small_samples_against_all_resamples():
    """With three values there are 27 resamples; the interval's ends are percentiles of their means."""
    values = [0.0, 1.0, 4.0]
    means = [np.mean(one) for one in itertools.product(values, repeat=3)]
    told = bootstrap_interval(values, level=0.8, samples=200_000)
    assert told.mean == pytest.approx(5 / 3)
    assert (told.low, told.high) == pytest.approx(tuple(np.quantile(means, [0.1, 0.9], method="inverted_cdf")))
    assert told.count == 3


def test_width_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(size=2000)
    told = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert (told.low, told.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = [0.3 in bootstrap_interval(rng.random(100) < 0.3, samples=1000, seed=at) for at in range(400)]
    assert 0.91 <= np.mean(held) <= 0.98


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)


def test_many_metrics_are_as_each_alone():
    table = np.random.default_rng(0).random((40, 3))
    for column, told in zip(table.T, bootstrap_intervals(table), strict=True):
        alone = bootstrap_interval(column)
        assert (told.mean, told.low, told.high) == pytest.approx((alone.mean, alone.low, alone.high), abs=1e-12)


def test_many_queries_go_in_parts(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, samples=101)
    monkeypatch.setattr("llama_index_mm.evaluation.intervals._CELLS", 350)  # seven samples at a time
    parts = bootstrap_interval(values, samples=101)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_one_value_and_equal_values():
    assert bootstrap_interval([0.25]) == Interval(0.25, 0.25, 0.25, 1)
    assert bootstrap_interval([1, 1, 1]) == Interval(1.0, 1.0, 1.0, 3)


def test_pairs_are_narrower_than_two_systems_apart():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    first, second = hard, hard + 0.02 + 0.01 * rng.normal(size=200)
    told = paired_interval(first, second)
    assert told.mean == pytest.approx(np.mean(second - first))
    assert 0 not in told
    assert told.high - told.low < 0.1 * (bootstrap_interval(first).high - bootstrap_interval(first).low)
    back = paired_interval(second, first)
    assert (back.low, back.high) == pytest.approx((-told.high, -told.low), abs=1e-3)
    assert paired_interval(first, first) == Interval(0.0, 0.0, 0.0, 200)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_nothing_and_no_numbers_are_refused(values):
    with pytest.raises(ValueError, match="finite value"):
        bootstrap_interval(values)


def test_senseless_options_are_refused():
    for options in ({"level": 1.0}, {"level": 0.0}, {"samples": 0}):
        with pytest.raises(ValueError, match="level between 0 and 1"):
            bootstrap_interval([1.0], **options)
    with pytest.raises(ValueError, match="got 2 and 3 values"):
        paired_interval([1, 2], [1, 2, 3])


def test_as_text():
    assert str(Interval(0.5, 0.25, 0.75, 4)) == "0.500 [0.250, 0.750]"


def test_a_few_queries_that_differ_are_luck():
    for differing, sure in ((1, False), (4, False), (5, False), (6, True)):
        gains = np.zeros(110)
        gains[:differing] = 1.0
        told = paired_interval(np.zeros(110), gains)
        assert (0 not in told, told.mean) == (sure, differing / 110)
        assert (0 not in paired_interval(gains, np.zeros(110))) == sure
    assert 0 in paired_interval([0.1 + 0.2] * 9, [0.3] * 9)  # that is rounding
    assert paired_interval([0.25], [0.75]) == Interval(0.5, 0.0, 0.5, 1)
    assert 0 not in paired_interval(np.zeros(5), np.ones(5), level=0.9)


def test_columns_of_differences_are_as_each_alone():
    table = np.random.default_rng(3).normal(size=(30, 2)) + np.array([1.0, 0.0])
    table[3:, 1] = 0
    assert difference_intervals(table) == [paired_interval(np.zeros(30), column) for column in table.T]
    assert difference_intervals(table)[0] == bootstrap_interval(table[:, 0])


def test_equal_systems_are_seldom_told_apart():
    """Of 110 queries a handful differ, as R@1 of similar systems does: by chance alone, at most one verdict in twenty."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(400):
        gains = rng.choice([-1.0, 0.0, 1.0], 110, p=[0.025, 0.95, 0.025])
        wrong += 0 not in paired_interval(np.zeros(110), gains, samples=500)
    assert wrong / 400 < 0.06
