"""The checks of a vector store's filters: every operator of LlamaIndex, conditions, and restrictions to ids."""

from collections.abc import Callable
from functools import partial
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.testing.store_bench import Bench, id_of

__all__ = ["FILTERS"]

Op = FilterOperator
_AND, _OR, _NOT = FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT
# Each a little further from the question than the one before. As texts the heights would be in another order.
_TREES: dict[str, dict[str, Any]] = {
    "oak": {"name": "English oak", "kind": "broadleaf", "height": 30, "girth": 2.5},
    "elm": {"name": "wych elm", "kind": "broadleaf", "height": 25, "girth": 1.5},
    "fir": {"name": "Douglas fir", "kind": "conifer", "height": 60, "girth": 10.25},
    "yew": {"name": "Irish yew", "kind": "conifer", "height": 9, "girth": 1.25},
    "bay": {"name": "sweet bay", "kind": "broadleaf", "height": 10, "girth": 0.5},
}
_PLACES = {"oak": "forest", "elm": "forest", "fir": "ridge", "yew": "ridge", "bay": "garden"}
_USES = {"oak": ["beams", "barrels"], "elm": ["boats"], "fir": ["masts"], "yew": ["bows", "beams"], "bay": ["spice"]}
_SHELVES = 40
_SHELVED = 200

_Wanted = tuple[str, Any, str]  # key, value, names of the trees that match
OPERATORS: dict[FilterOperator, tuple[_Wanted, ...]] = {
    Op.EQ: (("name", "Douglas fir", "fir"), ("height", 30, "oak"), ("girth", 2.5, "oak")),
    Op.NE: (("name", "Douglas fir", "oak elm yew bay"), ("height", 30, "elm fir yew bay")),
    Op.GT: (("height", 25, "oak fir"), ("girth", 1.5, "oak fir")),
    Op.LT: (("height", 25, "yew bay"), ("girth", 1.5, "yew bay")),
    Op.GTE: (("height", 25, "oak elm fir"), ("girth", 1.5, "oak elm fir")),
    Op.LTE: (("height", 25, "elm yew bay"), ("girth", 1.5, "elm yew bay")),
    Op.IN: (("name", ["wych elm", "Irish yew", "other"], "elm yew"), ("height", [60, 9], "fir yew")),
    Op.NIN: (("name", ["wych elm", "Irish yew"], "oak fir bay"), ("height", [60, 9], "oak elm bay")),
    Op.TEXT_MATCH: (("name", "oak", "oak"),),
    Op.TEXT_MATCH_INSENSITIVE: (("name", "OAK", "oak"),),
}
OF_LISTS: dict[FilterOperator, tuple[_Wanted, ...]] = {
    Op.ANY: (("uses", ["boats", "bows"], "elm yew"),),
    Op.ALL: (("uses", ["beams", "bows"], "yew"),),
    Op.CONTAINS: (("uses", "beams", "oak yew"),),
}


def where(key: str, operator: FilterOperator, value: Any = None) -> MetadataFilter:
    """One filter."""
    return MetadataFilter(key=key, operator=operator, value=value)


def group(*filters: MetadataFilter | MetadataFilters, condition: FilterCondition = _AND) -> MetadataFilters:
    """Several filters."""
    return MetadataFilters(filters=list(filters), condition=condition)


def _plant(bench: Bench, more: dict[str, dict[str, Any]] | None = None) -> None:
    bench.add(
        [
            bench.node(name, 0.2 + 0.4 * at, {**facts, **(more or {}).get(name, {})}, document=_PLACES[name])
            for at, (name, facts) in enumerate(_TREES.items())
        ]
    )


def _each(operator: FilterOperator, bench: Bench) -> str:
    """One operator, over all that it is made for."""
    wanted = OPERATORS.get(operator) or OF_LISTS[operator]
    _plant(bench, {name: {"uses": uses} for name, uses in _USES.items()} if operator in OF_LISTS else None)
    for key, value, names in wanted:
        bench.expect(names, f"{key} {operator.value} {value}", filters=group(where(key, operator, value)))
    kinds = dict.fromkeys(type(value[0] if isinstance(value, list) else value).__name__ for _, value, _ in wanted)
    return f"with {', '.join(kinds)}"


def is_empty(bench: Bench) -> str:
    """Keys that are missing or null."""
    _plant(bench, {"oak": {"note": "old"}, "fir": {"note": None}, "bay": {"note": "sweet"}})
    bench.expect("elm fir yew", "note is_empty", filters=group(where("note", Op.IS_EMPTY)))
    return "missing and null"


