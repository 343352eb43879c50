"""A store in PostgreSQL does what one in a folder does; and what only it does: many writers, lost servers, other machines."""

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from postgres_server import free_port, postgres_server
from stored import vectors_in

from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.media import digest_bytes
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.stores import MediaStore, Record, Source
from llama_index_mm.stores.postgres import PostgresStore
from llama_index_mm.stores.postgres_connections import read_address
from llama_index_mm.stores.postgres_facts import from_stored, to_stored

pytestmark = pytest.mark.distributed
psycopg2 = pytest.importorskip("psycopg2")
SPACES = {"text": (8, True), "joint": (5, False)}


@pytest.fixture(scope="module")
def server():
    with postgres_server() as one:
        yield one


@pytest.fixture
def store(server, tmp_path, request):
    name = f"t{digest_bytes(request.node.nodeid.encode())[:12]}"
    with PostgresStore(server.url, schema=name, media_cache=tmp_path / "cache") as one:
        declare(one)
        yield one


def declare(store):
    for name, (dimension, normalize) in SPACES.items():
        store.declare_space(name, dimension, f"mark of {name}", normalize=normalize)


def node(name, text="", doc=None, image=False, **metadata):
    source = RelatedNodeInfo(node_id=doc) if doc else None
    if image:
        return ImageMedia.create(f"/files/{name}.png", digest="0" * 64, id_=name, text=text, source=source, metadata=metadata)
    relationships = {NodeRelationship.SOURCE: source} if source else {}
    return TextNode(id_=name, text=text or f"About {name}.", metadata=metadata, relationships=relationships)


def seen(store):
    """All there is, without the numbers, which differ."""
    nodes = store.nodes(store.find().tolist())
    return {
        "nodes": [(one.node_id, type(one), one.to_dict()) for one in nodes.values()],
        "vectors": vectors_in(store),
        "counts": store.counts(),
        "partitions": store.partitions(),
        "spaces": store.spaces(),
        "sources": store.sources(),
        "length": len(store),
    }


def found(store, *args, **options):
    hits = store.search(*args, **options)
    nodes = store.nodes([hit.seq for hit in hits])
    return [(nodes[hit.seq].node_id, hit.similarity) for hit in hits]


def a_change(random):
    """A change of a store, drawn at random: a function of the store."""
    names = [f"n{at}" for at in random.choice(40, size=random.integers(1, 12), replace=False)]

    def record(name):
        vectors = {
            space: random.choice([-1.0, 0.5, 1.0, 2.0], size=dimension).astype(np.float32)
            for space, (dimension, _) in SPACES.items()
            if random.random() < 0.7
        }
        doc = f"d{random.integers(6)}" if random.random() < 0.8 else None
        text = str(random.choice(["one", "two", "three"]))
        return Record(node(name, text, doc, bool(random.random() < 0.3), at=int(random.integers(3))), vectors)

    kind = random.integers(10)
    if kind < 6:
        records = [record(name) for name in names]
        replacing = [f"d{random.integers(6)}"] if random.random() < 0.3 else []
        sources = [Source(f"/files/{random.integers(5)}", "1" * 64, "indexed", "", f"d{random.integers(6)}")]
        return lambda store: store.add(records, sources, replacing)
    if kind == 6:
        return lambda store: store.delete(node_ids=names[:3], ref_doc_ids=["d0"] if len(names) > 6 else [])
    if kind == 7:
        return lambda store: store.delete_from("joint", store.find(node_ids=names))
    if kind == 8:
        path = f"/files/{random.integers(5)}"
        return lambda store: store.release(path)
    return lambda store: store.note_sources([Source("/files/9", "", "failed", names[0]), Source("/files/9", "", "failed", "b")])


