"""Search for weights over scores that were made up, with figures worked out by hand."""

import math

import numpy as np
import pytest
from llama_index.core.schema import TextNode

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation import Judged, score_ranking
from llama_index_mm.evaluation.weighing import Case, blocks_of, find_weights, metric_of
from llama_index_mm.retrieval.candidates import CandidateList, Candidates

A, B = "text:a:text", "text:b:text"
SECOND = 1 / math.log2(3)  # nDCG where the only relevant item is second
CLOSE = {A: {"r": 0.6, "d": 0.5}, B: {"r": 0.2, "d": 0.4}}  # r is before d if a has more than 2/3 of the weight


def candidates(lists, *, weights=None, shares=None, unsteady=(), negative=(), fusion="convex"):
    """Lists of scores by key; all of one modality judge the same items."""
    items = sorted({item for scores in lists.values() for item in scores})
    nodes = {item: TextNode(id_=item, text=item) for item in items}
    told = tuple(
        CandidateList(
            key, (weights or {}).get(key, 1.0), (shares or {}).get(key, 1.0), key in negative, key not in unsteady, scores
        )
        for key, scores in lists.items()
    )
    modality = {item: key.rpartition(":")[2] for key, scores in lists.items() if key not in negative for item in scores}
    groups = {
        item: [at for at, one in enumerate(told) if one.key.endswith(f":{modality[item]}") and not one.negative]
        for item in items
    }
    return Candidates(nodes, told, groups, fusion)


def case(lists, relevant="r", *, metric="nDCG@10", excluded=(), **options):
    return Case(Judged("q", [relevant], excluded=excluded), candidates(lists, **options), "node_id", metric_of(metric))


def find(cases, *, pull=0.02, seed=0, restarts=3):
    defaults = {told.key: told.weight for one in cases for told in one.lists}
    return find_weights(cases, blocks_of(cases), defaults, pull=pull, restarts=restarts, seed=seed)


# -- one query ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "first"), [(1, 1, "d"), (0.66, 0.34, "d"), (0.67, 0.33, "r"), (1, 0, "r"), (0, 3, "d")])
def test_weights_decide_what_comes_first(a, b, first):
    one = case(CLOSE)
    assert one.ranking({A: a, B: b})[0] == first
    assert one.value({A: a, B: b}) == (1.0 if first == "r" else SECOND)


def test_only_ratios_count():
    one = case(CLOSE)
    assert one.ranking({A: 0.7, B: 0.3}) == one.ranking({A: 7, B: 3}) == ["r", "d"]


def test_the_part_s_share_counts_like_its_weight():
    assert case(CLOSE, shares={A: 3.0}).ranking({A: 1, B: 1}) == ["r", "d"]
    assert case(CLOSE, shares={B: 0.0}).ranking({A: 1, B: 1}) == ["r", "d"]


def test_ties_excluded_items_and_items_that_nobody_judges():
    tied = {A: {"b": 0.5, "a": 0.5, "r": 0.4}, B: {"c": 0.9}}
    assert case(tied).ranking({A: 1, B: 0}) == ["a", "b", "r"]
    assert case(tied, excluded=["a"]).ranking({A: 1, B: 0}) == ["b", "r"]
    assert case(tied, metric="R@1").ranking({A: 1, B: 1}) == ["c"]  # .45 before .25: what a says of c is missing, and counts 0
    assert case(tied).ranking({A: 0, B: 0}) == []


def test_what_is_not_wanted_is_taken_away_by_its_whole_weight():
    lists = {A: {"r": 0.6, "d": 0.9}, "image:n:text": {"r": 0.0, "d": 0.5}}
    one = case(lists, negative=["image:n:text"])
    assert one.ranking({A: 1, "image:n:text": 1}) == ["r", "d"]  # .9 x .5 = .45 < .6
    assert one.ranking({A: 5, "image:n:text": 0.6}) == ["d", "r"]  # .9 x .7 = .63 > .6
    assert one.rivals == []


def test_rivals_are_those_who_judge_the_same():
    lists = {**CLOSE, "text:c:image": {"x": 0.3}, "text:d:image": {"x": 0.2}, "text:e:audio": {"y": 0.1}}
    pictures = frozenset({"text:c:image", "text:d:image"})
    assert case(lists).rivals == [frozenset({A, B}), pictures]
    assert case(lists, weights={B: 0.0}).rivals == [pictures]
    assert case(lists, shares={B: 0.0}).rivals == [pictures]
    assert case({}).rivals == []


@pytest.mark.parametrize("name", ["nDCG@1", "nDCG@10", "R@3", "recall@3", "P@3", "MRR", "mAP"])
def test_metrics_are_those_of_the_reports(name):
    measure = metric_of(name)
    grades = {"a": 2.0, "b": 1.0, "c": 0.0}
    ranking = ["x", "b", "c", "y", "a"]
    places = [measure.places, 10] if name in ("MRR", "mAP") else [measure.places]
    told = score_ranking(ranking, Judged("q", grades), k=places)[name]
    assert measure.of(ranking[: measure.places], grades) == told


@pytest.mark.parametrize("name", ["", "ndcg@10", "nDCG", "nDCG@0", "R@-1", "R@1.5", "MRR@10", "R@٣"])
def test_unknown_metrics(name):
    with pytest.raises(QueryError, match="Unknown metric"):
        metric_of(name)


