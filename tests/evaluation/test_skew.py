import json

import pytest

from llama_index_mm.errors import QueryError
from llama_index_mm.evaluation import FactRanking, language_skew

SAID = {"en": ["e"], "zh": ["z"]}


def asked(language, ranking, fact="fact", items=SAID):
    return FactRanking(fact, language, items, ranking)


def means(row):
    return {name: one.mean for name, one in row.first.items()}, row.neither.mean, row.gap.mean if row.gap else None


def test_by_hand():
    told = language_skew(
        [
            asked("en", "ez", 1),  # en first, gap +1
            asked("en", "exy", 2),  # zh is not found: rank 4, gap +3
            asked("en", "xz", 3),  # en is not found: rank 3, gap -1
            asked("en", "xy", 4),  # neither
            asked("zh", "xez", 1),  # gap +1
            asked("zh", "z", 2),  # gap -1
        ]
    )
    assert told.languages == ("en", "zh")
    assert means(told.asked["en"]) == ({"en": 2 / 4, "zh": 1 / 4}, 1 / 4, (1 + 3 - 1) / 3)
    assert means(told.asked["zh"]) == ({"en": 1 / 2, "zh": 1 / 2}, 0.0, 0.0)
    # Of a fact's queries the mean counts: facts 1 to 4 have gaps 1, (3 - 1) / 2, -1 and none.
    assert means(told.overall) == ({"en": (1 + 1 / 2) / 4, "zh": (1 / 2 + 1) / 4}, 1 / 4, (1 + 1 - 1) / 3)
    assert [row.queries for row in (*told.asked.values(), told.overall)] == [4, 2, 6]


def test_fair_and_skewed():
    facts = range(40)
    fair = language_skew([asked(own, "ez" if own == "en" else "ze", fact) for fact in facts for own in ("en", "zh")])
    assert fair.fair
    assert means(fair.overall) == ({"en": 0.5, "zh": 0.5}, 0.0, 0.0)
    assert str(fair).endswith("No skew beyond the noise.")
    skewed = language_skew([asked(own, "zxe", fact) for fact in facts for own in ("en", "zh")])
    assert not skewed.fair
    assert means(skewed.overall) == ({"en": 0.0, "zh": 1.0}, 0.0, -2.0)
    assert str(skewed).endswith("Skewed towards zh.")


def test_a_few_facts_show_no_skew():
    for facts, fair in ((1, True), (5, True), (6, False)):
        assert language_skew([asked("en", "zxe", fact) for fact in range(facts)]).fair is fair


def test_several_items_say_it_and_the_best_counts():
    items = {"en": ["e1", "e2"], "zh": ["z1", "z2"]}
    told = language_skew([asked("en", ["x", "e2", "z1", "e1"], items=items)])
    assert told.overall.gap.mean == 1.0


def test_an_item_that_comes_twice_has_one_place():
    assert language_skew([asked("en", "eeeez")]).overall.gap.mean == 1.0


def test_nothing_is_found():
    told = language_skew([asked("en", "")])
    assert means(told.overall) == ({"en": 0.0, "zh": 0.0}, 1.0, None)
    assert told.fair
    assert str(told) == (
        "asked in en: en first 0 %, zh first 0 %, neither 100 % (1 queries)\n"
        "overall: en first 0 %, zh first 0 %, neither 100 % (1 queries)\nNo skew beyond the noise."
    )


def test_other_names_of_the_languages_turn_the_sign():
    swapped = {"en": SAID["zh"], "zh": SAID["en"]}
    one = language_skew([asked("en", "exz", fact) for fact in range(5)])
    two = language_skew([asked("en", "exz", fact, swapped) for fact in range(5)])
    assert one.overall.gap.mean == -two.overall.gap.mean == 2.0


def test_json():
    told = language_skew([asked("en", "ez"), asked("zh", "ez")]).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["languages"], told["fair"]) == (["en", "zh"], True)
    assert told["asked"]["zh"]["first"]["en"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 1}


@pytest.mark.parametrize(
    "items",
    [{"en": ["e"]}, {"en": ["e"], "zh": []}, {"en": ["e"], "zh": ["e"]}, {"en": ["e"], "zh": ["z"], "de": ["d"]}],
)
def test_what_is_no_pair_is_refused(items):
    with pytest.raises(QueryError, match="same two languages"):
        language_skew([asked("en", "ez", items=items)])


def test_other_languages_in_one_fact_and_no_facts_are_refused():
    with pytest.raises(QueryError, match="for 'odd'"):
        language_skew([asked("en", "ez"), asked("en", "ez", "odd", {"en": ["e"], "de": ["d"]})])
    with pytest.raises(QueryError, match="at least one query"):
        language_skew([])
