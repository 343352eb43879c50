import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_mm.errors import QueryError
from llama_index_mm.retrieval.select import Selection, best_of_each, choose

RANKED = {"t1": 0.9, "t2": 0.8, "t3": 0.7, "i1": 0.6, "t4": 0.5, "i2": 0.4, "a1": 0.3}
KINDS = {item: [{"t": "text", "i": "image", "a": "audio"}[item[0]]] for item in RANKED}


def chosen(k, **options):
    return choose(RANKED, k, kinds=KINDS, **options)


def test_without_wishes_the_best():
    assert chosen(3) == ["t1", "t2", "t3"]
    assert chosen(9) == list(RANKED)


def test_seats_that_are_kept():
    assert chosen(3, at_least={"audio": 1}) == ["t1", "t2", "a1"]
    assert chosen(3, at_least={"audio": 2, "image": 1}) == ["t1", "i1", "a1"]
    assert chosen(4, at_least={"mesh": 2}) == ["t1", "t2", "t3", "i1"]
    assert chosen(3, at_least={"text": 1}) == ["t1", "t2", "t3"]


def test_seats_that_may_be_taken():
    assert chosen(3, at_most={"text": 1}) == ["t1", "i1", "i2"]
    assert chosen(3, at_most={"text": 0, "image": 1}) == ["i1", "a1"]
    assert chosen(2, at_most={"text": 1}, at_least={"audio": 1}) == ["t1", "a1"]


def test_an_item_of_two_kinds_takes_a_seat_of_each():
    kinds = {"x": ["audio", "zh"], "y": ["audio", "de"], "z": ["text", "zh"]}
    ranked = {"y": 0.9, "x": 0.8, "z": 0.7}
    assert choose(ranked, 1, kinds=kinds, at_least={"zh": 1}) == ["x"]
    assert choose(ranked, 2, kinds=kinds, at_most={"audio": 1}) == ["y", "z"]
    assert choose(ranked, 2, kinds=kinds, at_least={"zh": 1, "audio": 1}) == ["y", "x"]


def test_diversity_by_hand():
    """b is a copy of a; c is like nothing."""
    ranked = {"a": 0.9, "b": 0.8, "c": 0.5}
    like = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], float)
    assert choose(ranked, 2, diversity=0.0, likeness=like.__getitem__) == ["a", "b"]
    # 0.8 (1 - d) - d against 0.5 (1 - d): even at d = 0.3 / 1.3.
    assert choose(ranked, 2, diversity=0.22, likeness=like.__getitem__) == ["a", "b"]
    assert choose(ranked, 2, diversity=0.24, likeness=like.__getitem__) == ["a", "c"]
    assert choose(ranked, 3, diversity=1.0, likeness=like.__getitem__) == ["a", "b", "c"]
    assert choose(ranked, 2, diversity=0.24, likeness=like.__getitem__, kinds={"b": ["x"]}, at_least={"x": 1}) == ["a", "b"]


def test_the_best_of_each():
    asked = []

    def group(items):
        asked.extend(items)
        return {item: str(item % 3) for item in items if item != 1}

    assert best_of_each(range(100), group) == {0: "0", 2: "2", 4: "1"}
    assert asked == list(range(100))
    asked.clear()
    assert best_of_each(range(100), group, 2) == {0: "0", 2: "2", 4: "1"}
    assert len(asked) == 32


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["x", "y", "z"]), max_size=12),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("xyz"), st.integers(2, 4)),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_quotas_hold_and_no_seat_stays_empty(kinds, k, at_least, at_most, diversity):
    ranked = {at: 1 - at / 20 for at in range(len(kinds))}
    like = np.eye(len(kinds))
    got = choose(
        ranked,
        k,
        kinds={at: [kind] for at, kind in enumerate(kinds)},
        at_least=at_least,
        at_most=at_most,
        diversity=diversity,
        likeness=like.__getitem__,
    )
    assert got == sorted(set(got))
    counts = {kind: sum(kinds[at] == kind for at in got) for kind in "xyz"}
    there = {kind: min(kinds.count(kind), at_most.get(kind, 99)) for kind in "xyz"}
    assert len(got) == min(k, sum(there.values()))
    assert all(counts[kind] <= there[kind] for kind in "xyz")
    if sum(at_least.values()) <= k:
        assert all(counts[kind] >= min(count, there[kind]) for kind, count in at_least.items())
    for kind in "xyz":  # of a kind always the best, as all are equally unlike
        assert [at for at in got if kinds[at] == kind] == [at for at in ranked if kinds[at] == kind][: counts[kind]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_least": {"video": 1}}, "'language:zh' in at_least, got 'video'"),
        ({"at_most": {"language:": 1}}, "in at_most, got 'language:'"),
        ({"at_least": {"image": -1}}, "at least 0 for 'image' in at_least, got -1"),
        ({"at_most": {"image": 1.5}}, "got 1.5"),
        ({"at_most": {"image": True}}, "got True"),
        ({"at_least": {"image": 2}, "at_most": {"image": 1}}, "at_least is more than at_most for image"),
        ({"similarity_cutoff": 1.1}, r"in \[0, 1\], as scores are; got 1.1"),
        ({"similarity_cutoff": float("nan")}, "got nan"),
        ({"collapse": "file"}, "got 'file'"),
        ({"expand": 2}, "with collapse='document'; got 2"),
        ({"expand": 0, "collapse": "document"}, "got 0"),
        ({"diversity": -0.1}, "got -0.1"),
    ],
)
def test_selections_that_have_no_meaning(options, message):
    with pytest.raises(QueryError, match=message):
        Selection(**options)


def test_more_seats_than_there_are():
    selection = Selection(at_least={"image": 2, "text": 2, "language:zh": 3, "language:de": 2})
    selection.check_seats(5)
    with pytest.raises(QueryError, match="keeps 5 seats, but similarity_top_k is 4"):
        selection.check_seats(4)
    assert selection.languages == ["zh", "de"]
