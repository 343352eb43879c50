"""A space in PostgreSQL as a LlamaIndex vector store: the whole contract, and what LlamaIndex's own class sees of it."""

import asyncio
import itertools
import math
import threading

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from postgres_server import postgres_server

from llama_index_mm.errors import QueryError, SpaceError, StoreError
from llama_index_mm.stores import SpaceVectorStore
from llama_index_mm.stores.postgres import PostgresStore
from llama_index_mm.testing import check_vector_store

pytestmark = pytest.mark.distributed
psycopg2 = pytest.importorskip("psycopg2")
numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    with postgres_server() as one:
        yield one


@pytest.fixture
def make(server, tmp_path):
    """Fresh stores, one in a schema of its own at each call."""
    from llama_index_mm.stores.postgres_space import PostgresSpaceStore

    opened = []

    def made(**options):
        store = PostgresStore(server.url, schema=f"s{next(numbers)}", media_cache=tmp_path)
        opened.append(store)
        return PostgresSpaceStore(store, **options)

    yield made
    for store in opened:
        store.close()


def node(name, angle, doc=None, **metadata):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=doc)} if doc else {}
    return TextNode(
        id_=name, text=f"About {name}.", metadata=metadata, relationships=source, embedding=[math.cos(angle), math.sin(angle)]
    )


def ask(k=10, **given):
    return VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=k, **given)


def test_the_whole_contract_holds(make):
    report = check_vector_store(make)
    assert [str(one) for one in report.checks if one.status != "holds"] == []


def test_async_gives_what_sync_gives(make, tmp_path):
    """Each call of one sequence, over asyncpg, over psycopg2, and on a store in a folder."""
    nodes = [node(f"n{at}", 0.1 * at, doc=f"d{at % 3}", n=at) for at in range(30)]
    even = MetadataFilters(filters=[MetadataFilter(key="n", operator=FilterOperator.IN, value=list(range(0, 30, 2)))])
    late = MetadataFilters(filters=[MetadataFilter(key="n", operator=FilterOperator.GT, value=25)])

    def seen(result):
        return result.ids, result.similarities, result.nodes

    def sync(store):
        yield store.add(nodes)
        yield seen(store.query(ask()))
        yield seen(store.query(ask(mode=VectorStoreQueryMode.MMR, filters=even), mmr_threshold=0.3))
        yield store.delete("d1")
        yield store.delete_nodes(["n0", "n1"])
        yield store.delete_nodes(
            filters=MetadataFilters(filters=[MetadataFilter(key="n", operator=FilterOperator.GT, value=25)])
        )
        yield store.get_nodes(filters=even)
        yield store.get_nodes(["n3", "n5"])
        yield seen(store.query(ask(k=100, doc_ids=["d0"], node_ids=["n3", "n5", "n6"])))
        yield store.clear()
        yield seen(store.query(ask()))

    async def asynchronous(store):
        return [
            await store.async_add(nodes),
            seen(await store.aquery(ask())),
            seen(await store.aquery(ask(mode=VectorStoreQueryMode.MMR, filters=even), mmr_threshold=0.3)),
            await store.adelete("d1"),
            await store.adelete_nodes(["n0", "n1"]),
            await store.adelete_nodes(filters=late),
            await store.aget_nodes(filters=even),
            await store.aget_nodes(["n3", "n5"]),
            seen(await store.aquery(ask(k=100, doc_ids=["d0"], node_ids=["n3", "n5", "n6"]))),
            await store.aclear(),
            seen(await store.aquery(ask())),
        ]

    folder = SpaceVectorStore(tmp_path / "folder")
    expected = list(sync(folder))
    folder.close()
    assert list(sync(make())) == expected
    assert asyncio.run(asynchronous(make())) == expected


def test_many_at_once(make):
    store = make(dimension=2)

    async def all_of_them():
        await asyncio.gather(*(store.async_add([node(f"n{at}", 0.1 * at)]) for at in range(20)))
        return await asyncio.gather(*(store.aquery(ask(k=20)) for _ in range(10)))

    assert {tuple(result.ids) for result in asyncio.run(all_of_them())} == {tuple(f"n{at}" for at in range(20))}


def test_an_index_over_it(make):
    store = make()
    context = StorageContext.from_defaults(vector_store=store)
    documents = [node(f"n{at}", 0.2).model_copy(update={"embedding": None}) for at in range(4)]
    index = VectorStoreIndex(documents, storage_context=context, embed_model=MockEmbedding(embed_dim=4))
    assert {one.node_id for one in index.as_retriever(similarity_top_k=9).retrieve("x")} == {f"n{at}" for at in range(4)}
    assert store.embed_dim == 4
    assert store.client.check().problems == ()


def test_the_class_of_llama_index_reads_the_table(make, server):
    from llama_index.vector_stores.postgres import PGVectorStore

    store = make()
    store.add([node("a", 0.1, doc="d", n=1, odd="\x00", inf=math.inf), node("b", 0.5, n=2)])
    plain = PGVectorStore.from_params(
        connection_string=server.url.replace("postgresql", "postgresql+psycopg2"),
        async_connection_string=server.url.replace("postgresql", "postgresql+asyncpg"),
        table_name=store.table_name,
        schema_name=store.schema_name,
        embed_dim=store.embed_dim,
        use_jsonb=True,
        perform_setup=False,
    )
    result = plain.query(ask())
    assert [(one.node_id, one.text, one.metadata.get("n")) for one in result.nodes] == [
        ("a", "About a.", 1),
        ("b", "About b.", 2),
    ]
    assert result.similarities == pytest.approx([math.cos(0.1), math.cos(0.5)], abs=1e-6)
    assert result.nodes[0].ref_doc_id == "d"
    asyncio.run(plain.close())


def test_what_does_not_belong_is_refused(make, server):
    store = make(dimension=2, fingerprint="clip")
    store.add([node("a", 0.1)])
    again = type(store)
    with pytest.raises(SpaceError, match="made with fingerprint clip"):
        again(store.client, fingerprint="other")
    with pytest.raises(SpaceError, match=r"expected a vector of shape \(2,\)"):
        store.add([TextNode(id_="b", embedding=[1.0, 2.0, 3.0])])
    with pytest.raises(SpaceError, match="Expected a query of shape"):
        store.query(VectorStoreQuery(query_embedding=[1.0], similarity_top_k=1))
    with pytest.raises(SpaceError, match="was made with fingerprint other"):
        store.query(ask(), fingerprint="other")
    with pytest.raises(StoreError, match=r"these do: c\.$"):
        store.add([node("c", 0.1), node("c", 0.2)])
    with pytest.raises(QueryError, match="got 'sparse'"):
        store.query(ask(mode=VectorStoreQueryMode.SPARSE))
    assert again(store.client).query(ask()).ids == ["a"]
    assert server.password not in store.model_dump_json()
    assert str(store.client.name) == store.connection_string


async def test_the_event_loop_goes_on(make, server):
    """While a query waits for a lock of somebody else, which only asyncpg lets it do without a thread."""
    store = make()
    await store.async_add([node("a", 0.1)])
    threads = threading.active_count()
    with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {store.client.plans.tables.space(1)}")
        waiting = asyncio.ensure_future(store.aquery(ask()))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert threading.active_count() == threads
    connection.close()
    assert (await waiting).ids == ["a"]
