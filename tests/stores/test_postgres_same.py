"""The same index in a folder and in PostgreSQL: the same answers to random queries, the same nodes, sync and async."""

import asyncio
import random

import numpy as np
import pytest
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from postgres_server import postgres_server

from llama_index_mm.errors import QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.nodes import node_to_json
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.stores import Record
from llama_index_mm.stores.copying import copy_store
from llama_index_mm.stores.opening import open_store
from llama_index_mm.testing import tiny_preset

pytestmark = pytest.mark.distributed
pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")
pytest.importorskip("llama_index.vector_stores.postgres")

WORDS = ["boat", "harbour", "red", "green", "lamp", "winter", "river", "music", "bread", "train", "stone", "clock"]
OPERATORS = [
    (FilterOperator.EQ, "shelf", 3),
    (FilterOperator.NE, "shelf", 3),
    (FilterOperator.GT, "price", 5.5),
    (FilterOperator.LTE, "price", 7),
    (FilterOperator.IN, "colour", ["red", "blue"]),
    (FilterOperator.NIN, "colour", ["red"]),
    (FilterOperator.CONTAINS, "tags", "old"),
    (FilterOperator.ANY, "tags", ["new", "rare"]),
    (FilterOperator.ALL, "tags", ["old", "rare"]),
    (FilterOperator.TEXT_MATCH, "colour", "e"),
    (FilterOperator.IS_EMPTY, "note", None),
    (FilterOperator.EQ, "mm_modality", "image"),
]


@pytest.fixture(scope="module")
def pair(make_once, tmp_path_factory):
    """One index in a folder, with odd metadata, and its copy in a database."""
    rng = random.Random(5)
    for at in range(160):
        make_once.text(f"files/{at}.txt", " ".join(rng.choices(WORDS, k=9)))
    for at in range(120):
        make_once.picture(f"files/{at}.png", (rng.randrange(256), rng.randrange(256), at))
    for at in range(6):
        make_once.tone(f"files/{at}.wav", 300 + 150 * at)
    for at in range(3):
        make_once.obj(f"files/{at}.obj")
    folder = tmp_path_factory.mktemp("same")
    preset = tiny_preset()
    with postgres_server() as there, MultiModalIndex.open(folder / "index", preset=preset, create=True) as local:
        local.ingest(make_once.folder / "files", num_workers=0, calibrate=False)
        store = local.store
        records = []
        for seq, node in store.nodes(store.find().tolist()).items():
            node.metadata |= {"shelf": rng.randrange(6), "colour": rng.choice(["red", "blue", "Grün", "", "名"])}
            node.metadata |= {"tags": rng.sample(["old", "new", "rare", 3], rng.randrange(4)), "half": rng.random() < 0.5}
            if rng.random() < 0.7:
                node.metadata |= {
                    "price": rng.choice([rng.random() * 10, rng.randrange(10), 5.5]),
                    "note": rng.choice(["", "x"]),
                }
            vectors = {
                space: store.vectors(space, modality, [seq])[0]
                for space, modality in store.partitions()
                if modality == node.metadata.get("mm_modality", "text") and store.vectors(space, modality, [seq]).any()
            }
            records.append(Record(node, vectors))
        store.add(records)
        local.calibrate()
        with open_store(there.url, create=True) as target:
            report = copy_store(store, target)
            assert report.ok
        with MultiModalIndex.open(there.url, preset=preset) as remote:
            yield local, remote


def some_filter(rng, depth=0):
    filters = []
    for _ in range(rng.randrange(1, 4)):
        if depth < 2 and rng.random() < 0.2:
            filters.append(some_filter(rng, depth + 1))
        else:
            operator, key, value = rng.choice(OPERATORS)
            filters.append(MetadataFilter(key=key, operator=operator, value=value))
    condition = rng.choice([FilterCondition.AND, FilterCondition.OR, FilterCondition.OR, FilterCondition.NOT])
    return MetadataFilters(filters=filters, condition=condition)


def some_query(rng, files):
    words = " ".join(rng.choices(WORDS, k=rng.randrange(1, 5)))
    kind = rng.random()
    if kind < 0.6:
        return words
    if kind < 0.8:
        return MediaQuery(words if kind < 0.7 else "", image=rng.choice(sorted(files.glob("*.png"))))
    return MediaQuery(audio=rng.choice(sorted(files.glob("*.wav"))))


def some_options(rng):
    options = {"similarity_top_k": rng.choice([1, 3, 10, 25])}
    if rng.random() < 0.85:
        options["filters"] = some_filter(rng)
    if rng.random() < 0.3:
        options["modalities"] = rng.sample(["text", "image", "audio", "mesh"], 2)
    extra = rng.random()
    if extra < 0.1:
        options["diversity"] = 0.4
    elif extra < 0.2:
        options["collapse"] = "document"
    elif extra < 0.3:
        options["fusion"] = rng.choice(["reciprocal_rank", "distribution_based"])
    elif extra < 0.4:
        options["calibrated"] = False
    return options


def retrieve(index, options, query):
    try:
        return said(index, index.as_retriever(**options).retrieve(query))
    except QueryError as error:  # a recording can't find meshes
        return str(error)


def said(index, results):
    own = str(index.store.media_folder)
    return [
        (one.node.node_id, type(one.node).__name__, one.score, node_to_json(one.node).replace(own, "OWN")) for one in results
    ]


def test_two_hundred_random_queries_with_filters(pair, make_once):
    rng = random.Random(11)
    found, filtered = 0, 0
    for _ in range(200):
        options, query = some_options(rng), some_query(rng, make_once.folder / "files")
        ours, theirs = (retrieve(index, options, query) for index in pair)
        assert ours == theirs, (options, query)
        found += isinstance(ours, list) and bool(ours)
        filtered += "filters" in options
    assert found > 150
    assert filtered > 150


async def test_async_gives_the_same(pair, make_once):
    local, remote = pair
    rng = random.Random(12)
    drawn = [(some_options(rng), some_query(rng, make_once.folder / "files")) for _ in range(32)]
    asked = [(options, query) for options, query in drawn if isinstance(retrieve(local, options, query), list)]
    assert len(asked) > 24
    together = await asyncio.gather(*(remote.as_retriever(**options).aretrieve(query) for options, query in asked))
    for (options, query), theirs in zip(asked, together, strict=True):
        assert said(remote, theirs) == said(local, local.as_retriever(**options).retrieve(query)), (options, query)


def test_what_the_stores_say(pair):
    local, remote = pair
    assert (len(local.store), local.store.counts()) == (len(remote.store), remote.store.counts())
    assert local.store.partitions() == remote.store.partitions()
    assert local.store.sources() == remote.store.sources()
    assert local.store.spaces() == remote.store.spaces()
    for space, modality in local.store.partitions():
        ours, theirs = (
            [
                vector.tobytes()
                for vector in one.store.vectors(space, modality, one.store.find(space=space, modalities=[modality]).tolist())
            ]
            for one in pair
        )
        assert ours == theirs
        spread = [
            [node.node_id for _, node in sorted(one.store.nodes(one.store.spread(5, modalities=[modality])).items())]
            for one in pair
        ]
        assert spread[0] == spread[1]
        samples = [one.store.sample(space, modality, 7) for one in pair]
        assert np.array_equal(*samples)
    assert remote.store.check().problems == ()
