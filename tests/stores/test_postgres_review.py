"""A store in PostgreSQL in other hands: roles with few rights, processes that fork, vectors too long for an index."""

import asyncio
import multiprocessing
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from postgres_server import free_port, postgres_server

from llama_index_mm.errors import ClusterError, SpaceError, StoreError
from llama_index_mm.ingestion.ray_cluster import connected
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.media import digest_bytes
from llama_index_mm.stores import Record, Source
from llama_index_mm.stores.opening import open_store
from llama_index_mm.stores.postgres import PostgresStore

pytestmark = pytest.mark.distributed
psycopg2 = pytest.importorskip("psycopg2")


@pytest.fixture(scope="module")
def server():
    with postgres_server() as one:
        yield one


@pytest.fixture
def database(server, request):
    """The address of a database of its own, in which nothing is made yet."""
    name = f"d{digest_bytes(request.node.nodeid.encode())[:12]}"
    server.ask(f"CREATE DATABASE {name}")
    return f"{server.url.removesuffix('postgres')}{name}"


def tell(url, *statements):
    with closing(psycopg2.connect(url)) as one:
        one.autocommit = True
        with one.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def as_role(url, role):
    """The same address for another role, which is made."""
    tell(url, f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN PASSWORD 'of-{role}'")
    return re.sub("//.*@", f"//{role}:of-{role}@", url)


def filled(url, count=30, dimension=4):
    store = PostgresStore(url)
    store.declare_space("text", dimension, "mark")
    vectors = np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)
    store.add([Record(TextNode(id_=f"n{at:02}", text=f"Text {at}."), {"text": one}) for at, one in enumerate(vectors)])
    return store


# -- rights ------------------------------------------------------------------------------------------------------------


def test_role_that_may_only_read_finds_the_same(database):
    with filled(database) as store:
        reading = as_role(database, "reader")
        tell(
            database,
            "GRANT USAGE ON SCHEMA llama_index_mm TO reader",
            "GRANT SELECT ON ALL TABLES IN SCHEMA llama_index_mm TO reader",
        )
        query = np.ones(4, np.float32)
        with PostgresStore(reading) as other:
            other.declare_space("text", 4, "mark")
            assert other.search("text", "text", query, 5) == store.search("text", "text", query, 5)
            assert other.nodes([1, 2]) == store.nodes([1, 2])
            assert other.check() == store.check()
            for change in (
                lambda: other.set_meta("key", "value"),
                lambda: other.delete(node_ids=["n01"]),
                lambda: other.add([Record(TextNode(text="More."), {"text": query})]),
                lambda: other.build_approximate("text"),
            ):
                with pytest.raises(StoreError, match=r"refuses: (permission denied for|must be owner of) "):
                    change()
            assert len(other) == 30


def test_role_without_rights_is_told_what_to_ask_for(database):
    url = as_role(database, "beginner")
    with pytest.raises(StoreError, match=r"^Role beginner may not create anything in database 'd.*: CREATE EXTENSION vector$"):
        PostgresStore(url)
    tell(database, "CREATE EXTENSION vector")
    with pytest.raises(StoreError, match=r": CREATE SCHEMA llama_index_mm AUTHORIZATION beginner$"):
        PostgresStore(url)
    tell(database, "CREATE SCHEMA llama_index_mm AUTHORIZATION beginner")
    with filled(url) as store:
        store.checkpoint(everything=True)
        assert (len(store), store.check().ok) == (30, True)
    assert tell(database, "SELECT has_database_privilege('beginner', current_database(), 'CREATE')") == [(False,)]


# -- processes ---------------------------------------------------------------------------------------------------------


def _find_often(store, answers):
    try:
        answers.put([store.find(modalities=["text"]).tolist() for _ in range(50)])
    except Exception as error:
        answers.put(repr(error))


