"""Care for a store in PostgreSQL: what is in it, whether it is sound, and approximate indexes."""

import json
import logging
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from llama_index_mm.errors import SpaceError
from llama_index_mm.media import MODALITIES, digest_bytes
from llama_index_mm.stores.facts import row_digest
from llama_index_mm.stores.maintenance import CheckReport, PartitionStatistics
from llama_index_mm.stores.postgres_connections import Plan, Statement
from llama_index_mm.stores.postgres_facts import facts_json, from_stored
from llama_index_mm.stores.postgres_media import PostgresMedia
from llama_index_mm.stores.postgres_reading import MOST, nearest, sample, space_of
from llama_index_mm.stores.postgres_tables import Tables, as_matrix, lock
from llama_index_mm.stores.postgres_writing import NODES

__all__ = ["Measured", "analyze", "build", "check", "due", "measure", "settle", "statistics"]

logger = logging.getLogger(__name__)

_M, _EF = 16, 64  # neighbours of a vector in the graph, and candidates for them
_WIDEST = 2000  # dimensions that an HNSW index of pgvector takes
_MEMORY = "512MB"  # for a graph while it is built; larger ones take longer
_QUERIES = 48
_K = 10
_CANDIDATES = (64, 128, 256, 512, MOST)
_BATCH = 2000
_LISTED = 5  # problems of one kind that are told one by one


def analyze(tables: Tables) -> Plan[None]:
    """Let PostgreSQL count anew what is in the tables, so that it plans well."""
    rows = yield Statement(f"SELECT number FROM {tables.spaces} ORDER BY number")
    for table in (tables.nodes, tables.sources, *(tables.space(number) for (number,) in rows)):
        yield Statement(f"ANALYZE {table}")


def build(tables: Tables, space: str, modality: str) -> Plan[None]:
    """Build the approximate index of a partition, if it has none. Others may read meanwhile.

    Raises:
        SpaceError: the space is unknown, or has vectors that are too long.
    """
    yield lock(tables, "build")  # of two that build, the second finds it done
    known = yield from space_of(tables, space, modality)
    if not known.vectors or modality not in MODALITIES:
        return
    if known.facts.dimension > _WIDEST:
        raise SpaceError(
            f"Expected at most {_WIDEST} dimensions, as HNSW of pgvector takes, but space {space!r} has "
            f"{known.facts.dimension}. Its searches stay exact."
        )
    # Only one process builds: more would take shared memory, of which containers have little.
    yield Statement("SELECT set_config('maintenance_work_mem', ?, true)", (_MEMORY,))
    yield Statement("SELECT set_config('max_parallel_maintenance_workers', '0', true)")
    yield Statement(
        f"CREATE INDEX IF NOT EXISTS {tables.index(known.number, modality)} ON {tables.space(known.number)} "
        f"USING hnsw (embedding vector_ip_ops) WITH (m = {_M}, ef_construction = {_EF}) WHERE mm_modality = '{modality}'"
    )
    yield Statement(f"ANALYZE {tables.space(known.number)}")


class Measured(NamedTuple):
    """How good an approximate index is.

    Attributes:
        candidates: the fewest with which it reached the recall that was asked for, or the most.
        recall: share of the true 10 nearest that it found with these.
        queries: on how many that was measured.
        faster: how many times as fast as reading all vectors.
    """

    candidates: int
    recall: float
    queries: int
    faster: float


