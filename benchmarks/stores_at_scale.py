"""The same vectors in the local store, in PostgreSQL and in Milvus: insert, index, queries with filters, recall, disk, memory.

    python benchmarks/stores_at_scale.py                                       # local only, beside a flat scan
    python benchmarks/stores_at_scale.py --postgres postgresql://me:secret@localhost/scratch --milvus http://localhost:19530
    python benchmarks/stores_at_scale.py --count 20000 --json

Every engine gets the same nodes through `add` of a store of this package (clustered unit vectors, a short text, three metadata
keys), in batches of 1,000, and lives in a process of its own. Then they are asked in turns, query by query, so that a noisy
machine is noisy for all of them. A query is for the nearest 10; with a filter, finding what it lets through is part of it. The
schema of PostgreSQL and the collection of Milvus are made by this program and are dropped by it; nothing else there is touched.

Engines, and the ways in which each is asked:
    flat                 FAISS's exact scan over one matrix, without nodes or files: the limit. A filter is a bitmap at hand.
    local                `MediaStore` in a folder. exact; or approximate, which is without filters only: with them it is exact
    postgres             `PostgresStore`. exact: a scan; HNSW with pgvector's iterative scan, which is what the store does; and
                         HNSW without it, by SQL as pgvector comes
    milvus               `MediaStore` with `milvus_stores`, HNSW. Session and Strong are consistency levels of a search

Columns:
    insert/s             nodes added in a second, durable; for Milvus until it and the folder have them
    index s              building the approximate index after that; for Milvus what was left to be built
    p50, p95             milliseconds of a query
    recall               share of the nearest 10 that are as near as the exact ones
    disk MiB             folder of the local store; tables and indexes for PostgreSQL; folder and --milvus-folder for Milvus
    memory MiB           most that the process of the engine held above what it had after its imports
    server MiB           what the processes of a server on this machine hold at the end, with their share of what is shared
"""

import argparse
import json
import multiprocessing
import os
import secrets
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from numpy.typing import NDArray

BATCH = 1000  # nodes
K = 10
AROUND = 100  # vectors around a centre
NOISE = 0.7  # length of what is added to a centre, whose length is 1
WARM_UP = 3  # queries of each kind before those that are timed
SAME = 1e-6  # of a similarity in float32
SPACE = "vectors"
FILTERS = {"none": 1, "50 %": 2, "5 %": 20}  # a filter lets one in so many through
KEYS = {2: "half", 20: "twentieth"}
WAIT = 600  # seconds for Milvus to build its index

Ask = Callable[[NDArray[np.float32], int, int], Sequence[int]]
"""Takes a query, one in how many is let through, and which; gives numbers of nodes."""


