import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from llama_index_mm.evaluation import (
    QueryScores,
    average_precision,
    hit_at,
    ndcg_at,
    precision_at,
    recall_at,
    reciprocal_rank_of,
    summarise,
)


def test_hit_looks_at_the_first_k_only():
    assert [hit_at(k, "abc", {"b", "z"}) for k in (1, 2, 3)] == [0.0, 1.0, 1.0]


def test_precision_counts_missing_places_as_wrong():
    assert precision_at(5, "ab", {"a", "b", "c"}) == 2 / 5
    assert precision_at(1, "ba", {"a"}) == 0.0


def test_reciprocal_rank_is_that_of_the_first_relevant_item():
    assert reciprocal_rank_of("xyab", {"a", "b"}) == 1 / 3
    assert reciprocal_rank_of("xy", {"a"}) == 0.0


def test_summary_is_the_mean_over_queries():
    queries = [QueryScores("ab", {"a"}), QueryScores("ab", {"b"}), QueryScores("ab", {"c"}), QueryScores("", {"c"})]
    assert summarise(queries, ks=(1, 2)) == {
        "R@1": 1 / 4,
        "R@2": 2 / 4,
        "P@5": (1 / 5 + 1 / 5) / 4,
        "MRR": (1 + 1 / 2) / 4,
        "queries": 4.0,
    }


def test_a_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one query"):
        summarise([])


def test_recall_is_the_share_of_what_is_relevant():
    assert [recall_at(k, "axb", {"a", "b", "c", "d"}) for k in (1, 2, 3, 9)] == [1 / 4, 1 / 4, 2 / 4, 2 / 4]


def test_average_precision_by_hand():
    assert average_precision("axbyc", {"a", "b", "c"}) == (1 / 1 + 2 / 3 + 3 / 5) / 3
    assert average_precision("axbyc", {"a", "b", "c"}, k=3) == (1 / 1 + 2 / 3) / 3
    assert average_precision("xa", {"a", "b"}) == (1 / 2) / 2
    assert average_precision("", {"a"}) == average_precision("xy", {"a"}) == 0.0


def test_gain_by_hand():
    grades = {"a": 3, "b": 2, "c": 1, "x": 0}
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg_at(3, "abc", grades) == 1.0
    assert ndcg_at(3, "cxa", grades) == pytest.approx((1 + 3 / 2) / best, abs=1e-15)
    assert ndcg_at(1, "bac", grades) == pytest.approx(2 / 3, abs=1e-15)
    assert ndcg_at(2, "xb", {"a", "b"}) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)), abs=1e-15)


def test_a_grade_of_zero_is_not_relevant():
    grades = {"a": 0.0, "b": 0.5}
    assert (hit_at(1, "ab", grades), precision_at(2, "ab", grades), recall_at(2, "ab", grades)) == (0, 0.5, 1)
    assert (reciprocal_rank_of("ab", grades), average_precision("ab", grades)) == (0.5, 0.5)


def test_where_nothing_is_relevant_everything_is_zero():
    for relevant in (set(), {"a": 0}):
        values = [metric(3, "ab", relevant) for metric in (hit_at, recall_at, precision_at, ndcg_at)]
        assert [*values, reciprocal_rank_of("ab", relevant), average_precision("ab", relevant)] == [0.0] * 6


def test_an_item_that_comes_twice_counts_once_and_the_rest_moves_up():
    assert precision_at(3, "aaab", {"a", "b"}) == 2 / 3
    assert reciprocal_rank_of("xxxa", {"a"}) == 1 / 2
    assert average_precision("aaxb", {"a", "b"}) == (1 + 2 / 3) / 2
    assert recall_at(2, "aab", {"a", "b"}) == 1.0
    assert ndcg_at(2, "aab", {"a", "b"}) == 1.0


@pytest.mark.parametrize("metric", [hit_at, recall_at, precision_at, ndcg_at])
def test_k_below_one_and_bad_grades_are_refused(metric):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        metric(0, "a", {"a"})
    for grade in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="at least 0"):
            metric(1, "a", {"a": grade})


ITEMS = "abcdefghijkl"


@given(
    ranking=st.permutations(ITEMS).flatmap(lambda order: st.integers(1, len(order)).map(lambda size: order[:size])),
    grades=st.dictionaries(st.sampled_from(ITEMS), st.integers(0, 4), min_size=1).filter(lambda one: any(one.values())),
)
def test_trec_eval_gives_the_same(ranking, grades):
    names = {"success.1,5,10", "recall.1,5,10", "P.1,5,10", "ndcg_cut.1,5,10", "map_cut.5", "map", "recip_rank"}
    run = {"q": {item: float(-at) for at, item in enumerate(ranking)}}
    told = pytrec_eval.RelevanceEvaluator({"q": grades}, names).evaluate(run)["q"]
    own = {f"success_{k}": hit_at(k, ranking, grades) for k in (1, 5, 10)}
    own |= {f"recall_{k}": recall_at(k, ranking, grades) for k in (1, 5, 10)}
    own |= {f"P_{k}": precision_at(k, ranking, grades) for k in (1, 5, 10)}
    own |= {f"ndcg_cut_{k}": ndcg_at(k, ranking, grades) for k in (1, 5, 10)}
    own |= {"map_cut_5": average_precision(ranking, grades, 5), "map": average_precision(ranking, grades)}
    own |= {"recip_rank": reciprocal_rank_of(ranking, grades)}
    assert own.keys() == told.keys()
    np.testing.assert_allclose([own[name] for name in told], list(told.values()), atol=1e-12)
