"""How fast the store is, beside raw FAISS and SQLite written by hand, and whether its results are the exact ones.

    python benchmarks/store.py                        # 200,000 vectors of 512 numbers, some minutes
    python benchmarks/store.py --clustered 1000000    # the approximate index too

Every figure is compared with a peer in the same run. Vectors of the first part have no clusters at all, which is the worst case
for an approximate index; those of the second part have 2,000. Parts run in processes of their own, so that each one's memory is
its own.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery

from llama_index_mm.stores import SpaceVectorStore

BATCH = 1000  # nodes
K = 10
CLUSTERS = 2000
SPREAD = 1.0  # of a cluster, relative to the distance of its centre from zero
ROUNDING = 1e-7  # of a similarity in float32
QUERIES_SEED = 10**6
ROUNDS = 41
FILTERS: dict[str, tuple[str, FilterOperator, Any]] = {
    "50 %": ("half", FilterOperator.EQ, 0),
    "10 %": ("tenth", FilterOperator.EQ, 3),
    "1 %": ("bucket", FilterOperator.IN, list(range(10))),
    "0.1 %": ("bucket", FilterOperator.EQ, 7),
}


def vectors(seed: int, count: int, dimension: int, clustered: bool) -> np.ndarray:
    """Unit vectors, the same for the same seed: ``(count, dimension)`` float32."""
    rng = np.random.default_rng(seed)
    out = rng.standard_normal((count, dimension), dtype=np.float32)
    if clustered:
        centres = np.random.default_rng(0).standard_normal((CLUSTERS, dimension), dtype=np.float32)
        out = centres[rng.integers(0, CLUSTERS, count)] + SPREAD * out
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def batches(count: int, dimension: int, clustered: bool) -> Iterator[list[TextNode]]:
    """Nodes with their embeddings as lists, as LlamaIndex has them."""
    for start in range(0, count, BATCH):
        rows = vectors(start + 1, BATCH, dimension, clustered).tolist()
        yield [node(start + at, row) for at, row in enumerate(rows)]


def node(number: int, embedding: list[float]) -> TextNode:
    """One node."""
    metadata = {"half": number % 2, "tenth": number % 10, "bucket": number * 7919 % 1000, "source": f"file-{number // 20}.txt"}
    return TextNode(
        id_=f"node-{number}", text=f"Passage number {number} of the collection.", metadata=metadata, embedding=embedding
    )


def megabytes(name: str) -> float:
    """A figure of this process's memory."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return float("nan")


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run something with memory of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def timed(count: int, *works: Callable[[int], Any]) -> list[list[float]]:
    """Milliseconds of each work, in turns, so that a noisy machine is noisy for all of them."""
    times: list[list[float]] = [[] for _ in works]
    for at in range(count):
        for work, kept in zip(works, times, strict=True):
            start = time.perf_counter()
            work(at)
            kept.append(1000 * (time.perf_counter() - start))
    return [kept[1:] for kept in times]


# -- parts, each in its own process ------------------------------------------------------------------------------------


def add_to_store(folder: Path, count: int, dimension: int, clustered: bool) -> dict[str, float]:
    """Add through the store."""
    before = megabytes("VmRSS")
    store = SpaceVectorStore(folder, dimension=dimension)
    seconds = 0.0
    for batch in batches(count, dimension, clustered):
        start = time.perf_counter()
        store.add(batch)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    store.close()
    closing = time.perf_counter() - start
    return {"seconds": seconds + closing, "of_which_closing": closing, "peak_mb": megabytes("VmHWM") - before}