# -- blocks ---------------------------------------------------------------------------------------------------------------


def test_blocks_are_what_meets():
    """a meets b, b meets c; d and e are of another modality, f meets nobody."""
    lists = [{"text:a:text": {"r": 1.0}, "text:b:text": {"r": 1.0}}, {"text:b:text": {"r": 1.0}, "query:c:text": {"r": 1.0}}]
    other = {"text:d:image": {"r": 1.0}, "audio:e:image": {"r": 1.0}}
    alone = {"text:f:audio": {"r": 1.0}}
    cases = [case(one, unsteady=["query:c:text"]) for one in (*lists, other, alone)]
    first, second = blocks_of(cases)
    assert (first.keys, first.cases, first.steady) == (("audio:e:image", "text:d:image"), 0.25, frozenset(first.keys))
    assert (second.keys, second.cases) == (("query:c:text", "text:a:text", "text:b:text"), 0.5)
    assert (second.weights, second.steady) == ((1.0, 1.0, 1.0), {"text:a:text", "text:b:text"})


def test_shares_keep_the_sum_and_never_silence_a_part():
    (one,) = blocks_of([case(CLOSE, weights={A: 0.5, B: 1.5})])
    assert one.at(np.array([1.0, 3.0])) == {A: 0.5, B: 1.5}
    assert one.at(np.array([1.0, 0.0])) == {A: 2.0, B: 0.0}
    assert one.moved({A: 2.0, B: 0.0}) == 0.75
    two_parts = {A: {"r": 1.0}, "audio:a:text": {"r": 1.0}}
    (apart,) = blocks_of([case(two_parts)])
    assert apart.at(np.array([0.0, 1.0])) == {"audio:a:text": 0.02, A: 2.0}
    assert apart.at(np.array([1.0, 0.0])) == {"audio:a:text": 2.0, A: 0.02}
    (shaky,) = blocks_of([case(CLOSE, unsteady=[B])])  # without a, a query in which b is silent would find nothing
    assert shaky.at(np.array([0.0, 1.0])) == {A: 0.02, B: 2.0}
    assert shaky.at(np.array([1.0, 0.0])) == {A: 2.0, B: 0.0}
    (words,) = blocks_of([case({A: {"r": 1.0}, "query:bm25:text": {"r": 1.0}}, unsteady=["query:bm25:text"])])
    assert words.at(np.array([0.0, 1.0])) == {A: 2.0, "query:bm25:text": 0.0}  # sorted: bm25 comes first
    assert words.at(np.array([1.0, 0.0])) == {A: 0.02, "query:bm25:text": 2.0}


# -- the search -----------------------------------------------------------------------------------------------------------


def test_the_nearest_of_the_best_weights():
    """From .5 the first share above 2/3 is .7: beyond it nothing is gained and the pull is stronger."""
    assert find([case(CLOSE)]) == {A: 1.4, B: 0.6}
    assert find([case(CLOSE, weights={A: 3.0, B: 1.0})]) == {A: 3.0, B: 1.0}  # good already


def test_what_gains_less_than_the_pull_stays():
    """The gain is 1 - .63 = .37 for moving a fifth of the weight."""
    assert find([case(CLOSE)], pull=1.0) == {A: 1.4, B: 0.6}
    rare = [case(CLOSE), *[case({A: {"r": 1.0, "d": 0.0}, B: {"r": 1.0, "d": 0.0}})] * 9]
    assert find(rare, pull=0.1) == {A: 1.4, B: 0.6}  # .037 > .1 x .2
    assert find(rare, pull=0.2) == {A: 1.0, B: 1.0}  # .037 < .2 x .2


def test_a_weight_may_become_zero():
    """r falls behind as soon as b has any say."""
    against = {A: {"r": 0.50, "d": 0.49}, B: {"r": 0.0, "d": 1.0}}
    assert find([case(against)]) == {A: 2.0, B: 0.0}


def test_modalities_are_sought_together_but_weighed_apart():
    """A picture and a text compete: r needs much of a, the picture d needs little of c."""
    lists = {
        A: {"r": 0.6},
        B: {"r": 0.2},
        "text:c:image": {"d": 0.9},
        "text:d:image": {"d": 0.1},
    }
    # Both at .5: r .4, d .5. The least that moves is .15 in one of the two modalities: c to .35 (d .38), or a to .8 (r .52).
    found = find([case(lists)])
    assert found == {A: 1.0, B: 1.0, "text:c:image": 0.7, "text:d:image": 1.3}


def test_the_best_of_all_starts():
    """From the defaults any single step leads to the same value until c has more than 4 of 5."""
    lists = {A: {"r": 0.1, "d": 0.9}, B: {"r": 0.1, "d": 0.9}, "text:c:text": {"r": 0.9, "d": 0.7}}
    found = find([case(lists)])
    assert case(lists).value(found) == 1.0
    assert 0.8 <= found["text:c:text"] / sum(found.values()) <= 0.85  # r - d = .2 c - .8 (1 - c), and steps are of .05


def test_the_same_every_time():
    rng = np.random.default_rng(5)
    keys = [f"text:{name}:text" for name in "abcd"]
    cases = [case({key: {f"i{at}": float(rng.random()) for at in range(30)} for key in keys}, f"i{n}") for n in range(20)]
    first = find(cases, seed=3)
    assert find(cases, seed=3) == first
    assert sum(first.values()) == pytest.approx(4, abs=0.01)