@pytest.mark.parametrize("seed", range(4))
def test_the_same_changes_leave_the_same(store, tmp_path, seed):
    random = np.random.default_rng(seed)
    with MediaStore(tmp_path / "folder") as other:
        declare(other)
        for _ in range(25):
            change = a_change(random)
            assert change(store) == change(other)
            assert seen(store) == seen(other)
        assert store.check().problems == ()
        for space, (dimension, _) in SPACES.items():
            for modality in ("text", "image", "audio"):
                query = random.choice([-1.0, 0.5, 1.0], size=dimension).astype(np.float32)  # many of the same similarity
                for k in (1, 3, 100):
                    assert found(store, space, modality, query, k) == found(other, space, modality, query, k)
                for size in (3, 100):
                    assert np.array_equal(store.sample(space, modality, size), other.sample(space, modality, size))
        for name in ("n1", "n2", "n3"):
            ours, theirs = store.find(node_ids=[name]), other.find(node_ids=[name])
            assert np.array_equal(
                store.similarities("text", "text", np.ones(8, np.float32), [*ours, 10**9]),
                other.similarities("text", "text", np.ones(8, np.float32), [*theirs, 10**9]),
                equal_nan=True,
            )
        for one in (store, other):
            one.replace_space("text", by="joint")
            one.set_meta("note", "a\x00b")
        assert seen(store) == seen(other)
        assert store.meta("note") == other.meta("note") == "a\x00b"
        store.clear()
        assert (len(store), store.partitions(), store.sources(), store.check().problems) == (0, {}, [], ())


def test_nothing_is_changed_by_what_is_refused(store):
    good = Record(node("a", doc="d"), {"text": np.ones(8, np.float32)})
    store.add([good])
    before = seen(store)
    for wrong, message in (
        ({"text": np.ones(7, np.float32)}, r"expected a vector of shape \(8,\)"),
        ({"text": np.zeros(8, np.float32)}, "length 0; expected a finite one above 0"),
        ({"nowhere": np.ones(8, np.float32)}, "Space 'nowhere' is not declared"),
    ):
        with pytest.raises(SpaceError, match=message):
            store.add([Record(node("b"), {}), Record(node("c"), wrong)], [Source("p", "", "failed")], ["d"])
    with pytest.raises(StoreError, match=r"these do: b\.$"):
        store.add([Record(node("b"), {}), Record(node("b"), {})])
    with pytest.raises(SpaceError, match=r"Space 'none' is not in this store; it has \['joint', 'text'\]\."):
        store.replace_space("text", by="none")
    with pytest.raises(SpaceError, match="was made with fingerprint mark of text"):
        store.declare_space("text", 8, "other")
    with pytest.raises(SpaceError, match="that can't change"):
        store.declare_space("text", 8, "mark of text", normalize=False)
    assert seen(store) == before


def test_files_come_along_to_another_machine(store, server, tmp_path):
    path = store.media_path(b"RIFF and some sound", ".wav")
    store.add([Record(AudioMedia.create(path, digest=digest_bytes(path.read_bytes()), id_="a"), {})])
    with PostgresStore(server.url, schema=store.plans.tables.schema, media_cache=tmp_path / "elsewhere") as other:
        assert not other.media_folder.exists()
        (there,) = other.nodes(other.find().tolist()).values()
        assert there.path.is_relative_to(tmp_path / "elsewhere")
        assert there.path.read_bytes() == b"RIFF and some sound"
        other.add([Record(there, {"text": np.ones(8, np.float32)})])  # the same node, wherever its file lies
        assert other.find().tolist() == store.find().tolist() == [1]
    assert store.check().files == 1
    assert store.check().ok


def test_a_file_that_came_from_elsewhere_is_found_again(store, server, tmp_path):
    data = b"a picture"
    path = store.media_path(data, ".png")
    image = ImageMedia.create("/gone/a.png", digest=digest_bytes(data), id_="a", source=RelatedNodeInfo(node_id="d"))
    noted = [Source(one, digest_bytes(data), "indexed", "", "d") for one in ("/gone/a.png", "https://x/a.png")]
    store.add([Record(image, {"text": np.ones(8, np.float32)})], noted)
    with PostgresStore(server.url, schema=store.plans.tables.schema, media_cache=tmp_path / "elsewhere") as other:
        other.release("/gone/a.png")
        (moved,) = other.nodes(other.find().tolist()).values()
        assert (moved.path.name, moved.path.read_bytes()) == (path.name, data)
        assert other.sources() == noted[1:]
        wanted = MetadataFilters(filters=[MetadataFilter(key="file_name", operator=FilterOperator.EQ, value=path.name)])
        assert other.find(filters=wanted).tolist() == [1]
    assert store.check().ok


def test_many_write_at_the_same_time(store, server):
    """Overlapping nodes from six writers, each with connections of its own."""
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)

    def write(worker):
        with PostgresStore(server.url, schema=store.plans.tables.schema) as own:
            for start in range(0, 60, 10):
                order = list(range(start, start + 10))[:: 1 if worker % 2 else -1]
                own.add([Record(node(f"n{at}", doc=f"d{at % 4}"), {"text": vectors[at]}) for at in order])
                own.delete(node_ids=[f"n{start}"])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert {one.node_id for one in store.nodes(store.find().tolist()).values()} == {f"n{at}" for at in range(60) if at % 10}
    assert store.check().problems == ()