# -- what all are given -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What every engine is given.

    Attributes:
        vectors: file of float32, one node after the other.
        count: of nodes.
        dimension: of a vector.
        folder: to work in.
        postgres: address of the server.
        milvus: address of the server.
        milvus_folder: where it keeps its data, if that is on this machine.
        name: of the schema and the collection.
    """

    vectors: Path
    count: int
    dimension: int
    folder: Path
    postgres: str | None
    milvus: str | None
    milvus_folder: Path | None
    name: str

    def matrix(self) -> NDArray[np.float32]:
        """All vectors, mapped."""
        return np.memmap(self.vectors, np.float32, "r", shape=(self.count, self.dimension))


@dataclass
class Figures:
    """What was measured of one engine.

    Attributes:
        engine: its name.
        per_second: nodes added.
        index_s: seconds.
        disk_mb: see above.
        memory_mb: of the engine's process.
        server_mb: of the server's processes.
        info: what the store says of its index.
        milliseconds: of each query, by way and filter.
        recalls: of each query, by way and filter.
        skipped: why nothing was.
    """

    engine: str
    per_second: float = float("nan")
    index_s: float = float("nan")
    disk_mb: float = float("nan")
    memory_mb: float = float("nan")
    server_mb: float = float("nan")
    info: str = ""
    milliseconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    recalls: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    skipped: str = ""


def near(centres: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors around centres taken at random."""
    noise = rng.standard_normal((count, centres.shape[1]), dtype=np.float32) * np.float32(NOISE / centres.shape[1] ** 0.5)
    points = centres[rng.integers(len(centres), size=count)] + noise
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def prepare(path: Path, count: int, dimension: int, queries: int) -> NDArray[np.float32]:
    """Write the vectors; give the queries."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(10, count // AROUND), dimension), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    with path.open("wb") as file:
        for _ in range(0, count, BATCH):
            near(centres, BATCH, rng).tofile(file)
    return near(centres, queries, rng)


def batches(task: Task) -> Iterator[list[Any]]:
    """Nodes with their vectors."""
    from llama_index_mm.stores import Record

    matrix = task.matrix()
    for start in range(0, task.count, BATCH):
        yield [
            Record(
                TextNode(
                    id_=f"n{at}",
                    text=f"Passage number {at} of the collection, about nothing in particular.",
                    metadata={"half": at % 2, "twentieth": at % 20, "file": f"file-{at // 20}.txt"},
                ),
                {SPACE: np.array(matrix[at])},
            )
            for at in range(start, start + BATCH)
        ]


# -- engines, each in its own process -----------------------------------------------------------------------------------


class Flat:
    """FAISS over one matrix."""

    def __init__(self, task: Task) -> None:
        import faiss

        self.faiss, self.task, self.index = faiss, task, faiss.IndexFlatIP(task.dimension)
        self.bits: dict[tuple[int, int], Any] = {}

    def fill(self) -> None:
        """Add everything."""
        matrix = self.task.matrix()
        for start in range(0, self.task.count, BATCH):
            self.index.add(np.array(matrix[start : start + BATCH]))

    def build(self) -> str:
        """Make the filters' bitmaps."""
        for every in FILTERS.values():
            for which in range(every):
                self.bits[every, which] = np.packbits(np.arange(self.task.count) % every == which, bitorder="little")
        return "exact"

    def ways(self) -> dict[str, Ask]:
        """How it can be asked."""
        return {"exact": self._ask}

    def _ask(self, query: NDArray[np.float32], every: int, which: int) -> Sequence[int]:
        selector = None if every == 1 else self.faiss.IDSelectorBitmap(self.bits[every, which])
        parameters = None if selector is None else self.faiss.SearchParameters(sel=selector)
        found: list[int] = self.index.search(query[None], K, params=parameters)[1][0].tolist()
        return found

    def disk(self) -> float:
        """Bytes; there are none."""
        return float("nan")

    def server(self) -> int | None:
        """Port of the server on this machine; there is none."""
        return None

    def close(self) -> None:
        """Let go of it."""


