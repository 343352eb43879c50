"""The vector store of this package next to others for LlamaIndex, on the same nodes: speed, recall, memory, disk.

    python benchmarks/peers.py [--count 20000] [--dimension 512] [--stores ours,faiss,simple,lancedb,chroma] [--json]

Each store gets the same nodes through its `add` (clustered unit vectors, a text of some 200 characters, four metadata keys),
and the same queries through its `query`, with the settings that it comes with. It has child processes of its own: one that
fills it, asks and saves, and three that open it again. A store that isn't installed is skipped, as is one with an import
missing. Stores go into the folder for temporary files; TMPDIR moves it.

Columns:
    insert/s      nodes added in a second, in batches of 1,000; making the nodes is not counted
    save s        persist, for the stores that are in memory until then; close, for the others
    ms, p95       median and 95th percentile of a query for the nearest 10, and of one with a filter that keeps 1 % of the nodes
    recall        share of the exact nearest 10 that was found; with the filter, of the exact nearest 10 that it keeps
    peak MiB      most memory that the filling process held, above what it had after its imports; 1,000 nodes in hand are in it
    disk MiB      size of all files once the process has ended
    reopen s      from open to the first result in a fresh process, imports not counted, files still in the system's cache
    texts         whether results come with the text of the node
"""

import argparse
import importlib
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from numpy.typing import NDArray

BATCH = 1000
DEPTH = 10
QUERIES = 50
WARM_UP = 5  # queries of each kind before those that are timed
OPENINGS = 3
CENTRES = 500
NOISE = 0.7  # length of what is added to a centre, whose length is 1
SHELVES = 100  # a filter on one of them keeps 1 %
SEED = 0
WORDS = ["river", "stone", "lamp", "garden", "winter", "paper", "engine", "yellow", "market", "cloud", "anchor", "copper"]
FILE = "default__vector_store.json"  # what LlamaIndex calls the file of a vector store

Row = dict[str, Any]


# -- the stores ---------------------------------------------------------------------------------------------------------


