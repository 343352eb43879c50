"""An index whose spaces are searched by LlamaIndex vector stores gives what it gives without them."""

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from llama_index_mm.index import MultiModalIndex
from llama_index_mm.stores import MediaStore, SpaceVectorStore
from llama_index_mm.testing import tiny_preset

WORDS = ["tide", "boat", "shore", "lamp", "stone", "river", "garden", "winter", "paper", "engine", "yellow", "market", "copper"]
COUNT = 400


def words(number):
    return " ".join(WORDS[(number * step + number // 7) % len(WORDS)] for step in (1, 3, 5, 11))


@pytest.fixture(scope="module")
def stores():
    held = {}

    def give(space, dimension):
        return held.setdefault(space, SimpleVectorStore())

    give.held = held
    return give


@pytest.fixture(scope="module")
def indexes(tmp_path_factory, stores):
    folder = tmp_path_factory.mktemp("external")
    opened = [
        MultiModalIndex(MediaStore(folder / "with", vector_stores=stores), tiny_preset()),
        MultiModalIndex(MediaStore(folder / "without"), tiny_preset()),
    ]
    nodes = [TextNode(id_=f"n{at}", text=f"{words(at)} {at}", metadata={"half": at % 2}) for at in range(COUNT)]
    for index in opened:
        index.insert_nodes(nodes)
    yield opened
    for index in opened:
        index.close()


def told(hits):
    return [(hit.node_id, hit.score, type(hit.node).__name__) for hit in hits]


@pytest.mark.parametrize("half", [None, 0, 1])
async def test_retrievers_give_the_same(indexes, half):
    filters = None if half is None else MetadataFilters(filters=[MetadataFilter(key="half", value=half)])
    for question in ("a boat on the shore", "lamp and paper", "copper 17", "winter garden 399"):
        found = []
        for index in indexes:
            retriever = index.as_retriever(similarity_top_k=7, filters=filters)
            found += [told(retriever.retrieve(question)), told(await retriever.aretrieve(question))]
        assert len(found[0]) == 7
        assert found == [found[0]] * 4


def test_deleted_documents_are_gone_from_both(indexes, stores):
    for index in indexes:
        assert index.store.delete(ref_doc_ids=["n3", "n5"]) == 2
    found = []
    for index in indexes:
        space = index.vector_store("text")
        assert isinstance(space, SpaceVectorStore)
        found.append([node.ref_doc_id for node in space.get_nodes()])
        found.append(told(index.as_retriever(similarity_top_k=9).retrieve(words(3))))
    assert found[0] == found[2] == [f"n{at}" for at in range(COUNT) if at not in (3, 5)]
    assert found[1] == found[3]
    assert {one.searched_by for one in indexes[0].store.statistics()} == {"SimpleVectorStore"}
    assert len(stores.held["text"].data.embedding_dict) == COUNT - 1  # with the mark


def test_calibration_is_the_same(indexes):
    told = [str(index.calibrate()) for index in indexes]
    assert [line for line in told[0].splitlines() if "second" not in line] == [
        line for line in told[1].splitlines() if "second" not in line
    ]