class Stored:
    """A store of this package."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.store = self.make()
        self.store.declare_space(SPACE, task.dimension, "made up")
        self.seqs: NDArray[np.int64] = np.zeros(0, np.int64)

    def make(self) -> Any:
        """Open the store."""
        from llama_index_mm.stores import MediaStore

        return MediaStore(self.task.folder / "local", approximate_above=None)

    def fill(self) -> float:
        """Add everything; gives the seconds, without those that it took to make the nodes."""
        seconds = 0.0
        for number, batch in enumerate(batches(self.task)):
            start = time.perf_counter()
            self.store.add(batch)
            seconds += time.perf_counter() - start
            if number % 20 == 19:
                added = (number + 1) * BATCH
                note(f"  {type(self).__name__}: {added:,} nodes, {added / seconds:,.0f} in a second")
        start = time.perf_counter()
        self.settle()
        return seconds + time.perf_counter() - start

    def settle(self) -> None:
        """Wait until everything is there."""
        self.store.checkpoint(everything=True)

    def build(self) -> str:
        """Build the approximate index."""
        self.store.build_approximate(SPACE)
        return str(self.store.statistics()[0])

    def ready(self) -> None:
        """Know which number a node has."""
        self.seqs = self.store.find()

    def ways(self) -> dict[str, Ask]:
        """How it can be asked."""
        return {"exact": self.asking(exact=True), "approximate": self.asking()}

    def asking(self, store: Any = None, **how: Any) -> Ask:
        """Ask as a retriever does: what a filter lets through, and the nearest of that."""
        store = store or self.store

        def ask(query: NDArray[np.float32], every: int, which: int) -> Sequence[int]:
            among = store.among(filters=filters_of(every, which)) if every > 1 else None
            return self.numbers([hit.seq for hit in store.search(SPACE, "text", query, K, among, **how)])

        return ask

    def numbers(self, seqs: Sequence[int]) -> Sequence[int]:
        """Numbers of nodes as they were made."""
        found: list[int] = np.searchsorted(self.seqs, seqs).tolist()
        return found

    def disk(self) -> float:
        """Bytes."""
        return size_of(self.task.folder / "local")

    def server(self) -> int | None:
        """Port of the server on this machine."""
        return None

    def close(self) -> None:
        """Close it."""
        self.store.close()


class Postgres(Stored):
    """PostgreSQL."""

    connection: Any = None

    def make(self) -> Any:
        """Open the store, in a schema of its own."""
        from llama_index_mm.stores.postgres import PostgresStore

        return PostgresStore(self.task.postgres or "", schema=self.task.name, approximate_above=None)

    def ways(self) -> dict[str, Ask]:
        """How it can be asked."""
        return {"exact": self.asking(exact=True), "HNSW, iterative": self.asking(), "HNSW, as it comes": self._plain}

    def _plain(self, query: NDArray[np.float32], every: int, which: int) -> Sequence[int]:
        """The nearest by HNSW, without the settings that the store makes."""
        kept, values = "", list[Any]()
        if every > 1:
            conditions = self.store.among(filters=filters_of(every, which)).conditions
            tests = " AND ".join(f"({one.sql})" for one in conditions).replace("%", "%%").replace("?", "%s")
            kept = f'AND EXISTS (SELECT 1 FROM "{self.task.name}".nodes AS n WHERE n.seq = d.id AND {tests})'
            values = [value for one in conditions for value in one.values]
        rows = self._sql(
            f"SELECT d.id FROM \"{self.task.name}\".data_space_1 AS d WHERE d.mm_modality = 'text' {kept} "
            f"ORDER BY d.embedding <#> CAST(%s AS vector) LIMIT {K}",
            [*values, str(query.tolist())],
        )
        return self.numbers([row[0] for row in rows])

    def _sql(self, sql: str, values: Sequence[Any] = ()) -> Any:
        if self.connection is None:
            import psycopg2

            self.connection = psycopg2.connect(self.task.postgres)
            self.connection.autocommit = True
        with self.connection.cursor() as cursor:
            cursor.execute(sql, list(values))
            return cursor.fetchall() if cursor.description else None

    def disk(self) -> float:
        """Bytes of the tables and their indexes."""
        sql = (
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = '{self.task.name}' AND c.relkind = 'r'"
        )
        return float(self._sql(sql)[0][0])

    def server(self) -> int | None:
        """Port of the server, if it is on this machine."""
        return local_port(self.task.postgres or "", 5432)

    def close(self) -> None:
        """Close and drop it."""
        self.store.close()
        self._sql(f'DROP SCHEMA IF EXISTS "{self.task.name}" CASCADE')
        self.connection.close()


class Milvus(Stored):
    """Milvus, beside a folder."""

    def make(self) -> Any:
        """Open the store."""
        from llama_index_mm.stores import MediaStore

        self.made: list[Any] = []
        return MediaStore(self.task.folder / "milvus", vector_stores=self._stores)

    def _stores(self, space: str, dimension: int) -> Any:
        from llama_index_mm.stores.milvus import milvus_stores

        self.made.append(milvus_stores(self.task.milvus or "", prefix=self.task.name)(space, dimension))
        return self.made[-1]

    def _strong(self, space: str, dimension: int) -> Any:
        store = self._stores(space, dimension)
        search = store.client.search
        store.client.search = lambda *given, **named: search(*given, **{**named, "consistency_level": "Strong"})
        return store

    def build(self) -> str:
        """Wait until Milvus has built its index."""
        client, name = self.made[0].client, self.made[0].collection_name
        client.flush(name)
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            told = client.describe_index(name, "embedding")
            if told["state"] == "Finished" and not int(told["pending_index_rows"]):
                break
            time.sleep(0.5)
        return str(self.store.statistics()[0]) + ", HNSW (M 16, efConstruction 128)"

    def ways(self) -> dict[str, Ask]:
        """How it can be asked."""
        from llama_index_mm.stores import MediaStore

        self.reader = MediaStore(self.task.folder / "milvus", create=False, vector_stores=self._strong)
        return {"Session": self.asking(), "Strong": self.asking(self.reader)}

    def disk(self) -> float:
        """Bytes of the folder, and of Milvus's."""
        own = size_of(self.task.folder / "milvus")
        return own + size_of(self.task.milvus_folder) if self.task.milvus_folder else own

    def server(self) -> int | None:
        """Port of the server, if it is on this machine."""
        return local_port(self.task.milvus or "", 19530)

    def close(self) -> None:
        """Close and drop it."""
        self.reader.close()
        self.store.close()
        self.made[0].client.drop_collection(self.made[0].collection_name)


