"""Milvus in place of FAISS, on the server whose address is in LLAMA_INDEX_MM_MILVUS."""

import os
import secrets
import sys
import time

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from llama_index_mm.errors import MissingExtraError
from llama_index_mm.stores import MediaStore, Record
from llama_index_mm.stores.milvus import collection_of, milvus_stores

URI = os.environ.get("LLAMA_INDEX_MM_MILVUS", "")
DIMENSION = 32


def test_names_of_collections():
    assert collection_of("words", "mm_") == "mm_words"
    assert collection_of("e5-small", "mm_") == "mm_e5_small_4c0cc550"
    assert collection_of("e5_small", "mm_") == "mm_e5_small"


def test_the_package_for_milvus_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_index.vector_stores.milvus", None)
    with pytest.raises(MissingExtraError, match=r"llama-index-mm\[milvus\]"):
        milvus_stores("http://localhost:19530")


@pytest.fixture(params=["Session", "Strong"])
def stores(request):
    pytest.importorskip("llama_index.vector_stores.milvus", reason="needs the extra milvus")
    if not URI:
        pytest.skip("needs the address of a Milvus server in LLAMA_INDEX_MM_MILVUS")
    made = []
    make = milvus_stores(URI, prefix=f"t{secrets.token_hex(4)}_", consistency=request.param)

    def give(space, dimension):
        made.append(make(space, dimension))
        return made[-1]

    yield give
    for name in {one.collection_name for one in made}:
        made[-1].client.drop_collection(name)


def vectors(count, seed):
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def records(numbers, seed):
    nodes = [TextNode(id_=f"n{at}", text=f"text {at}", metadata={"half": at % 2}) for at in numbers]
    return [Record(node, {"a space": vector}) for node, vector in zip(nodes, vectors(len(nodes), seed), strict=True)]


@pytest.mark.distributed
def test_same_results_as_faiss_also_right_after_a_change(tmp_path, stores):
    with MediaStore(tmp_path / "a", vector_stores=stores) as store, MediaStore(tmp_path / "b") as plain:
        both = (store, plain)

        def same(rounds, seed):
            wanted = missed = 0
            for query in vectors(rounds, seed):
                for filters in (None, MetadataFilters(filters=[MetadataFilter(key="half", value=1)])):
                    found = []
                    for one in both:
                        among = None if filters is None else one.among(filters=filters)
                        hits = one.search("a space", "text", query, 10, among)
                        nodes = one.nodes([hit.seq for hit in hits])
                        found.append([(nodes[hit.seq].node_id, hit.similarity) for hit in hits])
                    assert len(found[0]) == 10
                    wanted += 10
                    missed += len(set(found[1]) - set(found[0]))
            assert missed <= wanted / 50  # HNSW

        for one in both:
            one.declare_space("a space", DIMENSION, "f")
            one.add(records(range(1500), 1))
        same(20, 11)
        for one in both:
            one.delete(node_ids=[f"n{at}" for at in range(200, 500)])
            one.add(records(range(600, 900), 2))
        same(20, 12)  # what was deleted is still there with Session for some time, and must not come out
        time.sleep(1)
        same(20, 13)
        assert store.repair().ok
        same(10, 14)
    with MediaStore(tmp_path / "a", vector_stores=stores) as store, MediaStore(tmp_path / "b") as plain:
        both = (store, plain)
        same(10, 15)
        assert [str(one) for one in store.statistics()] == ["in MilvusVectorStore"]
        assert [one.pending for one in store.statistics()] == [0]