def test_store_goes_on_in_both_processes_after_a_fork(database):
    fork = multiprocessing.get_context("fork")
    with filled(database) as store:
        wanted = [store.find(modalities=["text"]).tolist()] * 50
        answers = fork.SimpleQueue()
        child = fork.Process(target=_find_often, args=(store, answers))
        child.start()
        assert [store.find(modalities=["text"]).tolist() for _ in range(50)] == wanted
        child.join(30)
        assert child.exitcode == 0
        assert answers.get() == wanted
        assert store.find(modalities=["text"]).tolist() == wanted[0]  # the child's end was not the connections'


def test_many_threads_share_few_connections(database):
    with filled(database) as store, ThreadPoolExecutor(60) as pool:
        queries = np.random.default_rng(1).normal(size=(240, 4)).astype(np.float32)
        wanted = [store.search("text", "text", query, 3) for query in queries]
        assert list(pool.map(lambda query: store.search("text", "text", query, 3), queries)) == wanted
        sql = "SELECT count(*) <= 12 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert tell(database, sql) == [(True,)]


# -- what is given -----------------------------------------------------------------------------------------------------


def test_vectors_too_long_for_hnsw_stay_exact(database):
    with filled(database, count=3, dimension=2001) as made:
        made.close()
    with PostgresStore(database, approximate_above=1) as store:
        store.checkpoint(everything=True)
        assert [(one.vectors, one.searched_by) for one in store.statistics()] == [(3, "")]
        with pytest.raises(SpaceError, match="at most 2000 dimensions, as HNSW of pgvector takes, but space 'text' has 2001"):
            store.build_approximate("text")


STRANGE = ["", "x'; DROP TABLE nodes; --", '"%s" ? $1 \\', "a\0b\ud800", "long" * 20_000]


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_strange_names_are_only_names(database, name):
    with filled(database, count=2) as store:
        vector = np.ones(4, np.float32)
        space = name[:200] or "none"
        store.declare_space(space, 4, "mark")
        store.add(
            [Record(TextNode(id_=name, text="Here.", metadata={name: 1}), {space: vector})], [Source(name, "d", "failed", name)]
        )
        assert [store.nodes([hit.seq])[hit.seq].node_id for hit in store.search(space, "text", vector, 2)] == [name]
        assert store.source(name) == Source(name, "d", "failed", name)
        assert (len(store), store.check().problems) == (3, ())
        assert store.delete(node_ids=[name]) == 1


def test_path_is_no_address():
    with pytest.raises(StoreError, match="as text, got a Path") as told:
        open_store(Path("postgresql://me:secret@db/photos"))
    assert "secret" not in str(told.value)


def test_cluster_that_is_not_there_is_told_at_once():
    pytest.importorskip("ray.data")
    address = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(ClusterError, match=rf"^The Ray cluster at {address} can't be reached: .*refused"),
        connected(RayOptions(address=address)),
    ):
        pytest.fail("nobody listens there")


@pytest.mark.parametrize(
    "given",
    [
        "me:s3cret#1@h/db",
        "me:s3cret/1@h/db",
        "me:s3cret%zz@h/db",
        "me:s3cret?1@h/db",
        "me:s3cret@h:s3cret/db",
        "me:s3cret@h/d\ud800",
    ],
)
def test_an_address_that_can_not_be_read_shows_no_password(given):
    with pytest.raises(StoreError, match="%XX") as refused:
        PostgresStore(f"postgresql://{given}")
    assert "s3cret" not in str(refused.value)


async def test_many_at_once_take_few_connections(server):
    with PostgresStore(server.url, schema="crowd") as store:
        store.declare_space("text", 4, "f")
        store.add([Record(TextNode(id_="one", text="one"), {"text": np.ones(4, np.float32)})])
        space = store.vector_store("text")
        asked = VectorStoreQuery(query_embedding=[1.0, 0, 0, 0], similarity_top_k=1)
        most = 0

        async def ask():
            nonlocal most
            found = await space.aquery(asked)
            ((count,),) = tell(server.url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'llama-index-mm'")
            most = max(most, count)
            return found.ids

        assert await asyncio.gather(*(ask() for _ in range(60))) == [["one"]] * 60
        assert most <= 14