def filters_of(every: int, which: int) -> MetadataFilters:
    """A filter that lets one in ``every`` through."""
    return MetadataFilters(filters=[MetadataFilter(key=KEYS[every], value=which)])


ENGINES: dict[str, type[Any]] = {"flat": Flat, "local": Stored, "postgres": Postgres, "milvus": Milvus}


# -- in the child -------------------------------------------------------------------------------------------------------

_engine: Any = None
_ways: dict[str, Ask] = {}
_before = 0.0


def fill(name: str, task: Task) -> dict[str, Any]:
    """Make an engine in this process, fill it, and build its index."""
    global _engine, _before
    import faiss  # noqa: F401 - so that it is not counted

    from llama_index_mm.stores import MediaStore  # noqa: F401

    try:
        _engine = ENGINES[name](task)
    except Exception as error:
        return {"skipped": f"{type(error).__name__}: {error}"}
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the imports
    _before = held_mb()
    start = time.perf_counter()
    took = _engine.fill() or time.perf_counter() - start
    start = time.perf_counter()
    info = _engine.build()
    told = {"per_second": task.count / took, "index_s": time.perf_counter() - start, "info": info}
    if isinstance(_engine, Stored):
        _engine.ready()
    _ways.update(_engine.ways())
    return told


def ask(way: str, query: NDArray[np.float32], every: int, which: int) -> tuple[float, list[int]]:
    """Milliseconds, and numbers of nodes."""
    start = time.perf_counter()
    found = _ways[way](query, every, which)
    return 1000 * (time.perf_counter() - start), list(found)


def finish() -> dict[str, Any]:
    """Sizes; then the engine is closed."""
    told = {"memory_mb": held_mb() - _before, "disk_mb": _engine.disk() / 2**20, "server_mb": server_mb(_engine.server())}
    _engine.close()
    return told