def test_approximate_search(store):
    random = np.random.default_rng(1)
    centres = random.normal(size=(20, 8))
    vectors = (centres[random.integers(20, size=3000)] + 0.3 * random.normal(size=(3000, 8))).astype(np.float32)
    store.add([Record(node(f"n{at}", at=at % 500), {"text": one}) for at, one in enumerate(vectors)])
    queries = vectors[::100]
    exact = [store.search("text", "text", query, 10) for query in queries]
    rare = store.among(filters=MetadataFilters(filters=[MetadataFilter(key="at", value=7)]))
    filtered = [store.search("text", "text", query, 10, rare) for query in queries]
    assert store.build_approximate("text") == {}
    (entry,) = store.statistics()
    assert entry.file_bytes > 0
    assert re.fullmatch(r"in HNSW of pgvector: recall@10 (0\.9[5-9]\d|1\.000) on 48 queries, \S+ x as fast", str(entry))
    quick = [store.search("text", "text", query, 10) for query in queries]
    hits = [len({hit.seq for hit in a} & {hit.seq for hit in b}) for a, b in zip(exact, quick, strict=True)]
    assert sum(hits) / (10 * len(hits)) > 0.95
    assert [store.search("text", "text", query, 10, exact=True) for query in queries] == exact
    assert [store.search("text", "text", query, 10, rare) for query in queries] == filtered  # six pass, and all come
    assert len(store.search("text", "text", queries[0], 2500)) == 2500
    store.add([Record(node("new"), {"text": queries[0]})])
    assert found(store, "text", "text", queries[0], 2)[-1][0] == "new"
    with pytest.raises(SpaceError, match="'none' is not in this store"):
        store.build_approximate("none")
    assert store.check().ok


def test_an_index_that_finds_too_little_is_not_used(server, tmp_path, caplog):
    vectors = np.random.default_rng(2).normal(size=(2000, 64)).astype(np.float32)  # without clusters
    with PostgresStore(server.url, schema="bad", approximate_above=1000, recall=1.0, media_cache=tmp_path) as store:
        store.declare_space("text", 64, "x")
        store.add([Record(node(f"n{at}"), {"text": one}) for at, one in enumerate(vectors)])
        exact = store.search("text", "text", vectors[5], 10)
        builds = []
        for target in (2.0, 0.0):  # what can't be reached, and what always is
            store._recall = target
            store.checkpoint()
            (entry,) = store.statistics()
            builds.append((entry.file_bytes > 0, str(entry).partition(":")[0]))
            assert store.search("text", "text", vectors[5], 10, exact=True) == exact
            store.checkpoint(everything=True)  # not tried again before there are twice as many
            with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE bad.partitions SET built = 0")
            connection.close()
        assert builds == [(False, "exact"), (True, "in HNSW of pgvector")]
    assert [one.message.partition(" finds")[0] for one in caplog.records] == ["Space 'text', text: an HNSW index"]


def test_many_equal_vectors(store):
    store.add([Record(node(f"n{at}"), {"text": np.ones(8, np.float32)}) for at in range(300)])
    hits = store.search("text", "text", np.ones(8, np.float32), 50)
    assert [hit.seq for hit in hits] == list(range(1, 51))


def test_what_check_finds(store, server):
    store.add([Record(node(f"n{at}", image=True), {"text": np.ones(8, np.float32)}) for at in range(5)])
    store.media_path(b"abc", ".txt")
    tables = store.plans.tables
    with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE {tables.nodes} SET body = body || ' ' WHERE node_id = 'n1'")
        cursor.execute(f"UPDATE {tables.nodes} SET facts = '{{}}' WHERE node_id = 'n2'")
        cursor.execute(f"DELETE FROM {tables.nodes} WHERE node_id = 'n3'")
        cursor.execute(f"UPDATE {tables.space(1)} SET mm_digest = 0 WHERE node_id = 'n4'")
        cursor.execute(f"UPDATE {tables.media} SET bytes = 'x'")
    connection.close()
    report = store.check()
    assert (report.nodes, report.vectors, report.files, report.ok) == (4, 5, 1, False)
    assert [problem.partition(" (")[0].partition(":")[0] for problem in report.problems] == [
        "Nodes that are not what was written",
        "Nodes that filters may miss",
        "Counts",
        "Vectors that are not what was written",
        "Vectors without a node",
        "Media files that are not what was written",
    ]


