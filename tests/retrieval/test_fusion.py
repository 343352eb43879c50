import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_mm.retrieval.fusion import (
    FUSIONS,
    Fused,
    convex,
    distribution_based,
    logistic,
    maximum,
    normalise,
    normalise_all,
    reciprocal_rank,
    spread,
    subtract,
)

close = pytest.approx


# -- normalise ------------------------------------------------------------------------------------------------------------


def test_logistic():
    assert logistic(2) == 0.5
    assert logistic(0) == close(1 / (1 + math.e**2))
    assert logistic(0) == close(0.1192, abs=1e-4)
    assert logistic(5) == close(0.9526, abs=1e-4)
    assert (logistic(-1e9), logistic(1e9), logistic(-math.inf), logistic(math.inf)) == (0, 1, 0, 1)


@given(st.floats(-300, 300))
def test_logistic_is_the_logistic_function(deviations):
    assert logistic(deviations) == close(1 / (1 + math.exp(2 - deviations)), abs=1e-15)


def test_normalise_counts_deviations_above_the_background():
    background = np.array([0.1, 0.3, 0.1, 0.3])  # mean 0.2, deviation 0.1
    assert normalise(0.4, background) == close(0.5)
    assert normalise(0.2, background) == close(logistic(0))
    assert normalise(0.7, background) == close(logistic(5))
    assert normalise(0.0, background) == close(logistic(-2))


def test_normalise_with_the_usual_background():
    # Eight samples with mean 0.2 and deviation 0.1 count for half; the usual ones, 0.6 and 0.2, for the other half.
    background = np.array([0.1, 0.3] * 4)
    deviation = math.sqrt(0.5 * 0.01 + 0.5 * 0.04 + 0.25 * 0.16)
    assert normalise(0.4, background, known=(0.6, 0.2)) == close(logistic(0))
    assert normalise(0.4 + 2 * deviation, background, known=(0.6, 0.2)) == close(0.5)
    # With 24 samples they count for three quarters.
    deviation = math.sqrt(0.75 * 0.01 + 0.25 * 0.04 + 0.75 * 0.25 * 0.16)
    assert normalise(0.3 + 2 * deviation, np.array([0.1, 0.3] * 12), known=(0.6, 0.2)) == close(0.5)


def test_normalise_without_a_background():
    empty = np.zeros(0, np.float32)
    assert normalise(0.9, empty) == close(logistic(3.6))  # 0.9 at a deviation of 0.25
    assert normalise(0.7, empty, known=(0.5, 0.1)) == close(0.5)
    assert normalise(0.7, empty, known=(0.5, 0.0)) == close(logistic(2.8))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.78, 1.0])
def test_normalise_against_equal_similarities(value):
    """Rounding of float32 must not count as a deviation."""
    constant = np.full(100, value, np.float32)
    noisy = constant + np.float32(6e-8) * (np.arange(100, dtype=np.float32) % 2)
    for background in (constant[:1], constant, noisy):
        assert normalise(float(np.nextafter(constant[0], np.float32(2))), background) == close(logistic(4 * value))


def test_normalise_all_at_once():
    values, background = np.array([[0.1, np.nan], [0.7, 0.4]], np.float32), np.array([0.1, 0.3, 0.1, 0.3])
    scores = normalise_all(values, background)
    assert scores.dtype == np.float64
    assert scores[[0, 1, 1], [0, 0, 1]] == close([logistic(-1), logistic(5), 0.5])
    assert np.isnan(scores[0, 1])


def test_normalise_far_from_a_narrow_background():
    background = np.array([0.9, 0.9001], np.float32)
    assert normalise(-1.0, background) == 0.0
    assert normalise(1.0, background) == 1.0


similarity = st.floats(-1, 1, width=32)
backgrounds = st.lists(similarity, max_size=20).map(lambda values: np.array(values, dtype=np.float32))
usual = st.none() | st.tuples(similarity, st.floats(0, 1))


@settings(deadline=None)
@given(similarity, similarity, backgrounds, usual)
def test_normalise_is_monotone_and_bounded(one, other, background, known):
    low, high = (normalise(value, background, known=known) for value in sorted([one, other]))
    assert 0 <= low <= high <= 1


# -- fusion ---------------------------------------------------------------------------------------------------------------


def test_convex_by_hand():
    lists = [{"a": 0.8, "b": 0.4}, {"a": 0.2, "c": 0.6}]
    everyone = {"a": [0, 1], "b": [0, 1], "c": [0, 1]}
    fused = convex(lists, [3, 1], everyone)
    assert {item: one.score for item, one in fused.items()} == close({"a": 0.65, "b": 0.3, "c": 0.15})
    assert fused["a"].contributions == close({0: 0.6, 1: 0.05})
    assert fused["b"].contributions == close({0: 0.3})
    assert fused["c"].contributions == close({1: 0.15})


def test_an_item_is_judged_by_the_lists_of_its_group():
    lists = [{"picture": 0.6}, {"sound": 0.6}, {"sound": 0.3}]
    fused = convex(lists, [1, 1, 1], {"picture": [0], "sound": [1, 2]})
    assert fused == {"picture": Fused(0.6, {0: 0.6}), "sound": Fused(close(0.45), close({1: 0.3, 2: 0.15}))}


