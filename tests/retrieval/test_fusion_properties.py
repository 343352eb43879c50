"""What every fusion promises, on any lists."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_mm.retrieval.fusion import FUSIONS, spread, subtract

anyhow = pytest.mark.parametrize("fuse", FUSIONS.values(), ids=list(FUSIONS))
close = pytest.approx
score = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
unknown = st.sampled_from([None, math.nan, math.inf])
weight = st.sampled_from([0.0, 0.1, 1.0, 3.0]) | st.floats(0.001, 10)


@st.composite
def problems(draw):
    """Lists with scores that may be unknown, weights that may be 0, and groups."""
    count = draw(st.integers(1, 4))
    items = list(range(draw(st.integers(1, 8))))
    groups = {item: draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count)) for item in items}
    lists = [
        {item: draw(score | unknown) for item in items if at in groups[item] and draw(st.booleans())} for at in range(count)
    ]
    return lists, draw(st.lists(weight, min_size=count, max_size=count)), groups


def scores(fused):
    return {item: one.score for item, one in fused.items()}


@anyhow
@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_raising_one_score_never_lowers_it(fuse, problem, data):
    lists, weights, groups = problem
    places = [(at, item) for at, found in enumerate(lists) for item, one in found.items() if one is not None and one <= 1]
    if places:
        at, item = data.draw(st.sampled_from(places))
        better = [dict(found) for found in lists]
        better[at][item] = data.draw(st.floats(lists[at][item], 1))
        before, after = fuse(lists, weights, groups), fuse(better, weights, groups)
        assert before.keys() == after.keys()
        if item in before:
            assert before[item].score <= after[item].score + 1e-9


@anyhow
@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_the_order_of_items_does_not_matter(fuse, problem, data):
    lists, weights, groups = problem
    moved = [{item: found[item] for item in data.draw(st.permutations(list(found)))} for found in lists]
    turned = {item: groups[item] for item in data.draw(st.permutations(list(groups)))}
    assert fuse(moved, weights, turned) == fuse(lists, weights, groups)


@anyhow
@settings(deadline=None)
@given(problem=problems())
def test_unknown_scores_are_missing_ones(fuse, problem):
    lists, weights, groups = problem
    known = [{item: one for item, one in found.items() if one is not None and math.isfinite(one)} for found in lists]
    assert fuse(lists, weights, groups) == fuse(known, weights, groups)


@anyhow
@settings(deadline=None)
@given(problem=problems(), copies=st.integers(2, 3))
def test_a_list_that_comes_twice_at_half_its_weight_changes_nothing_of_a_mean(fuse, problem, copies):
    lists, weights, groups = problem
    doubled = fuse(
        [found for found in lists for _ in range(copies)],
        [one / copies for one in weights for _ in range(copies)],
        {item: [copies * at + more for at in members for more in range(copies)] for item, members in groups.items()},
    )
    assert scores(doubled) == close(scores(fuse(lists, weights, groups)), abs=1e-9)


@anyhow
@settings(deadline=None)
@given(values=st.lists(score, min_size=1, max_size=6), copies=st.integers(1, 3))
def test_items_of_equal_scores_are_equal(fuse, values, copies):
    found = {(at, more): value for at, value in enumerate(values) for more in range(copies)}
    fused = scores(fuse([found], [0.7], {item: [0] for item in found}))
    assert all(fused[at, more] == fused[at, 0] for at, more in found)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_spread_keeps_order_and_range(values):
    scaled = spread(values)
    assert all(0 <= one <= 1 for one in scaled)
    for value, one in zip(values, scaled, strict=True):
        for other, two in zip(values, scaled, strict=True):
            assert one <= two or value > other


@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_what_is_not_wanted_only_takes_away(problem, data):
    fused = FUSIONS["convex"](*problem)
    at = st.integers(10, 12)
    unwanted = data.draw(st.dictionaries(at, st.dictionaries(st.integers(0, 7), score | unknown)))
    weights = {one: data.draw(weight) for one in unwanted}
    less = subtract(fused, unwanted, weights)
    assert list(less) == list(fused)
    for item, one in less.items():
        assert 0 <= one.score <= fused[item].score
        assert math.fsum(one.contributions.values()) == close(one.score, abs=1e-12)
        assert all(share <= 0 for at, share in one.contributions.items() if at >= 10)
    turned = {one: dict(reversed(unwanted[one].items())) for one in reversed(unwanted)}
    assert scores(subtract(fused, turned, weights)) == scores(less)
    absent = {one: found for one, found in unwanted.items() if weights[one] > 0}
    assert subtract(fused, absent, weights) == less


@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_the_more_like_what_is_not_wanted_the_worse(problem, data):
    fused = FUSIONS["convex"](*problem)
    low, high = sorted([data.draw(score), data.draw(score)])
    some = data.draw(weight)
    for item in fused:
        one, other = (subtract(fused, {9: {item: value}}, {9: some})[item].score for value in (low, high))
        assert one >= other