def make_ours(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """A new store, or the one that is there."""
    from llama_index_mm.stores import SpaceVectorStore

    return SpaceVectorStore(folder, dimension=dimension)


def save_ours(store: Any, folder: Path) -> None:
    """Close; everything but the files that make opening quick is on disk before."""
    store.close()


def make_faiss(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """A new store over an exact index of inner products."""
    import faiss
    from llama_index.vector_stores.faiss import FaissMapVectorStore

    return FaissMapVectorStore(faiss_index=faiss.IndexIDMap2(faiss.IndexFlatIP(dimension)))


def reopen_faiss(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """The store that was persisted."""
    from llama_index.vector_stores.faiss import FaissMapVectorStore

    return FaissMapVectorStore.from_persist_path(str(folder / FILE))


def make_simple(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """A new store."""
    from llama_index.core.vector_stores import SimpleVectorStore

    return SimpleVectorStore()


def reopen_simple(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """The store that was persisted."""
    from llama_index.core.vector_stores import SimpleVectorStore

    return SimpleVectorStore.from_persist_path(str(folder / FILE))


def persist(store: Any, folder: Path) -> None:
    """Write a store that is in memory."""
    store.persist(str(folder / FILE))


def make_lancedb(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """A new store, or the one that is there."""
    from llama_index.vector_stores.lancedb import LanceDBVectorStore

    return LanceDBVectorStore(uri=str(folder))


def make_chroma(folder: Path, dimension: int) -> BasePydanticVectorStore:
    """A new store with cosine as its distance, or the one that is there."""
    import chromadb
    from llama_index.vector_stores.chroma import ChromaVectorStore

    client = chromadb.PersistentClient(path=str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection("nodes", configuration={"hnsw": {"space": "cosine"}})
    return ChromaVectorStore(chroma_collection=collection)


def leave(store: Any, folder: Path) -> None:
    """Nothing: what was added is on disk."""


@dataclass(frozen=True)
class Peer:
    """A store, and how it is made, saved and opened again.

    Attributes:
        packages: to install; their versions are told.
        modules: imported before anything is measured.
        search: what it searches with, as it comes.
        make: from a folder and the length of a vector.
        save: after which everything is on disk.
        reopen: as `make`.
        filters: whether queries may have filters.
        late: modules that the store itself imports at first use; imported before too, if they are there.
    """

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    search: str
    make: Callable[[Path, int], BasePydanticVectorStore]
    save: Callable[[Any, Path], None]
    reopen: Callable[[Path, int], BasePydanticVectorStore]
    filters: bool = True
    late: tuple[str, ...] = ()


PEERS = {
    "ours": Peer(
        ("llama-index-mm", "faiss-cpu"),
        ("llama_index_mm.stores", "faiss"),
        "exact",
        make_ours,
        save_ours,
        make_ours,
        late=("numpy.ma",),
    ),
    "faiss": Peer(
        ("llama-index-vector-stores-faiss", "faiss-cpu"),
        ("llama_index.vector_stores.faiss", "faiss"),
        "exact (IndexIDMap2 over IndexFlatIP)",
        make_faiss,
        persist,
        reopen_faiss,
        filters=False,
    ),
    "simple": Peer(
        ("llama-index-core",),
        ("llama_index.core.vector_stores",),
        "exact",
        make_simple,
        persist,
        reopen_simple,
    ),
    "lancedb": Peer(
        ("llama-index-vector-stores-lancedb", "lancedb", "pandas"),
        ("llama_index.vector_stores.lancedb",),
        "exact (no index by default)",
        make_lancedb,
        leave,
        make_lancedb,
    ),
    "chroma": Peer(
        ("llama-index-vector-stores-chroma", "chromadb"),
        ("llama_index.vector_stores.chroma", "chromadb"),
        "approximate (HNSW with its defaults)",
        make_chroma,
        leave,
        make_chroma,
        late=("chromadb.api.rust",),
    ),
}


# -- nodes and queries --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What every store is given.

    Attributes:
        vectors: file of float32, one node after the other, so that no child holds them all.
        count: number of nodes.
        dimension: length of a vector.
        queries: those of the warm-up first.
        nearest: numbers of the exact nearest nodes for each query, without and with its filter.
    """

    vectors: Path
    count: int
    dimension: int
    queries: list[list[float]]
    nearest: dict[bool, list[list[int]]]


def near(centres: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors around centres taken at random."""
    noise = rng.standard_normal((count, centres.shape[1]), dtype=np.float32) * np.float32(NOISE / centres.shape[1] ** 0.5)
    points = centres[rng.integers(len(centres), size=count)] + noise
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def prepare(folder: Path, count: int, dimension: int) -> Task:
    """Write the vectors, choose the queries, and answer them exactly."""
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((CENTRES, dimension), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    queries = near(centres, WARM_UP + QUERIES, rng)
    similarities = np.empty((len(queries), count), dtype=np.float32)
    with (folder / "vectors").open("wb") as file:
        for begin in range(0, count, BATCH):
            vectors = near(centres, min(BATCH, count - begin), rng)
            similarities[:, begin : begin + BATCH] = queries @ vectors.T
            vectors.tofile(file)
    nearest: dict[bool, list[list[int]]] = {False: [], True: []}
    for number, found in enumerate(similarities):
        nearest[False].append(np.argsort(-found)[:DEPTH].tolist())
        kept = np.arange(number % SHELVES, count, SHELVES)
        nearest[True].append(kept[np.argsort(-found[kept])[:DEPTH]].tolist())
    return Task(folder / "vectors", count, dimension, queries.tolist(), nearest)


def text(number: int) -> str:
    """The text of a node."""
    rng = np.random.default_rng(number)
    return f"{number}: {' '.join(WORDS[at] for at in rng.integers(len(WORDS), size=30))}."


def nodes(task: Task, begin: int) -> list[TextNode]:
    """A batch of nodes with their vectors."""
    size = min(BATCH, task.count - begin)
    items = size * task.dimension
    vectors = np.fromfile(task.vectors, dtype=np.float32, count=items, offset=4 * begin * task.dimension)
    return [
        TextNode(
            id_=str(number),
            text=text(number),
            metadata={"number": number, "title": f"Node {number}", "bucket": number % 1000, "shelf": number % SHELVES},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document {number // 10}")},
            embedding=vector,
        )
        for number, vector in enumerate(vectors.reshape(size, task.dimension).tolist(), begin)
    ]


def question(task: Task, number: int, *, filtered: bool) -> VectorStoreQuery:
    """A query, with its filter or without."""
    kept = MetadataFilter(key="shelf", value=number % SHELVES, operator=FilterOperator.EQ)
    filters = MetadataFilters(filters=[kept]) if filtered else None
    return VectorStoreQuery(query_embedding=task.queries[number], similarity_top_k=DEPTH, filters=filters)


# -- measuring, in children ---------------------------------------------------------------------------------------------


def peak() -> int | None:
    """Most memory that this process ever held, in bytes; None where the system doesn't tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def load(peer: Peer) -> int | None:
    """Import what a store needs; gives the memory held after that."""
    logging.getLogger().setLevel(logging.ERROR)
    for module in peer.modules:
        importlib.import_module(module)
    for module in peer.late:
        with suppress(ImportError):
            importlib.import_module(module)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the imports
    return peak()


def has_texts(result: VectorStoreQueryResult) -> bool:
    """Whether a result has the texts of its nodes."""
    if not result.nodes:
        return False
    return all(node.get_content() == text(int(node.node_id)) for node in result.nodes)


def ask(store: BasePydanticVectorStore, task: Task, *, filtered: bool) -> Row:
    """Ask all queries."""
    times, recalls, texts = list[float](), list[float](), True
    for number, expected in enumerate(task.nearest[filtered]):
        query = question(task, number, filtered=filtered)
        began = time.perf_counter()
        result = store.query(query)
        seconds = time.perf_counter() - began
        if number < WARM_UP:
            continue
        times.append(1000 * seconds)
        found = {int(one) for one in (result.ids or [])[:DEPTH]}
        recalls.append(len(found.intersection(expected)) / len(expected))
        texts = texts and has_texts(result)
    name = "filtered_" if filtered else ""
    return {
        f"{name}p50_ms": float(np.percentile(times, 50)),
        f"{name}p95_ms": float(np.percentile(times, 95)),
        f"{name}recall": statistics.mean(recalls),
        "texts": texts,
    }


def fill(name: str, folder: Path, task: Task) -> Row:
    """Fill a store, ask, save."""
    peer = PEERS[name]
    try:
        before = load(peer)
    except ImportError as error:
        return {"skipped": f"{error}; pip install {' '.join(peer.packages)}"}
    store = peer.make(folder, task.dimension)
    seconds = 0.0
    for begin in range(0, task.count, BATCH):
        batch = nodes(task, begin)
        began = time.perf_counter()
        store.add(batch)
        seconds += time.perf_counter() - began
        del batch
        if begin // BATCH % 5 == 4:
            tell(f"{name}: {begin + BATCH} of {task.count} nodes, {(begin + BATCH) / seconds:.0f}/s")
    row: Row = {"inserts_per_second": task.count / seconds}
    tell(f"{name}: asking")
    if peer.filters:
        row |= ask(store, task, filtered=True)
    row |= ask(store, task, filtered=False)
    tell(f"{name}: saving")
    began = time.perf_counter()
    peer.save(store, folder)
    row["save_s"] = time.perf_counter() - began
    after = peak()
    row["peak_bytes"] = after - before if after is not None and before is not None else None
    return row


def reopen(name: str, folder: Path, task: Task) -> Row:
    """Time the first result of a store that is on disk."""
    peer = PEERS[name]
    load(peer)
    query = question(task, 0, filtered=False)
    began = time.perf_counter()
    result = peer.reopen(folder, task.dimension).query(query)
    seconds = time.perf_counter() - began
    if len(result.ids or []) != DEPTH:
        raise RuntimeError(f"opened again it gave {len(result.ids or [])} results instead of {DEPTH}")
    return {"reopen_s": seconds}


def guarded(work: Callable[[str, Path, Task], Row], name: str, folder: Path, task: Task) -> Row:
    """What `work` gives, or its error as text: an exception of a store need not survive the way between processes."""
    try:
        return work(name, folder, task)
    except (Exception, Warning) as error:
        return {"error": f"{work.__name__}: {type(error).__name__}: {error}"}


# -- the parent ---------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[str, Path, Task], Row], name: str, folder: Path, task: Task) -> Row:
    """Do something in a fresh process."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(guarded, work, name, folder, task).result()
    except Exception as error:  # the child died
        return {"error": f"{work.__name__}: {type(error).__name__}: {error}"}


def measure(name: str, folder: Path, task: Task) -> Row:
    """All that is told of one store."""
    row = {"store": name, "search": PEERS[name].search, "count": task.count, "dimension": task.dimension}
    row |= in_child(fill, name, folder, task)
    if "skipped" in row or "error" in row:
        return row
    row["versions"] = releases(["llama-index-core", *PEERS[name].packages])
    row["disk_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    tell(f"{name}: opening again")
    openings = [in_child(reopen, name, folder, task) for _ in range(OPENINGS)]
    failed = [one for one in openings if "error" in one]
    return row | (failed[0] if failed else {"reopen_s": statistics.median(one["reopen_s"] for one in openings)})


def releases(packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages, without those that are run from a source folder."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def tell(message: str) -> None:
    """Say how far it is."""
    print(message, file=sys.stderr, flush=True)


def cells(row: Row) -> list[str]:
    """One line of the table."""

    def show(key: str, style: str, factor: float = 1) -> str:
        value = row.get(key)
        return "-" if value is None else format(factor * value, style)

    def show_filtered(key: str, style: str) -> str:
        return show(key, style) if PEERS[row["store"]].filters else "none"

    return [
        row["store"],
        show("inserts_per_second", ",.0f"),
        show("save_s", ".2f"),
        show("p50_ms", ".2f"),
        show("p95_ms", ".2f"),
        show("recall", ".3f"),
        show_filtered("filtered_p50_ms", ".2f"),
        show_filtered("filtered_p95_ms", ".2f"),
        show_filtered("filtered_recall", ".3f"),
        show("peak_bytes", ",.0f", 2**-20),
        show("disk_bytes", ",.1f", 2**-20),
        show("reopen_s", ".3f"),
        "yes" if row.get("texts") else "no" if "texts" in row else "-",
        f"skipped: {row['skipped']}" if "skipped" in row else f"failed: {row['error']}" if "error" in row else row["search"],
    ]


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown, with the versions below."""
    head = ["store", "insert/s", "save s", "ms", "p95", "recall", "filtered ms", "p95", "recall", "peak MiB", "disk MiB"]
    head += ["reopen s", "texts", "search"]
    lines = [head, *(cells(row) for row in rows)]
    lines = [[" ".join(cell.split()).replace("|", "/") for cell in line] for line in lines]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    left = {0, len(head) - 2, len(head) - 1}
    rule = ["-" * width if at in left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    aligned = [
        [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    told = ["| " + " | ".join(line) + " |" for line in (aligned[0], rule, *aligned[1:])]
    known = dict(sorted(pair for row in rows for pair in row.get("versions", {}).items()))
    told += ["", f"{os.cpu_count()} CPUs; Python {sys.version.split()[0]}"]
    told += [", ".join(f"{package} {number}" for package, number in known.items())] if known else []
    if any(not PEERS[row["store"]].filters for row in rows):
        told += ["none: the store takes no metadata filters"]
    return "\n".join(told)


def chosen(names: str) -> list[str]:
    """Names of stores, from what was given on the command line."""
    given = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in given if name not in PEERS]
    if unknown or not given:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(PEERS)}, got {names!r}")
    return list(dict.fromkeys(given))


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="number of nodes (default: %(default)s)")
    parser.add_argument("--dimension", type=int, default=512, help="length of a vector (default: %(default)s)")
    parser.add_argument("--stores", type=chosen, default=list(PEERS), help=f"some of {','.join(PEERS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of the table")
    given = parser.parse_args()
    if given.count < SHELVES or given.dimension < 1:
        parser.error(f"--count must be at least {SHELVES}, --dimension at least 1")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        task = prepare(Path(name), given.count, given.dimension)
        for store in given.stores:
            folder = Path(name) / store
            folder.mkdir()
            row = measure(store, folder, task)
            for key in ("skipped", "error"):
                if key in row:
                    tell(f"{store}: {key}: {row[key]}")
            rows.append(row)
    if given.json:
        json.dump(rows, sys.stdout, indent=2)
        print()
    else:
        print(table(rows))
    if any("error" in row for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
