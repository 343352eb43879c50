import pytest

from llama_index_mm.evaluation import QueryScores, hit_at, precision_at, reciprocal_rank_of, summarise


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