def test_reciprocal_rank_by_hand():
    lists = [{"a": 0.9, "b": 0.5, "c": 0.1}, {"b": 0.3, "a": 0.2}]
    fused = reciprocal_rank(lists, [1, 2], {item: [0, 1] for item in "abc"})
    assert fused["a"].contributions == close({0: 1 / 3, 1: 2 / 3 * 61 / 62})
    assert fused["b"].contributions == close({0: 1 / 3 * 61 / 62, 1: 2 / 3})
    assert fused["c"].contributions == close({0: 1 / 3 * 61 / 63})
    assert fused["b"].score == close((61 / 62 + 2) / 3)


def test_equal_scores_share_the_better_rank():
    fused = reciprocal_rank([{"a": 0.5, "b": 0.9, "c": 0.5, "d": 0.1, "e": 0.9}], [1], {item: [0] for item in "abcde"})
    assert {item: one.score for item, one in fused.items()} == close(
        {"b": 1.0, "e": 1.0, "a": 61 / 63, "c": 61 / 63, "d": 61 / 65}
    )


@pytest.mark.parametrize("fuse", [convex, reciprocal_rank, maximum])
def test_the_best_of_every_list_has_score_1(fuse):
    assert fuse([{"a": 1.0}] * 3, [0.6, 0.3, 0.1], {"a": [0, 1, 2]})["a"].score == 1.0


def test_spread_by_hand():
    # Mean 3, deviation 2: three deviations are 6, so the scale goes from -3 to 9.
    assert spread([1.0, 5.0]) == close([1 / 3, 2 / 3])
    assert spread([5.0, 1.0, 5.0, 1.0]) == close([2 / 3, 1 / 3, 2 / 3, 1 / 3])
    # One of a hundred is 9.95 deviations above the mean of the others.
    assert spread([1.0] + [0.0] * 99)[:2] == [1.0, close(0.5 - 0.1 / math.sqrt(0.99) / 6, abs=1e-12)]
    assert spread([]) == []
    assert spread([0.7]) == [0.5]
    assert spread([0.7] * 3) == spread([0.0, 0.0, 0.0]) == [0.5] * 3
    assert spread([1e300, -1e300]) == close([1 / 3, 2 / 3][::-1])


def test_distribution_based_by_hand():
    lists = [{"a": 1.0, "b": 0.0}, {"a": 0.3}]
    fused = distribution_based(lists, [3, 1], {"a": [0, 1], "b": [0, 1]})
    assert fused["a"].contributions == close({0: 0.75 * 2 / 3, 1: 0.25 * 0.5})
    assert fused["b"].contributions == close({0: 0.75 / 3})
    assert fused["a"].score == close(0.625)


def test_maximum_by_hand():
    lists = [{"a": 0.4, "b": 0.4}, {"a": 0.9, "c": 1.0}, {"a": 0.1}]
    fused = maximum(lists, [2, 1, 0], {"a": [0, 1, 2], "b": [0, 1], "c": [1]})
    assert fused == {
        "a": Fused(0.45, {0: 0.0, 1: 0.45}),  # 0.9 at half the greatest weight
        "b": Fused(0.4, {0: 0.4}),
        "c": Fused(1.0, {1: 1.0}),  # the only list of its group weighs most
    }


def test_lists_that_agree_on_the_maximum_share_it():
    assert maximum([{"a": 0.5}, {"a": 1.0}], [2, 1], {"a": [0, 1]}) == {"a": Fused(0.5, {0: 0.25, 1: 0.25})}


def test_subtract_by_hand():
    fused = {"a": Fused(0.8, {0: 0.6, 1: 0.2}), "b": Fused(0.5, {0: 0.5})}
    less = subtract(fused, {2: {"a": 0.5}, 3: {"a": 0.25}}, {2: 1.0, 3: 2.0})
    # 0.8 (1 - 0.5) (1 - 0.25) = 0.3; the half that is lost goes 2 : 1.
    assert less["a"].score == close(0.3)
    assert less["a"].contributions == close({0: 0.6, 1: 0.2, 2: -1 / 3, 3: -1 / 6})
    assert less["b"] == fused["b"]


def test_subtract_what_is_exactly_not_wanted():
    less = subtract({"a": Fused(0.8, {0: 0.8})}, {1: {"a": 1.0}, 2: {"a": 1.0}}, {1: 1.0, 2: 0.0})
    assert less == {"a": Fused(0.0, {0: 0.8, 1: -0.8})}


def test_subtract_nothing():
    fused = {"a": Fused(0.8, {0: 0.8})}
    assert subtract(fused, {1: {"a": 0.0}}, {1: 1.0}) == {"a": Fused(0.8, {0: 0.8, 1: 0.0})}
    for unwanted, weight in (({"a": 1.0}, 0.0), ({"b": 1.0}, 1.0), ({}, 1.0), ({"a": math.nan}, 1.0), ({"a": None}, 1.0)):
        assert subtract(fused, {1: unwanted}, {1: weight}) == fused
    assert subtract(fused, {}, {}) == fused