# -- servers that go away ----------------------------------------------------------------------------------------------


def test_a_server_that_comes_back_is_waited_for(tmp_path, caplog):
    with postgres_server() as own, PostgresStore(own.url, media_cache=tmp_path, patience=30) as store:
        declare(store)
        store.add([Record(node("a"), {"text": np.ones(8, np.float32)})])
        back = threading.Timer(1.0, own.start)
        own.stop("immediate")
        back.start()
        start = time.monotonic()
        store.add([Record(node("b"), {"text": np.ones(8, np.float32)})])
        assert 0.9 < time.monotonic() - start < 25
        back.join()
        own.stop("immediate")
        own.start()
        assert len(store) == 2  # connections in the pool are dead
        vectors = store.vector_store("text")
        own.stop("immediate")
        back = threading.Timer(0.5, own.start)
        back.start()
        assert len(vectors.get_nodes(["a", "b"])) == 2
        back.join()
        own.stop("immediate")
        back = threading.Timer(0.5, own.start)
        back.start()
        assert asyncio.run(vectors.async_add([node("c").model_copy(update={"embedding": [1.0] * 8})])) == ["c"]
        back.join()
        assert (len(store), store.check().problems) == (3, ())
    assert own.password not in caplog.text
    assert "Trying for 30 s" in caplog.text


def test_the_host_that_can_be_written_is_taken(server, tmp_path):
    two = server.url.replace("@", f"@127.0.0.1:{free_port()},")
    with PostgresStore(two, schema="two", media_cache=tmp_path) as store:
        store.declare_space("text", 2, "x")
        store.add([Record(node("a"), {"text": np.ones(2, np.float32)})])
        assert "target_session_attrs=read-write" in store.plans._connections.address.url
        vectors = store.vector_store("text")
        assert [one.node_id for one in asyncio.run(vectors.aget_nodes(["a"]))] == ["a"]


def test_what_is_said_when_there_is_no_server(server):
    nobody = f"postgresql://me:secret@127.0.0.1:{free_port()}/x"
    with pytest.raises(
        StoreError, match=r"^PostgreSQL at 127\.0\.0\.1:\d+ can't be reached: .*It was tried for 0\.2 s"
    ) as caught:
        PostgresStore(nobody, patience=0.2)
    assert "secret" not in str(caught.value)
    start = time.monotonic()
    for url, message in (
        (server.url.replace(server.password, "wrong"), r"refuses: .*authentication failed.* Check user, password"),
        (server.url.replace("/postgres", "/none", 1).replace("//none", "//postgres") + "x", "refuses: .*does not exist"),
        ("mysql://a/b", "Expected an address such as postgresql://"),
        ("postgresql://a/b?schema=No", "Expected a schema of lower-case letters"),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            PostgresStore(url)
        assert server.password not in str(caught.value)
    assert time.monotonic() - start < 10
    with pytest.raises(StoreError, match="There is no store in schema 'empty' of postgresql://postgres@127"):
        PostgresStore(server.url, schema="empty", create=False)
    closed = PostgresStore(server.url, schema="closed")
    closed.close()
    with pytest.raises(StoreError, match="is closed"):
        len(closed)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:pw@db/x", "postgresql://me@db/x"),
        ("postgres://me:p%40w@a:1,b:2/x?sslmode=require&schema=s", "postgresql://me@a:1,b:2/x?sslmode=require&schema=s"),
        ("postgresql://db/x?password=pw&user=me", "postgresql://db/x?user=me"),
        ("postgresql:///x?host=/run/pg", "postgresql:///x?host=/run/pg"),
    ],
)
def test_names_have_no_passwords(url, name):
    address = read_address(url, None, "llama_index_mm")
    shown = address.name.replace("target_session_attrs=read-write&", "").replace("&target_session_attrs=read-write", "")
    assert shown == name
    assert read_address(address.name, None, "llama_index_mm").schema == address.schema


@pytest.mark.parametrize("text", ["", "a", "a\x00b", "\x01\x02", "\x00\x01\x00", "\ud800é\udfff", "\x01\x03d800"])
def test_texts_come_back(text):
    stored = to_stored(text)
    assert "\x00" not in stored
    stored.encode()
    assert from_stored(stored) == text