class ByHand:
    """SQLite and FAISS with as few words as possible: nodes and vectors, and metadata rows if that is asked for.

    Args:
        folder: where to.
        dimension: length of a vector.
        facts: whether to write metadata too, so that it could be filtered by.
    """

    def __init__(self, folder: Path, dimension: int, facts: bool) -> None:
        folder.mkdir(parents=True)
        self.folder, self.facts, self.seq = folder, facts, 0
        self.database = sqlite3.connect(folder / "by-hand.sqlite", isolation_level=None)
        self.database.execute("PRAGMA page_size = 16384")
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("CREATE TABLE nodes (seq INTEGER PRIMARY KEY, node_id TEXT UNIQUE, ref_doc_id TEXT, body TEXT)")
        self.database.execute("CREATE INDEX by_document ON nodes (ref_doc_id)")
        self.database.execute("CREATE TABLE vectors (seq INTEGER PRIMARY KEY, vector BLOB)")
        self.database.execute("CREATE TABLE facts (key TEXT, value, seq INTEGER, PRIMARY KEY (key, value, seq)) WITHOUT ROWID")
        self.index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))

    def add(self, batch: list[TextNode]) -> None:
        """Write some nodes in one transaction."""
        matrix = np.asarray([one.embedding for one in batch], dtype=np.float32)
        ids = list(range(self.seq, self.seq + len(batch)))
        self.seq += len(batch)
        nodes = [
            (at, one.node_id, one.ref_doc_id, json.dumps(one.model_copy(update={"embedding": None}).to_dict()))
            for at, one in zip(ids, batch, strict=True)
        ]
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?)", nodes)
        rows = [(at, row.tobytes()) for at, row in zip(ids, matrix, strict=True)]
        self.database.executemany("INSERT INTO vectors VALUES (?, ?)", rows)
        if self.facts:
            facts = [(key, value, at) for at, one in zip(ids, batch, strict=True) for key, value in one.metadata.items()]
            self.database.executemany("INSERT INTO facts VALUES (?, ?, ?)", facts)
        self.database.execute("COMMIT")
        self.index.add_with_ids(matrix, np.asarray(ids))

    def close(self) -> None:
        """Write the index to disk."""
        path = self.folder / "by-hand.faiss"
        faiss.write_index(self.index, str(path))
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        self.database.close()


def add_side_by_side(work: Path, count: int, dimension: int) -> dict[str, float]:
    """The same nodes three ways, batch by batch in turns."""
    store = SpaceVectorStore(work / "turns", dimension=dimension)
    ways = {
        "store": store,
        "by_hand": ByHand(work / "a", dimension, False),
        "with_metadata": ByHand(work / "b", dimension, True),
    }
    seconds = dict.fromkeys(ways, 0.0)
    for batch in batches(count, dimension, False):
        for name, way in ways.items():
            start = time.perf_counter()
            way.add(batch)
            seconds[name] += time.perf_counter() - start
    for name, way in ways.items():
        start = time.perf_counter()
        way.close()
        seconds[name] += time.perf_counter() - start
    return seconds


def open_and_ask(folder: Path, dimension: int, clustered: bool) -> dict[str, float]:
    """From nothing to the first result, and memory after some more queries with and without filters."""
    queries = vectors(QUERIES_SEED, 8, dimension, clustered).tolist()
    before = megabytes("VmRSS")
    start = time.perf_counter()
    store = SpaceVectorStore(folder)
    store.query(VectorStoreQuery(query_embedding=queries[0], similarity_top_k=K))
    seconds = time.perf_counter() - start
    for query in queries:
        for filters in (None, *map(filters_of, FILTERS)):
            store.query(VectorStoreQuery(query_embedding=query, similarity_top_k=K, filters=filters))
    store.close()
    return {"seconds": seconds, "peak_mb": megabytes("VmHWM") - before}


def filters_of(name: str) -> MetadataFilters:
    """The filter of that name."""
    key, operator, value = FILTERS[name]
    return MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])