def measure(tables: Tables, space: str, modality: str, target: float) -> Plan[Measured | None]:
    """Measure the approximate index of a partition, with vectors of it and of the space's other modalities for queries."""
    known = yield from space_of(tables, space, modality)
    rows = yield Statement(
        f"SELECT modality FROM {tables.partitions} WHERE space = ? AND modality <> ? AND vectors > 0", (known.number, modality)
    )
    others = [row[0] for row in rows]
    parts = [(yield from sample(tables, space, modality, _QUERIES))]
    for other in others:
        parts.append((yield from sample(tables, space, other, max(1, _QUERIES // len(others)))))
    queries = np.concatenate(parts)
    if not len(parts[0]):
        return None
    start = time.perf_counter()
    exact = []
    for query in queries:
        found = yield from nearest(tables, known, modality, query, _K, exact=True)
        exact.append(set(found.seqs.tolist()))
    slow = time.perf_counter() - start
    for candidates in _CANDIDATES:
        start = time.perf_counter()
        hits = 0
        for query, right in zip(queries, exact, strict=True):
            found = yield from nearest(tables, known._replace(candidates=candidates), modality, query, _K)
            hits += len(right.intersection(found.seqs.tolist()))
        recall = hits / sum(map(len, exact))
        measured = Measured(candidates, recall, len(queries), slow / (time.perf_counter() - start))
        if recall >= target:
            break
    return measured


def settle(tables: Tables, space: str, modality: str, measured: Measured, target: float) -> Plan[None]:
    """Take an approximate index into use, or drop it if it finds too little."""
    yield lock(tables)
    known = yield from space_of(tables, space, modality)
    told = f"HNSW of pgvector: recall@{_K} {measured.recall:.3f} on {measured.queries} queries, {measured.faster:.2g} x as fast"
    good = measured.recall >= target
    if not good:
        yield Statement(f'DROP INDEX IF EXISTS "{tables.schema}".{tables.index(known.number, modality)}')
        logger.warning(
            "Space %r, %s: an HNSW index finds %.3f of the nearest, %g is wanted; searches stay exact.",
            *(space, modality, measured.recall, target),
        )
    yield Statement(
        f"UPDATE {tables.partitions} SET candidates = ?, told = ?, built = ? WHERE space = ? AND modality = ?",
        (measured.candidates if good else 0, told if good else "", known.vectors, known.number, modality),
    )


def due(tables: Tables, above: int) -> Plan[list[tuple[str, str]]]:
    """The (space, modality) that have so many vectors that an index is due, and twice as many as when one was tried."""
    rows = yield Statement(
        f"SELECT s.name, p.modality FROM {tables.partitions} AS p JOIN {tables.spaces} AS s ON s.number = p.space "
        "WHERE p.vectors > ? AND s.dimension <= ? AND coalesce(p.candidates, 0) = 0 AND p.vectors >= 2 * coalesce(p.built, 0) "
        "ORDER BY s.number, p.modality",
        (above, _WIDEST),
    )
    return [(from_stored(space), modality) for space, modality in rows]


def statistics(tables: Tables) -> Plan[list[PartitionStatistics]]:
    """One entry for each partition that is not empty."""
    rows = yield Statement(
        "SELECT s.name, p.modality, p.vectors, s.dimension, p.told, "
        f"coalesce(pg_relation_size(to_regclass('\"{tables.schema}\".data_space_' || s.number || '_' || p.modality || '_hnsw'))"
        f", 0) FROM {tables.partitions} AS p JOIN {tables.spaces} AS s ON s.number = p.space WHERE p.vectors > 0 "
        'ORDER BY s.name COLLATE "C", p.modality'
    )
    return [
        PartitionStatistics(from_stored(space), modality, vectors, dimension, 0, size, searched_by=index or "")
        for space, modality, vectors, dimension, index, size in rows
    ]


# -- check -------------------------------------------------------------------------------------------------------------


class _Problems(list[str]):
    def tell(self, kind: str, which: Iterable[str]) -> None:
        found = list(which)
        if found:
            more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            self.append(f"{kind}: {', '.join(found[:_LISTED])}{more}.")


def check(tables: Tables, media: PostgresMedia) -> Plan[CheckReport]:
    """Compare everything with everything, as it is at one moment."""
    problems = _Problems()
    nodes = yield from _check_nodes(tables, media, problems)
    vectors = yield from _check_vectors(tables, problems)
    files = yield from _check_media(tables, problems)
    return CheckReport(nodes, vectors, files, tuple(problems))


def _check_nodes(tables: Tables, media: PostgresMedia, problems: _Problems) -> Plan[int]:
    damaged: list[str] = []
    lacking: list[str] = []
    orphaned: list[str] = []
    rows = yield Statement(f"SELECT name FROM {tables.media}")
    there = {row[0] for row in rows}
    count = last = 0
    counts: dict[str, int] = {}
    while True:
        batch = yield Statement(
            "SELECT seq, node_id, ref_doc_id, modality, digest, body, facts::text "
            f"FROM {tables.nodes} WHERE seq > ? ORDER BY seq LIMIT ?",
            (last, _BATCH),
        )
        if not batch:
            break
        whole: list[tuple[str, str, str]] = []
        for seq, node_id, document, modality, digest, body, facts in batch:
            last, count = seq, count + 1
            counts[modality] = counts.get(modality, 0) + 1
            if row_digest(body.encode()) != digest or modality not in MODALITIES:
                damaged.append(node_id)
                continue
            whole.append((node_id, facts_json(json.loads(body)["metadata"], document)[0], facts))
            if any(path.name not in there for path in media.named_in(body)):
                orphaned.append(node_id)
        compared = yield Statement(
            "SELECT w.id FROM unnest(CAST(? AS text[]), CAST(? AS jsonb[]), CAST(? AS jsonb[])) AS w(id, a, b) WHERE a <> b",
            tuple(list(column) for column in zip(*whole, strict=True)) if whole else ([], [], []),
        )
        lacking += [row[0] for row in compared]
    problems.tell("Nodes that are not what was written (restore the database from a copy, or index them again)", damaged)
    problems.tell("Nodes that filters may miss (index them again)", lacking)
    problems.tell("Nodes whose file in the store's media is gone (index them again)", orphaned)
    yield from _check_counts(tables, NODES, "nodes", counts, problems)
    return count


def _check_counts(tables: Tables, space: int, name: str, counts: dict[str, int], problems: _Problems) -> Plan[None]:
    rows = yield Statement(f"SELECT modality, vectors FROM {tables.partitions} WHERE space = ?", (space,))
    noted = {modality: count for modality, count in rows if count}
    wrong = [of for of in sorted(counts | noted) if counts.get(of) != noted.get(of)]
    problems.tell("Counts", [f"{name}/{of} {counts.get(of, 0)}, noted {noted.get(of, 0)}" for of in wrong])


def _check_vectors(tables: Tables, problems: _Problems) -> Plan[int]:
    damaged: list[str] = []
    orphans: list[str] = []
    spaces = yield Statement(f"SELECT number, name, dimension FROM {tables.spaces} ORDER BY number")
    total = 0
    for number, name, dimension in spaces:
        last, counts = -1, dict[str, int]()
        while True:
            batch = yield Statement(
                "SELECT d.id, d.mm_modality, d.mm_digest, vector_send(d.embedding), n.seq IS NULL OR n.node_id <> d.node_id OR "
                f"n.modality <> d.mm_modality FROM {tables.space(number)} AS d LEFT JOIN {tables.nodes} AS n ON n.seq = d.id "
                "WHERE d.id > ? ORDER BY d.id LIMIT ?",
                (last, _BATCH),
            )
            if not batch:
                break
            matrix = as_matrix([row[3] for row in batch], dimension)
            for vector, (seq, modality, digest, _, orphan) in zip(matrix, batch, strict=True):
                last, total = seq, total + 1
                counts[modality] = counts.get(modality, 0) + 1
                if row_digest(vector.tobytes()) != digest or not np.isfinite(vector).all():
                    damaged.append(f"{name}/{modality} {seq}")
                if orphan:
                    orphans.append(f"{name} {seq}")
        yield from _check_counts(tables, number, name, counts, problems)
    problems.tell("Vectors that are not what was written (restore the database from a copy, or index them again)", damaged)
    problems.tell("Vectors without a node (delete these rows)", orphans)
    return total


def _check_media(tables: Tables, problems: _Problems) -> Plan[int]:
    wrong: list[str] = []
    names = yield Statement(f"SELECT name FROM {tables.media} ORDER BY name")
    for (name,) in names:
        rows = yield Statement(f"SELECT bytes FROM {tables.media} WHERE name = ?", (name,))
        if rows and digest_bytes(bytes(rows[0][0])) != name.partition(".")[0]:
            wrong.append(name)
    problems.tell("Media files that are not what was written", wrong)
    return len(names)