def missing_keys(bench: Bench) -> str:
    """A key that a node hasn't got matches what is negative, and nothing else."""
    _plant(bench, {"oak": {"age": 300}, "fir": {"age": 80}})
    for operator, value, names in (
        (Op.EQ, 300, "oak"),
        (Op.GT, 0, "oak fir"),
        (Op.IN, [80], "fir"),
        (Op.NE, 300, "elm fir yew bay"),
        (Op.NIN, [300], "elm fir yew bay"),
    ):
        bench.expect(names, f"age {operator.value} {value}", filters=group(where("age", operator, value)))
    return "match != and nin only"


_BROADLEAF, _TALL = where("kind", Op.EQ, "broadleaf"), where("height", Op.GTE, 25)


def _conditions(condition: FilterCondition, names: str, bench: Bench) -> str:
    """Two filters under one condition."""
    fir = where("name", Op.EQ, "Douglas fir")
    _plant(bench)
    both = (_BROADLEAF, where("height", Op.EQ, 25)) if condition == _AND else (_BROADLEAF, fir)
    bench.expect(names, f"{condition.value} of two", filters=group(*both, condition=condition))
    return "of two filters"


def nested(bench: Bench) -> str:
    """Groups within groups."""
    _plant(bench)
    either = group(where("name", Op.EQ, "Irish yew"), where("name", Op.EQ, "sweet bay"), condition=_OR)
    bench.expect("bay", "kind == broadleaf and (yew or bay)", filters=group(_BROADLEAF, either))
    other = group(group(_BROADLEAF, _TALL), where("name", Op.EQ, "Irish yew"), condition=_OR)
    bench.expect("oak elm yew", "(broadleaf and tall) or yew", filters=other)
    return "or within and, and within or"


def selective(bench: Bench) -> str:
    """A filter that few nodes pass, far from the question, still gives k."""
    nodes = [bench.node(f"n{at}", 3.0 * (at + 1) / _SHELVED, {"shelf": at % _SHELVES}) for at in range(_SHELVED)]
    bench.add(nodes)
    last = [f"n{at}" for at in range(_SHELVED) if at % _SHELVES == _SHELVES - 1]
    few = group(where("shelf", Op.EQ, _SHELVES - 1))
    bench.expect(" ".join(last), f"a filter that {len(last)} of {_SHELVED} pass", k=len(last), filters=few)
    return f"{len(last)} of {len(last)}, among {_SHELVED}"


def none_pass(bench: Bench) -> str:
    """A filter that no node passes gives nothing, without an error."""
    _plant(bench)
    bench.expect("", "name == none", filters=group(where("name", Op.EQ, "none")))
    return "no results, no error"


def node_ids(bench: Bench) -> str:
    """A query among some nodes only."""
    _plant(bench)
    bench.expect("oak yew", "node_ids of oak and yew", node_ids=[id_of("yew"), id_of("oak")])
    bench.expect("yew", "node_ids of yew, k=1,", node_ids=[id_of("yew")], k=1)
    return "2 of 5 nodes"


def doc_ids(bench: Bench) -> str:
    """A query among the nodes of some documents only."""
    _plant(bench)
    bench.expect("fir yew", "doc_ids of ridge", doc_ids=["ridge"])
    bench.expect("fir", "doc_ids of ridge, k=1,", doc_ids=["ridge", "nowhere"], k=1)
    return "1 of 3 documents"


_ORDER = (Op.EQ, Op.NE, Op.GT, Op.LT, Op.GTE, Op.LTE, Op.IN, Op.NIN, Op.ANY, Op.ALL, Op.TEXT_MATCH, Op.TEXT_MATCH_INSENSITIVE)
FILTERS: dict[str, Callable[[Bench], str]] = {
    **{f"filter {operator.name}": partial(_each, operator) for operator in (*_ORDER, Op.CONTAINS)},
    "filter IS_EMPTY": is_empty,
    "filter on missing keys": missing_keys,
    "filters by AND": partial(_conditions, _AND, "elm"),
    "filters by OR": partial(_conditions, _OR, "oak elm fir bay"),
    "filters by NOT": partial(_conditions, _NOT, "yew"),
    "filters nested": nested,
    "filter that few pass": selective,
    "filter that none pass": none_pass,
    "node_ids of a query": node_ids,
    "doc_ids of a query": doc_ids,
}
