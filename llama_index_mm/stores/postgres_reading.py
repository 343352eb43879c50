"""What is read from a store in PostgreSQL: nodes by what they say, and vectors by how near they are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import SpaceError
from llama_index_mm.stores.base import Among, Seqs
from llama_index_mm.stores.postgres_connections import Plan, Statement
from llama_index_mm.stores.postgres_facts import from_stored, to_stored
from llama_index_mm.stores.postgres_filters import Condition, PostgresAmong, all_of
from llama_index_mm.stores.postgres_tables import Tables, as_matrix, as_vector_text
from llama_index_mm.stores.records import Source, StoredSpace, evenly
from llama_index_mm.stores.scan import inner_products_of_rows

__all__ = [
    "Nearest",
    "Space",
    "conditions_of",
    "find",
    "nearest",
    "read_sources",
    "sample",
    "similarities",
    "space_of",
    "vectors",
]

_MARGIN = 32  # more than asked for, so that ties and roundings at the end can be seen
_FILTERED = 2  # times as many candidates where there is a filter
_RARE = 5_000  # nodes that pass the filters, below which all of them are compared: the index would miss one in twenty
_LOOKED_AT = 2_000  # nodes of which that is estimated
_WIDER = 8  # times as many, if they go on
_SLACK = 5e-6  # more than pgvector's rounding, relative to the largest similarity
_FEW = 10_000  # nodes to choose from up to which all are compared
MOST = 1000  # candidates that an approximate index of pgvector keeps
_SCANNED = 40_000  # rows of the index that are looked at for those that pass the filters


class Space(NamedTuple):
    """A space, and what there is of one modality in it.

    Attributes:
        number: of its table.
        facts: what is known of it.
        vectors: how many.
        candidates: that its approximate index keeps in a search; 0 if there is none that is good enough.
    """

    number: int
    facts: StoredSpace
    vectors: int
    candidates: int


class Nearest(NamedTuple):
    """Nodes, best first, ``(n,)`` each, and their vectors ``(n, d)``."""

    seqs: Seqs
    similarities: Vectors
    vectors: Vectors


def space_of(tables: Tables, name: str, modality: str) -> Plan[Space]:
    """What is known of a space.

    Raises:
        SpaceError: there is none.
    """
    rows = yield Statement(
        "SELECT s.number, s.dimension, s.fingerprint, s.normalize, coalesce(p.vectors, 0), coalesce(p.candidates, 0) "
        f"FROM {tables.spaces} AS s LEFT JOIN {tables.partitions} AS p ON p.space = s.number AND p.modality = ? "
        "WHERE s.name = ?",
        (modality, to_stored(name)),
    )
    if not rows:
        known = yield Statement(f'SELECT name FROM {tables.spaces} ORDER BY name COLLATE "C"')
        raise SpaceError(f"Space {name!r} is not in this store; it has {[from_stored(row[0]) for row in known]}.")
    number, dimension, fingerprint, normalize, count, candidates = rows[0]
    return Space(number, StoredSpace(dimension, fingerprint, normalize), count, candidates)


# -- by what they say --------------------------------------------------------------------------------------------------


def conditions_of(
    *,
    node_ids: Sequence[str] | None = None,
    ref_doc_ids: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    filters: Condition | None = None,
) -> tuple[Condition, ...]:
    """Tests that all hold for what is asked for; None and [] restrict nothing."""
    found = []
    for test, wanted in (
        ("n.node_id = ANY({})", node_ids),
        ("n.ref_doc_id IS NOT NULL AND n.ref_doc_id = ANY({})", ref_doc_ids),
        ("n.modality = ANY({})", modalities),
    ):
        if wanted:
            found.append(Condition(test.format("CAST(? AS text[])"), ([to_stored(one) for one in wanted],)))
    return (*found, *([] if filters is None else [filters]))


def find(tables: Tables, condition: Condition, space: str | None = None) -> Plan[Seqs]:
    """Numbers of the nodes that pass a test and have a vector in a space, ascending."""
    sql = f"SELECT n.seq FROM {tables.nodes} AS n WHERE {condition.sql}"
    if space is not None:
        rows = yield Statement(f"SELECT number FROM {tables.spaces} WHERE name = ?", (to_stored(space),))
        if not rows:
            return np.zeros(0, np.int64)
        sql += f" AND EXISTS (SELECT 1 FROM {tables.space(rows[0][0])} AS d WHERE d.id = n.seq)"
    rows = yield Statement(sql, condition.values)
    return np.sort(np.array([row[0] for row in rows], dtype=np.int64))


def read_sources(tables: Tables, **given: str | None) -> Plan[list[Source]]:
    """Notes on files, by path: those of which each column that is given has its value."""
    wanted = {name: to_stored(value) for name, value in given.items() if value is not None}
    where = " AND ".join(f"{name} = ?" for name in wanted) or "true"
    sql = f'SELECT path, digest, status, reason, document_id FROM {tables.sources} WHERE {where} ORDER BY path COLLATE "C"'
    rows = yield Statement(sql, tuple(wanted.values()))
    return [Source(*(None if value is None else from_stored(value) for value in row)) for row in rows]  # type: ignore[arg-type]


# -- by how near they are ----------------------------------------------------------------------------------------------


def nearest(
    tables: Tables,
    space: Space,
    modality: str,
    query: Vectors,
    k: int,
    among: Among | Seqs | None = None,
    *,
    exact: bool = False,
) -> Plan[Nearest]:
    """The nearest of one modality; of equal similarities the older node.

    PostgreSQL gives candidates with some to spare; they are compared by the kernel that compares vectors everywhere here.

    Args:
        tables: of the store.
        space: as `space_of` gives it for the modality.
        modality: of the nodes.
        query: as `checked_query` gives it.
        k: how many.
        among: nodes to choose from; None for all.
        exact: leave the approximate index aside.
    """
    allowed = _allowed(tables, among)
    if k <= 0 or not space.vectors or allowed is None:
        return Nearest(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, space.facts.dimension), np.float32))
    few = among is not None and not isinstance(among, Among) and len(among) <= _FEW
    indexed = space.candidates and not exact and not few and k + _MARGIN <= MOST
    if indexed and not (yield from _are_few(tables, space, modality, among)):
        # In strict order what comes up late is left out, and with a filter that few pass most of the nearest come up late.
        depth = max(space.candidates, k + _MARGIN)
        limit = k + _MARGIN if among is None else _FILTERED * (k + _MARGIN)
        yield Statement(
            "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', ?, true), "
            "set_config('hnsw.max_scan_tuples', ?, true)",
            (str(depth), str(_SCANNED)),
        )
        rows = yield _candidates(tables, space, modality, query, limit, allowed, indexed=True)
        if len(rows) >= min(k, space.vectors):
            return _ranked(rows, query, k)
    limit = k + _MARGIN
    while True:
        rows = yield _candidates(tables, space, modality, query, limit, allowed, indexed=False)
        if len(rows) < limit:
            break
        distances = [row[1] for row in rows]
        slack = _SLACK * max(1.0, abs(distances[0]), abs(distances[-1]))
        if distances[-1] > distances[k - 1] + slack:
            break
        limit *= _WIDER
    return _ranked(rows, query, k)


def _are_few(tables: Tables, space: Space, modality: str, among: Among | Seqs | None) -> Plan[bool]:
    """Whether few nodes pass the filters, as some pages of them tell."""
    if not isinstance(among, PostgresAmong) or not among.conditions:
        return False
    sql, values = all_of(among.conditions)
    share = min(100.0, 100 * _LOOKED_AT / max(1, space.vectors))
    rows = yield Statement(
        f"SELECT count(*), count(*) FILTER (WHERE {sql}) FROM {tables.nodes} AS n TABLESAMPLE SYSTEM ({share:.6f}) "
        "WHERE n.modality = ?",
        (*values, modality),
    )
    seen, passed = rows[0]
    return bool(seen) and passed * space.vectors < _RARE * seen


def _allowed(tables: Tables, among: Among | Seqs | None) -> Condition | None:
    """The test of a row ``d`` that its node may be chosen; None if none may."""
    if among is None:
        return Condition("true")
    if isinstance(among, Among):
        if not isinstance(among, PostgresAmong):
            raise TypeError(f"Expected nodes of the same store, got {type(among).__name__}.")
        if among.is_empty:
            return None
        if not among.conditions:
            return Condition("true")
        sql, values = all_of(among.conditions)
        return Condition(f"EXISTS (SELECT 1 FROM {tables.nodes} AS n WHERE n.seq = d.id AND {sql})", values)
    return Condition("d.id = ANY(CAST(? AS bigint[]))", (among.tolist(),)) if len(among) else None


def _candidates(
    tables: Tables, space: Space, modality: str, query: Vectors, limit: int, allowed: Condition, *, indexed: bool
) -> Statement:
    """Number, distance and vector of the nearest rows. What is not the bare distance is not looked up in an index."""
    distance = "(d.embedding <#> CAST(CAST(? AS text) AS vector))"
    distance += "" if indexed else " + 0"
    order = "distance" if indexed else "distance, d.id"
    return Statement(
        f"SELECT c.id, c.distance, vector_send(c.embedding) FROM (SELECT d.id, d.embedding, {distance} AS distance "
        f"FROM {tables.space(space.number)} AS d WHERE d.mm_modality = '{modality}' AND {allowed.sql} "
        f"ORDER BY {order} LIMIT {limit}) AS c ORDER BY c.distance, c.id",
        (as_vector_text(query), *allowed.values),
    )


def _ranked(rows: Sequence[Any], query: Vectors, k: int) -> Nearest:
    seqs = np.array([row[0] for row in rows], np.int64)
    found = as_matrix([row[2] for row in rows], len(query))
    scores = inner_products_of_rows(query, found, np.arange(len(seqs)))
    order = np.lexsort((seqs, -scores))[:k]
    return Nearest(seqs[order], scores[order], found[order])


# -- vectors -----------------------------------------------------------------------------------------------------------


def _vectors(tables: Tables, space: Space, modality: str, seqs: Sequence[int]) -> Plan[tuple[NDArray[np.bool_], Vectors]]:
    """Which nodes have a vector, and all vectors in the order of the nodes; zeros where there is none."""
    sql = (
        f"SELECT id, vector_send(embedding) FROM {tables.space(space.number)} "
        "WHERE mm_modality = ? AND id = ANY(CAST(? AS bigint[]))"
    )
    wanted = [int(seq) for seq in seqs]
    rows = yield Statement(sql, (modality, wanted))
    place = {row[0]: at for at, row in enumerate(rows)}
    matrix = as_matrix([row[1] for row in rows], space.facts.dimension)
    here = np.array([seq in place for seq in wanted], bool)
    out = np.zeros((len(wanted), space.facts.dimension), np.float32)
    out[here] = matrix[[place[seq] for seq in wanted if seq in place]]
    return here, out


def vectors(tables: Tables, name: str, modality: str, seqs: Sequence[int]) -> Plan[Vectors]:
    """Vectors of nodes, ``(n, d)``; zeros for a node that has none."""
    space = yield from space_of(tables, name, modality)
    return (yield from _vectors(tables, space, modality, seqs))[1]


def similarities(
    tables: Tables, name: str, modality: str, seqs: Sequence[int], checked_query: Callable[[StoredSpace], Vectors]
) -> Plan[Vectors]:
    """Inner products with the query, ``(n,)``; NaN for a node that has no vector."""
    space = yield from space_of(tables, name, modality)
    query = checked_query(space.facts)
    here, found = yield from _vectors(tables, space, modality, seqs)
    out = np.full(len(here), np.nan, np.float32)
    out[here] = inner_products_of_rows(query, found, np.flatnonzero(here))
    return out


def sample(tables: Tables, name: str, modality: str, size: int) -> Plan[Vectors]:
    """At most ``size`` vectors of a partition, evenly spread: ``(m, d)``."""
    space = yield from space_of(tables, name, modality)
    table = tables.space(space.number)
    count = space.vectors
    chosen = evenly(count, size)
    sql = (
        f"SELECT vector_send(d.embedding) FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM {table} "
        f"WHERE mm_modality = ?) AS c JOIN {table} AS d ON d.id = c.id WHERE c.place = ANY(CAST(? AS bigint[])) ORDER BY d.id"
    )
    rows = yield Statement(sql, (modality, chosen.tolist()))
    return as_matrix([row[0] for row in rows], space.facts.dimension)