def held_mb() -> float:
    """Most memory that this process ever held."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def size_of(folder: Path) -> float:
    """Bytes of all files of a folder."""
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def local_port(url: str, default: int) -> int | None:
    """The port of an address on this machine, None if it is on another one."""
    parts = urlsplit(url)
    with suppress(OSError):
        if socket.gethostbyname(parts.hostname or "").startswith("127."):
            return parts.port or default
    return None


def server_mb(port: int | None) -> float:
    """What the process that listens on a port and its children hold."""
    if port is None:
        return float("nan")
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    parents, listening = dict[int, int](), set[int]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if any(str(one.readlink()) in inodes for one in (folder / "fd").iterdir()):
                    listening.add(int(folder.name))
    family = {pid for pid in parents if pid in listening or parents[pid] in listening}
    total = 0
    for pid in family:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                total += 1024 * int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 2**20 if family else float("nan")


# -- in the parent --------------------------------------------------------------------------------------------------------


def measure(task: Task, names: Sequence[str], queries: NDArray[np.float32]) -> list[Figures]:
    """All engines: filled one after the other, asked in turns."""
    pools = {name: ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) for name in names}
    figures = {name: Figures(name) for name in names}
    try:
        for name, pool in pools.items():
            note(f"{name}: {task.count:,} vectors of {task.dimension} numbers")
            for key, value in pool.submit(fill, name, task).result().items():
                setattr(figures[name], key, value)
            note(f"{name}: {figures[name].skipped or figures[name].info}")
        asked = [
            (name, way) for name, pool in pools.items() if not figures[name].skipped for way in pool.submit(list_ways).result()
        ]
        matrix = np.array(task.matrix())
        for at, query in enumerate(queries):
            similarities = matrix @ query
            for label, every in FILTERS.items():
                which = at % every
                kth = np.partition(similarities[which::every], -K)[-K]
                for name, way in asked:
                    took, found = pools[name].submit(ask, way, query, every, which).result()
                    right = sum(similarities[one] >= kth - SAME and one % every == which for one in set(found))
                    if at >= WARM_UP:
                        figures[name].milliseconds.setdefault(way, {}).setdefault(label, []).append(took)
                        figures[name].recalls.setdefault(way, {}).setdefault(label, []).append(right / K)
            if at % 10 == 9:
                note(f"asked {at + 1} of {len(queries)}")
        for name, pool in pools.items():
            if not figures[name].skipped:
                for key, value in pool.submit(finish).result().items():
                    setattr(figures[name], key, value)
    finally:
        for pool in pools.values():
            pool.shutdown()
    return list(figures.values())


def list_ways() -> list[str]:
    """How the engine of this process can be asked."""
    return list(_ways)


def note(text: str) -> None:
    """Say what is going on."""
    print(text, file=sys.stderr, flush=True)


def table(figures: Sequence[Figures]) -> str:
    """All of it as Markdown."""
    head = ["engine", "insert/s", "index s", "disk MiB", "memory MiB", "server MiB", "asked"]
    head += [f"{label}: {what}" for label in FILTERS for what in ("p50", "p95", "recall")]
    rows = [head, ["---", *["---:"] * 5, "---", *["---:"] * (3 * len(FILTERS))]]
    for one in figures:
        known = [one.per_second, one.index_s, one.disk_mb, one.memory_mb, one.server_mb]
        cells = [one.engine, *("-" if np.isnan(value) else f"{value:,.0f}" for value in known)]
        if one.skipped:
            rows.append([*cells, f"skipped: {one.skipped}"])
        for way, times in one.milliseconds.items():
            row = [*cells, way]
            for label in FILTERS:
                row += [f"{np.percentile(times[label], share):,.1f}" for share in (50, 95)]
                row.append(f"{statistics.mean(one.recalls[way][label]):.3f}")
            rows.append(row)
            cells = [""] * len(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="vectors (default: %(default)s)")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=40, help="of each kind (default: %(default)s)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="some of %(default)s")
    parser.add_argument("--postgres", metavar="URL", help="of a database with pgvector; left out without")
    parser.add_argument("--milvus", metavar="URL", help="of a server; left out without")
    parser.add_argument("--milvus-folder", type=Path, help="where the server keeps its data, to tell its size")
    parser.add_argument("--folder", type=Path, help="where to work; default is a temporary folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    names = [name for name in given.engines.split(",") if name in ("flat", "local") or getattr(given, name, None)]
    count = max(1, given.count // BATCH) * BATCH
    work = Path(tempfile.mkdtemp(prefix="stores-at-scale-", dir=given.folder))
    task = Task(
        work / "vectors.f32",
        count,
        given.dimension,
        work,
        given.postgres,
        given.milvus,
        given.milvus_folder,
        f"mm_benchmark_{secrets.token_hex(4)}",
    )
    try:
        queries = prepare(task.vectors, count, given.dimension, given.queries + WARM_UP)
        figures = measure(task, names, queries)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.json:
        told = {
            "count": count,
            "dimension": given.dimension,
            "cpus": os.cpu_count(),
            "engines": [asdict(one) for one in figures],
        }
        print(json.dumps(told, indent=2))
    else:
        print(f"{count:,} vectors of {given.dimension} numbers, nearest {K}, {given.queries} queries; {os.cpu_count()} CPUs\n")
        print(table(figures))


if __name__ == "__main__":
    main()