def ask(folder: Path, count: int, dimension: int, clustered: bool) -> dict[str, Any]:
    """Times beside raw FAISS, and results beside exact ones."""
    store = SpaceVectorStore(folder)
    flat = faiss.IndexFlatIP(dimension)
    for start in range(0, count, BATCH):
        flat.add(vectors(start + 1, BATCH, dimension, clustered))
    queries = vectors(QUERIES_SEED, ROUNDS, dimension, clustered)
    lists = queries.tolist()

    def ours(at: int, filters: MetadataFilters | None = None) -> list[str]:
        return store.query(VectorStoreQuery(query_embedding=lists[at], similarity_top_k=K, filters=filters)).ids or []

    def raw(at: int) -> Any:
        return flat.search(queries[at : at + 1], K)

    mine, theirs = timed(ROUNDS, ours, raw)
    told: dict[str, Any] = {
        "store_p50_ms": float(np.median(mine)),
        "flat_p50_ms": float(np.median(theirs)),
        "limit_ms": 1.1 * float(np.median(theirs)) + 0.5,
        "recall": recall(ours, flat, queries, None),
        "filters": {},
    }
    for name, (key, _, value) in FILTERS.items():
        filters = filters_of(name)
        kept = {"half": 2, "tenth": 10, "bucket": 1000}[key]
        numbers = np.arange(count)
        facts = numbers * 7919 % 1000 if key == "bucket" else numbers % kept
        chosen = numbers[np.isin(facts, value)]
        filtered, unfiltered = timed(ROUNDS // 2, lambda at, filters=filters: ours(at, filters), ours)
        told["filters"][name] = {
            "p50_ms": float(np.median(filtered)),
            "of_unfiltered": float(np.median(filtered) / np.median(unfiltered)),
            "recall": recall(lambda at, filters=filters: ours(at, filters), flat, queries[: ROUNDS // 2], chosen),
        }
    store.close()
    return told


def recall(search: Callable[[int], list[str]], flat: Any, queries: np.ndarray, chosen: np.ndarray | None) -> float:
    """Share of results that are as near as the exact ones: float32 can't tell which of two is nearer by less than 1e-7."""
    parameters = None
    if chosen is not None:
        bits = np.zeros(flat.ntotal, bool)
        bits[chosen] = True
        packed = np.packbits(bits, bitorder="little")
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(packed))
    found = 0
    for at, query in enumerate(queries):
        farthest = flat.search(query[None], K, params=parameters)[0][0][-1]
        numbers = {int(one.removeprefix("node-")) for one in search(at)}
        found += sum(float(flat.reconstruct(number) @ query) >= farthest - ROUNDING for number in numbers)
    return found / (K * len(queries))


def build_approximate(folder: Path) -> dict[str, Any]:
    """Ask for an approximate index, and give what the store says of it."""
    store = SpaceVectorStore(folder)
    start = time.perf_counter()
    store.client.build_approximate(store.space)
    seconds = time.perf_counter() - start
    told = {"seconds": seconds, "peak_mb": megabytes("VmHWM"), "info": str(store.client.statistics()[0])}
    store.close()
    return told


# -- all of it -----------------------------------------------------------------------------------------------------------


def measure(work: Path, count: int, dimension: int) -> dict[str, Any]:
    """The exact store."""
    megabytes_of_vectors = count * dimension * 4 / 2**20
    note(f"adding {count:,} nodes through the store")
    added = in_a_process(add_to_store, work / "store", count, dimension, False)
    note("adding them again, in turns with SQLite and FAISS by hand")
    turns = in_a_process(add_side_by_side, work, count, dimension)
    note("opening and asking")
    opened = in_a_process(open_and_ask, work / "store", dimension, False)
    asked = in_a_process(ask, work / "store", count, dimension, False)
    note("looking for an approximate index where there are no clusters")
    unclustered = in_a_process(build_approximate, work / "store")
    return {
        "count": count,
        "dimension": dimension,
        "vectors_mb": megabytes_of_vectors,
        "add": {
            **added,
            "per_second": count / added["seconds"],
            "of_sqlite_and_faiss": turns["store"] / turns["by_hand"],
            "of_sqlite_and_faiss_with_metadata_rows": turns["store"] / turns["with_metadata"],
            "peak_of_vectors": added["peak_mb"] / megabytes_of_vectors,
        },
        "reopen": {**opened, "peak_of_vectors": opened["peak_mb"] / megabytes_of_vectors},
        "query": asked,
        "approximate_without_clusters": unclustered,
    }


def measure_clustered(work: Path, count: int, dimension: int) -> dict[str, Any]:
    """The approximate index."""
    note(f"adding {count:,} nodes with clusters; the index is built on closing")
    added = in_a_process(add_to_store, work / "clustered", count, dimension, True)
    note("opening and asking")
    opened = in_a_process(open_and_ask, work / "clustered", dimension, True)
    asked = in_a_process(ask, work / "clustered", count, dimension, True)
    store = SpaceVectorStore(work / "clustered")
    info = str(store.client.statistics()[0])
    store.close()
    faster = asked["flat_p50_ms"] / asked["store_p50_ms"]
    return {"count": count, "add": added, "reopen": opened, "query": asked, "faster_than_flat": faster, "info": info}


def note(text: str) -> None:
    """Say what is going on."""
    print(text, file=sys.stderr, flush=True)


def show(told: dict[str, Any], indent: str = "") -> None:
    """Print figures for people."""
    for name, value in told.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:<42} {value:,.3f}" if isinstance(value, float) else f"{indent}{name:<42} {value}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="vectors of the exact store; 0 leaves this part out")
    parser.add_argument(
        "--clustered", type=int, default=0, help="vectors with clusters; above 500,000 searches are approximate"
    )
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where to work; default is a temporary folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="store-benchmark-", dir=given.folder))
    told: dict[str, Any] = {}
    try:
        if given.count:
            told["exact"] = measure(work, given.count // BATCH * BATCH, given.dimension)
        if given.clustered:
            told["clustered"] = measure_clustered(work, given.clustered // BATCH * BATCH, given.dimension)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.json:
        print(json.dumps(told, indent=2))
    else:
        show(told)


if __name__ == "__main__":
    main()