@pytest.mark.parametrize("fuse", FUSIONS.values())
@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
def test_a_score_that_is_none_is_missing(fuse, score):
    groups = {"a": [0, 1], "b": [0, 1], "c": [1]}
    lists = [{"a": 0.4, "b": score}, {"a": 0.5, "b": 0.7, "c": score}]
    assert fuse(lists, [1, 2], groups) == fuse([{"a": 0.4}, {"a": 0.5, "b": 0.7}], [1, 2], groups)


@pytest.mark.parametrize("fuse", FUSIONS.values())
def test_nothing_to_fuse(fuse):
    assert fuse([], [], {}) == {}
    assert fuse([{}], [1], {}) == {}
    assert fuse([{"a": 1.0}], [0], {"a": [0]}) == {}
    assert fuse([{}], [1], {"a": [0]}) == {}
    assert fuse([{"a": 1.0}], [1], {"a": []}) == {}


@st.composite
def problems(draw):
    """Lists of scores, weights with some zeros, and groups; every item of a list has the list in its group."""
    count = draw(st.integers(1, 4))
    items = list(range(draw(st.integers(1, 8))))
    groups = {item: draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count)) for item in items}
    score = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
    lists = [{item: draw(score) for item in items if at in groups[item] and draw(st.booleans())} for at in range(count)]
    weight = st.sampled_from([0.0, 0.1, 0.2, 1.0, 3.0]) | st.floats(0.001, 10)
    return lists, draw(st.lists(weight, min_size=count, max_size=count)), groups


def scores(fused):
    return {item: one.score for item, one in fused.items()}


anyhow = pytest.mark.parametrize("fuse", FUSIONS.values())


@anyhow
@settings(deadline=None)
@given(problem=problems())
def test_scores_are_bounded_and_contributions_sum_to_them(fuse, problem):
    lists, weights, groups = problem
    for item, one in fuse(*problem).items():
        assert 0 <= one.score <= 1
        assert sum(one.contributions.values()) == close(one.score, abs=1e-12)
        assert all(weights[at] > 0 and item in lists[at] and at in groups[item] for at in one.contributions)


@anyhow
@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_the_order_of_lists_does_not_matter(fuse, problem, data):
    lists, weights, groups = problem
    order = data.draw(st.permutations(range(len(lists))))
    place = {old: new for new, old in enumerate(order)}
    moved = fuse(
        [lists[old] for old in order],
        [weights[old] for old in order],
        {item: [place[old] for old in members] for item, members in groups.items()},
    )
    assert scores(moved) == close(scores(fuse(*problem)), abs=1e-12)


@anyhow
@settings(deadline=None)
@given(problem=problems(), factor=st.sampled_from([0.125, 2.0, 8.0]))
def test_only_the_ratio_of_weights_counts(fuse, problem, factor):
    lists, weights, groups = problem
    scaled = fuse(lists, [factor * weight for weight in weights], groups)
    assert scores(scaled) == close(scores(fuse(*problem)), abs=1e-12)


@anyhow
@settings(deadline=None)
@given(problem=problems(), at=st.integers(0, 3))
def test_a_weight_of_zero_is_an_absent_list(fuse, problem, at):
    lists, weights, groups = problem
    at %= len(lists)
    muted = fuse(lists, [0.0 if one == at else weight for one, weight in enumerate(weights)], groups)
    absent = fuse(
        [{} if one == at else found for one, found in enumerate(lists)],
        weights,
        {item: [one for one in members if one != at] for item, members in groups.items()},
    )
    assert muted == absent


@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_convex_grows_with_every_score(problem, data):
    lists, weights, groups = problem
    places = [(at, item) for at, found in enumerate(lists) for item in found]
    if places:
        at, item = data.draw(st.sampled_from(places))
        better = [dict(found) for found in lists]
        better[at][item] = data.draw(st.floats(lists[at][item], 1))
        before, after = scores(convex(lists, weights, groups)), scores(convex(better, weights, groups))
        assert before.keys() == after.keys()
        assert before.get(item, 0) <= after.get(item, 0) + 1e-12
        assert {one: before[one] for one in before if one != item} == {one: after[one] for one in after if one != item}


@settings(deadline=None)
@given(problem=problems())
def test_ranks_see_nothing_but_order(problem):
    lists, weights, groups = problem
    squeezed = [{item: score / 4 for item, score in found.items()} for found in lists]
    if all(len(set(found.values())) == len(set(other.values())) for found, other in zip(lists, squeezed, strict=True)):
        assert reciprocal_rank(squeezed, weights, groups) == reciprocal_rank(lists, weights, groups)


@settings(deadline=None)
@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1))
def test_one_list_keeps_its_order(found):
    alone = {item: [0] for item in found}
    assert scores(convex([found], [0.7], alone)) == close(found)
    ranked = scores(reciprocal_rank([found], [0.7], alone))
    for one in found:
        for other in found:
            assert (ranked[one] > ranked[other]) == (found[one] > found[other])
