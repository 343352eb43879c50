import itertools
import json
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import FilterError, SpaceError, StoreError, StoreLockedError
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.stores import Hit, MediaStore, Record, Source, StoredSpace
from llama_index_mm.stores.rows import Changes

DIGEST = "ab" * 32
# Unit vectors whose inner products are exact in float32: the axes, and the corners of a cube in four dimensions.
AXES = [sign * row for row in np.eye(4, dtype=np.float32) for sign in (1, -1)]
CORNERS = [np.array(signs, dtype=np.float32) / 2 for signs in itertools.product((1, -1), repeat=4)]
UNITS = AXES + CORNERS
X, Y, Z, W = np.eye(4, dtype=np.float32)


@pytest.fixture
def store(tmp_path):
    with MediaStore(tmp_path / "index") as made:
        made.declare_space("words", 4, "f1")
        made.declare_space("looks", 4, "f2")
        yield made


def document(ref_doc_id):
    return {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref_doc_id)} if ref_doc_id else {}


def text(id_, ref_doc_id=None, **metadata):
    return TextNode(id_=id_, text=f"text of {id_}", metadata=metadata, relationships=document(ref_doc_id))


def image(id_, ref_doc_id=None, **metadata):
    source = RelatedNodeInfo(node_id=ref_doc_id) if ref_doc_id else None
    return ImageMedia.create(f"{id_}.png", digest=DIGEST, id_=id_, source=source, metadata=metadata)


def audio(id_, ref_doc_id=None, **metadata):
    source = RelatedNodeInfo(node_id=ref_doc_id) if ref_doc_id else None
    return AudioMedia.create(f"{id_}.ogg", digest=DIGEST, id_=id_, source=source, metadata=metadata, start=1.5, end=2.0)


MAKERS = {"text": text, "image": image, "audio": audio}


def equal(key, value):
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


def ids(store, seqs):
    nodes = store.nodes(list(seqs))
    return [nodes[seq].node_id for seq in seqs]


def found(store, space, modality, query, k, among=None):
    """Ids and similarities of a search."""
    hits = store.search(space, modality, query, k, among)
    return list(zip(ids(store, [hit.seq for hit in hits]), [hit.similarity for hit in hits], strict=True))


# -- adding, replacing, deleting, finding ---------------------------------------------------------------------------------


def test_add_and_search(store):
    store.add([Record(text("a"), {"words": X}), Record(image("b"), {"words": Y, "looks": X}), Record(text("c"), {"words": Y})])
    assert found(store, "words", "text", X, 5) == [("a", 1.0), ("c", 0.0)]
    assert found(store, "words", "image", Y, 5) == [("b", 1.0)]
    assert found(store, "looks", "image", -X, 5) == [("b", -1.0)]
    assert found(store, "looks", "text", X, 5) == []
    assert store.search("words", "text", X, 0) == []
    assert store.search("words", "text", X, 1) == [Hit(1, 1.0)]
    assert len(store) == 3
    assert store.counts() == {"text": 2, "image": 1}
    assert store.partitions() == {("words", "text"): 2, ("words", "image"): 1, ("looks", "image"): 1}


def test_ties_come_in_the_order_of_adding(store):
    store.add([Record(text(str(at)), {"words": X}) for at in range(200)])
    assert [hit.seq for hit in store.search("words", "text", X, 7)] == [1, 2, 3, 4, 5, 6, 7]
    assert [hit.seq for hit in store.search("words", "text", Y, 7, np.arange(50, 100))] == list(range(50, 57))


def test_adding_an_id_again_replaces_the_node(store):
    store.add([Record(text("a", kind="old"), {"words": X, "looks": X}), Record(text("b"), {"words": Y})])
    assert found(store, "looks", "text", X, 9) == [("a", 1.0)]
    store.add([Record(image("a", kind="new"), {"words": Y})])
    assert found(store, "words", "text", X, 9) == [("b", 0.0)]
    assert found(store, "looks", "text", X, 9) == []
    assert found(store, "words", "image", Y, 9) == [("a", 1.0)]
    assert store.find(filters=equal("kind", "old")).tolist() == []
    assert store.find(filters=equal("kind", "new")).tolist() == [3]
    assert store.counts() == {"text": 1, "image": 1}


def test_delete(store):
    store.add([Record(text(one, doc), {"words": X}) for one, doc in [("a", "p"), ("b", "p"), ("c", "q"), ("d", None)]])
    assert len(found(store, "words", "text", X, 9)) == 4
    assert store.delete(node_ids=["a", "no such id"], ref_doc_ids=["q", "no such document"]) == 2
    assert found(store, "words", "text", X, 9) == [("b", 1.0), ("d", 1.0)]
    assert store.delete(node_ids=["b"], ref_doc_ids=["p"]) == 1
    assert store.delete() == 0
    assert found(store, "words", "text", X, 9) == [("d", 1.0)]
    assert store.partitions() == {("words", "text"): 1}


def test_numbers_are_never_used_again(store):
    store.add([Record(text("a"), {"words": X}), Record(text("b"), {"words": X})])
    store.delete(node_ids=["b"])
    store.add([Record(text("c"), {"words": X})])
    store.delete(node_ids=["a", "c"])
    store.close()
    with MediaStore(store.folder) as again:
        again.add([Record(text("b"), {"words": X})])
        assert again.find().tolist() == [4]


def test_find(store):
    store.add([Record(text("a", "p", n=1), {}), Record(image("b", "p", n=2), {}), Record(audio("c", "q", n=2), {})])
    assert store.find().tolist() == [1, 2, 3]
    assert store.find(node_ids=["c", "a", "zz"]).tolist() == [1, 3]
    assert store.find(ref_doc_ids=["p"]).tolist() == [1, 2]
    assert store.find(modalities=["audio", "image"]).tolist() == [2, 3]
    assert store.find(filters=equal("n", 2), ref_doc_ids=["p"]).tolist() == [2]
    assert store.find(node_ids=[], ref_doc_ids=[], modalities=[], filters=MetadataFilters(filters=[])).tolist() == [1, 2, 3]
    assert store.find(node_ids=["no such id"]).dtype == np.int64
    with pytest.raises(FilterError):
        store.find(filters=MetadataFilters(filters=[MetadataFilter(key="n", value=2, operator=FilterOperator.IN)]))


def test_metadata_that_is_no_strict_json_can_be_filtered(store):
    store.add(
        [Record(text("a", size=math.nan, n=1), {}), Record(text("b", size=math.inf, n=1), {}), Record(text("c", n=1), {})]
    )
    assert store.find(filters=equal("n", 1)).tolist() == [1, 2, 3]
    big = MetadataFilters(filters=[MetadataFilter(key="size", value=5, operator=FilterOperator.GT)])
    assert store.find(filters=big).tolist() == [2]
    kept = store.nodes([1, 2])
    assert math.isnan(kept[1].metadata["size"])
    assert kept[2].metadata["size"] == math.inf


def test_more_ids_than_sqlite_takes_in_one_list(store):
    store.add([Record(text(str(at), str(at % 7)), {"words": UNITS[at % 24]}) for at in range(2000)])
    store.add([Record(text(str(at)), {"words": X}) for at in range(1500)])
    everything = store.find()
    assert everything.tolist() == list(range(1501, 3501))
    assert list(store.nodes(everything.tolist())) == everything.tolist()
    assert len(store.find(node_ids=[str(at) for at in range(50_000)])) == 2000
    assert store.delete(node_ids=[str(at) for at in range(1999)]) == 1999
    assert len(store) == 1


def test_similarities_and_sample(store):
    store.add([Record(text("a"), {"words": X}), Record(text("b"), {}), Record(text("c"), {"words": -Y})])
    assert store.sample("words", "text", 9).tolist() == [X.tolist(), (-Y).tolist()]
    similarities = store.similarities("words", "text", Y, [3, 2, 1, 99])
    np.testing.assert_array_equal(similarities, [-1, np.nan, 0, np.nan])
    assert np.isnan(store.similarities("words", "audio", Y, [1])).all()


def test_nodes_that_are_gone_are_left_out(store):
    store.add([Record(text("a"), {}), Record(text("b"), {})])
    assert {seq: node.node_id for seq, node in store.nodes([2, 77, 1]).items()} == {1: "a", 2: "b"}
    assert store.nodes([]) == {}


# -- against a model ------------------------------------------------------------------------------------------------------

names = st.sampled_from([f"n{at}" for at in range(8)])
documents = st.sampled_from(["p", "q", None])
tags = st.integers(0, 2)
spaces = st.dictionaries(st.sampled_from(["words", "looks"]), st.integers(0, len(UNITS) - 1))
entries = st.lists(
    st.tuples(names, documents, st.sampled_from(list(MAKERS)), tags, spaces), max_size=5, unique_by=lambda entry: entry[0]
)


class AgainstModel(RuleBasedStateMachine):
    """A handle that writes, one that only reads, as of another process, and a dictionary."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.handles = [MediaStore(self.folder.name), MediaStore(self.folder.name)]
        for handle in self.handles:
            handle.declare_space("words", 4, "f1")
            handle.declare_space("looks", 4, "f2")
        self.nodes = {}  # id: number, document, modality, tag, vectors
        self.highest = 0

    def teardown(self):
        for handle in self.handles:
            handle.close()
        self.folder.cleanup()

    @rule(batch=entries)
    def add(self, batch):
        records = [
            Record(MAKERS[modality](name, doc, tag=tag), {space: UNITS[at] for space, at in vectors.items()})
            for name, doc, modality, tag, vectors in batch
        ]
        self.handles[0].add(records)
        for name, *rest in batch:
            (seq,) = self.handles[1].find(node_ids=[name]).tolist()
            doc, modality, tag, vectors = rest
            old = self.nodes.get(name)
            if old and old[1:4] == (doc, modality, tag):  # nothing but vectors has changed
                assert seq == old[0]
                vectors = {**old[4], **vectors}
            else:
                assert seq > self.highest
                self.highest = seq
                if old and old[2:4] == (modality, tag):  # its text and metadata are the same
                    vectors = {**old[4], **vectors}
            self.nodes[name] = (seq, doc, modality, tag, vectors)

    @rule(gone=st.lists(names, max_size=3), docs=st.lists(st.sampled_from(["p", "q"]), max_size=1))
    def delete(self, gone, docs):
        lost = [name for name, (_, doc, *_) in self.nodes.items() if name in gone or doc in docs]
        assert self.handles[0].delete(node_ids=gone, ref_doc_ids=docs) == len(lost)
        for name in lost:
            del self.nodes[name]

    @rule(
        which=st.integers(0, 1),
        space=st.sampled_from(["words", "looks"]),
        modality=st.sampled_from(list(MAKERS)),
        query=st.sampled_from(UNITS),
        k=st.integers(1, 9),
        tag=st.none() | tags,
    )
    def search(self, which, space, modality, query, k, tag):
        handle = self.handles[which]
        among = None if tag is None else handle.find(filters=equal("tag", tag))
        hits = [
            (float(UNITS[vectors[space]] @ query), seq)
            for seq, _, of, label, vectors in self.nodes.values()
            if of == modality and space in vectors and tag in (None, label)
        ]
        expected = sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:k]
        assert [(hit.similarity, hit.seq) for hit in handle.search(space, modality, query, k, among)] == expected

    @rule(space=st.sampled_from(["words", "looks"]), gone=st.lists(names, max_size=3))
    def delete_from_one_space(self, space, gone):
        there = [name for name in gone if name in self.nodes and space in self.nodes[name][4]]
        seqs = self.handles[1].find(node_ids=gone or ["none"], space=space)
        assert self.handles[0].delete_from(space, seqs) == len(set(there))
        for name in set(there):
            del self.nodes[name][4][space]
            if not self.nodes[name][4]:
                del self.nodes[name]

    @rule(everything=st.booleans())
    def checkpoint(self, everything):
        self.handles[0].checkpoint(everything=everything)

    @rule()
    def compact(self):
        self.handles[0].compact()

    @rule(which=st.integers(0, 1))
    def reopen(self, which):
        self.handles[which].close()
        self.handles[which] = MediaStore(self.folder.name, create=False)

    @rule()
    def is_sound(self):
        assert self.handles[1].check().problems == ()

    @invariant()
    def counts_agree(self):
        for handle in self.handles:
            assert handle.find().tolist() == sorted(seq for seq, *_ in self.nodes.values())
            assert sum(handle.partitions().values()) == sum(len(vectors) for *_, vectors in self.nodes.values())


AgainstModel.TestCase.settings = settings(deadline=None, max_examples=200, stateful_step_count=20)
TestAgainstModel = AgainstModel.TestCase


# -- nodes come back as they were -----------------------------------------------------------------------------------------

COMMON = {
    "metadata": {"title": "Größe 日本", "n": 1, "x": 0.1, "tags": ["a", "b"], "none": None, "in": {"a": [1, {"b": 2}]}},
    "excluded_embed_metadata_keys": ["n"],
    "excluded_llm_metadata_keys": ["x"],
    "metadata_template": "{key} = {value}",
    "metadata_separator": "; ",
    "relationships": {
        NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"a": 1}, hash="h"),
        NodeRelationship.NEXT: RelatedNodeInfo(node_id="next"),
        NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
    },
}
SOURCE = RelatedNodeInfo(node_id="doc")
NODES = [
    TextNode(id_="t", text="words", text_template="{content}", start_char_idx=3, end_char_idx=8, mimetype="text/x", **COMMON),
    Document(id_="d", text="a document", **COMMON),
    ImageNode(id_="i", text="seen", image_path="a.png", image_mimetype="image/png", text_embedding=[0.5, 1.0], **COMMON),
    IndexNode(id_="x", text="points", index_id="elsewhere", **COMMON),
    Node(
        id_="n",
        text_resource=MediaResource(text="words"),
        image_resource=MediaResource(path=Path("a.png"), mimetype="image/png"),
        audio_resource=MediaResource(path=Path("a.ogg"), mimetype="audio/ogg"),
        video_resource=MediaResource(path=Path("a.mp4")),
        **COMMON,
    ),
    ImageMedia.create("dir/a b.png", digest=DIGEST, text="labels", id_="im", source=SOURCE, metadata={"k": [1]}, width=3),
    AudioMedia.create("a.ogg", digest=DIGEST, id_="au", source=SOURCE, start=0.25, end=1.5, speech=True, language="de"),
    MeshMedia.create("a.obj", digest=DIGEST, id_="me", views="views.png", faces=12),
    MeshMedia.create("b.obj", digest=DIGEST, id_="me2"),
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.node_id)
def test_a_node_comes_back_as_it_was(store, node):
    before = node.model_copy(deep=True)
    store.add([Record(node, {"words": X})])
    (back,) = store.nodes([1]).values()
    assert type(back) is type(node)
    assert back.to_dict() == node.to_dict() == before.to_dict()
    assert (back.hash, back.get_content(), back.ref_doc_id) == (node.hash, node.get_content(), node.ref_doc_id)


def test_embeddings_are_kept_as_vectors_only(store):
    node = TextNode(id_="a", text="words", embedding=[1.0, 0.0, 0.0, 0.0])
    store.add([Record(node, {"words": X})])
    assert store.nodes([1])[1].embedding is None
    assert node.embedding == [1.0, 0.0, 0.0, 0.0]


# -- refusals -------------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"smells": X}, "Space 'smells' is not declared in this store; it has ['looks', 'words']."),
    ({"words": np.ones(3, np.float32)}, "Node b: expected a vector of shape (4,) for space 'words', got (3,)."),
    ({"words": X[None]}, "Node b: expected a vector of shape (4,) for space 'words', got (1, 4)."),
    ({"words": X * np.nan}, "Node b: the vector for space 'words' has length nan; expected a finite one above 0."),
    ({"words": np.full(4, np.inf)}, "Node b: the vector for space 'words' has length inf; expected a finite one above 0."),
    ({"words": X * 0}, "Node b: the vector for space 'words' has length 0; expected a finite one above 0."),
]


@pytest.mark.parametrize(("vectors", "message"), REFUSED)
def test_vectors_that_are_refused(store, vectors, message):
    with pytest.raises(SpaceError) as caught:
        store.add([Record(text("a"), {"words": X}), Record(text("b"), vectors)])
    assert str(caught.value) == message
    assert len(store) == 0


def test_ids_must_not_repeat(store):
    with pytest.raises(StoreError) as caught:
        store.add([Record(text(one), {}) for one in ["b", "a", "b", "c", "a"]])
    assert str(caught.value) == "Node ids must not repeat within one call of add; these do: a, b."


def test_a_space_of_another_fingerprint(store):
    store.declare_space("words", 4, "f1")
    with pytest.raises(SpaceError) as caught:
        store.declare_space("words", 8, "other")
    assert str(caught.value) == (
        f"Space 'words' of {store.folder} was made with fingerprint f1 (4 dimensions); the encoders at hand have other "
        "(8). Open it with the preset that it was made with, or index again."
    )
    assert store.spaces() == {"looks": StoredSpace(4, "f2"), "words": StoredSpace(4, "f1")}


def test_queries_that_are_refused(store):
    store.add([Record(text("a"), {"words": X})])
    for ask in (lambda *query: store.search(*query, 3), lambda *query: store.similarities(*query, [1])):
        with pytest.raises(SpaceError) as caught:
            ask("smells", "text", X)
        assert str(caught.value) == "Space 'smells' is not in this store; it has ['looks', 'words']."
        with pytest.raises(SpaceError) as caught:
            ask("words", "text", X[:3])
        assert str(caught.value) == "Expected a query of shape (4,) for space 'words', got (3,)."
        with pytest.raises(SpaceError) as caught:
            ask("words", "text", X * np.nan)
        assert str(caught.value) == "The query for space 'words' has numbers that are not finite."
    with pytest.raises(SpaceError, match=r"^Space 'smells' is not in this store"):
        store.sample("smells", "text", 3)


def test_no_store_and_none_is_to_be_made(tmp_path):
    with pytest.raises(StoreError) as caught:
        MediaStore(tmp_path / "none", create=False)
    assert str(caught.value) == (
        f"There is no index in {tmp_path / 'none'} (no store.sqlite). Make one with: llama-index-mm ingest"
    )
    assert not (tmp_path / "none").exists()


def test_a_damaged_store(store):
    store.add([Record(text("a"), {"words": X})])
    store.close()
    path = store.folder / "store.sqlite"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(StoreError) as caught:
        MediaStore(store.folder)
    assert str(caught.value) == (
        f"{path} can't be opened as a store: file is not a database. Restore it from a copy, or index again."
    )


def test_a_database_of_something_else(tmp_path):
    with sqlite3.connect(tmp_path / "store.sqlite") as database:
        database.execute("CREATE TABLE things (a)")
    database.close()
    with pytest.raises(StoreError, match="can't be opened as a store: no such table: meta"):
        MediaStore(tmp_path)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("words")
    with pytest.raises(StoreError, match="can't be opened as a store"):
        MediaStore(tmp_path / "file")


def test_another_version(store):
    store.set_meta("version", "99")
    store.close()
    with pytest.raises(StoreError) as caught:
        MediaStore(store.folder)
    assert str(caught.value) == (
        f"{store.folder / 'store.sqlite'} is a store of version 99; this package reads version 2. Index again."
    )


# -- whole or not at all --------------------------------------------------------------------------------------------------


def state(store):
    """Everything that can be asked."""
    return (
        ids(store, store.find().tolist()),
        store.partitions(),
        store.sources(),
        [found(store, space, of, X, 9) for space in ("words", "looks") for of in ("text", "image")],
    )


def test_an_add_that_fails_midway_leaves_no_trace(store):
    store.add([Record(text("a"), {"words": X}), Record(image("b"), {"looks": Y})], [Source("a.txt", DIGEST, "indexed")])
    before = state(store)
    unserialisable = IndexNode(id_="d", text="", index_id="i", obj=object())
    with pytest.raises(ValueError, match="not serializable"):
        store.add(
            [Record(image("a"), {"words": Y}), Record(text("c"), {"words": Z}), Record(unserialisable, {"words": W})],
            [Source("a.txt", DIGEST, "failed"), Source("b.txt", DIGEST, "indexed")],
        )
    assert state(store) == before
    store.add([Record(text("c"), {"words": Z})])
    assert found(store, "words", "text", Z, 9) == [("c", 1.0), ("a", 0.0)]


def test_a_source_that_fails_takes_the_nodes_with_it(store):
    before = state(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.add([Record(text("a"), {"words": X})], [Source("a.txt", None, "indexed")])
    assert state(store) == before


def test_an_interrupted_delete_leaves_everything(store, monkeypatch):
    store.add([Record(text("a"), {"words": X}), Record(text("b"), {"words": Y})])
    before = state(store)

    def interrupted(changes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Changes, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.delete(node_ids=["a"])
    assert state(store) == before
    assert store.delete(node_ids=["a"]) == 1


def test_a_process_that_dies_within_a_transaction_leaves_no_trace(store):
    store.add([Record(text("a"), {"words": X})])
    before = state(store)
    run(
        store,
        """
        record = Record(TextNode(id_="b", text="b"), {"words": np.eye(4, dtype=np.float32)[0]})
        store._note = lambda *_: os._exit(3)
        store.add([record])
        """,
        expected=3,
    )
    assert state(store) == before


# -- other handles, other processes ---------------------------------------------------------------------------------------


def run(store, code, *, expected=0, writer=False):
    """Do something with the store in another process, which may write unless this one is the writer."""
    if not writer:
        store._database.give_up_writing()
    head = """
        import os
        import numpy as np
        from llama_index.core.schema import TextNode
        from llama_index_mm.stores import MediaStore, Record
        store = MediaStore(os.environ["STORE"], create=False)
    """
    program = textwrap.dedent(head) + textwrap.dedent(code)
    environment = {**os.environ, "STORE": str(store.folder), "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (expected, "")
    return done.stdout


def test_another_process_is_seen(store):
    store.add([Record(text("a"), {"words": X}), Record(text("b"), {"words": Y})])
    assert found(store, "words", "text", X, 9) == [("a", 1.0), ("b", 0.0)]
    printed = run(
        store,
        """
        store.delete(node_ids=["a"])
        store.add([Record(TextNode(id_="c", text="c"), {"words": np.eye(4, dtype=np.float32)[0]})])
        print([hit.seq for hit in store.search("words", "text", np.eye(4, dtype=np.float32)[1], 9)])
        """,
    )
    assert json.loads(printed) == [2, 3]
    assert found(store, "words", "text", X, 9) == [("c", 1.0), ("b", 0.0)]


def test_two_handles_that_write_in_turn(store):
    with MediaStore(store.folder) as other:
        assert other.spaces() == store.spaces()
        for at, handle in enumerate([store, other, other, store, other]):
            handle.add([Record(text(str(at)), {"words": X})])
            handle._database.give_up_writing()
            assert found(store, "words", "text", X, 9) == found(other, "words", "text", X, 9)
        other.delete(node_ids=["0", "4"])
        assert [name for name, _ in found(store, "words", "text", X, 9)] == ["1", "2", "3"]


WRITES = {
    "add": lambda store: store.add([Record(text("b"), {"words": X})]),
    "delete": lambda store: store.delete(node_ids=["a"]),
    "delete_from": lambda store: store.delete_from("words", [1]),
    "clear": lambda store: store.clear(),
    "set_meta": lambda store: store.set_meta("a", "b"),
    "note_sources": lambda store: store.note_sources([Source("a.txt", DIGEST, "indexed")]),
    "release": lambda store: store.release("a.txt"),
    "declare_space": lambda store: store.declare_space("more", 3, "f"),
    "checkpoint": lambda store: store.checkpoint(),
    "build_approximate": lambda store: store.build_approximate("words"),
    "repair": lambda store: store.repair(),
    "compact": lambda store: store.compact(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_second_writer_is_refused_at_once(store, write):
    store.add([Record(text("a"), {"words": X})])
    with MediaStore(store.folder) as other:
        began = time.monotonic()
        with pytest.raises(StoreLockedError) as caught:
            WRITES[write](other)
        assert time.monotonic() - began < 5
        assert str(caught.value) == (
            f"{store.folder} is being written by another handle, in this process or in another one. Only one may write: close "
            "that one first, or write through it. Reading goes on."
        )
        assert found(other, "words", "text", X, 9) == [("a", 1.0)]
        store.close()
        WRITES[write](other)


def test_a_writer_in_another_process_is_seen_too(store):
    store.add([Record(text("a"), {"words": X})])
    code = """
        from llama_index_mm.errors import StoreLockedError
        try:
            store.set_meta("a", "b")
        except StoreLockedError:
            print("locked", store.search("words", "text", np.eye(4, dtype=np.float32)[0], 1)[0].similarity)
        """
    assert run(store, code, writer=True) == "locked 1.0\n"


def test_two_handles_that_declare_the_same_space(store):
    with MediaStore(store.folder) as other:
        store.declare_space("new", 3, "f")
        other.declare_space("new", 3, "f")
        with pytest.raises(SpaceError):
            other.declare_space("new", 3, "g")


def test_threads_that_write_and_search_at_once(store):
    store.add([Record(text("first"), {"words": X})])
    ready = threading.Barrier(4)

    def work(name):
        ready.wait()
        for at in range(20):
            store.add([Record(text(f"{name} {at}"), {"words": UNITS[at]})])
            assert store.search("words", "text", X, 1)[0].similarity == 1.0
            store.delete(node_ids=[f"{name} {at - 5}"])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, name) for name in "abcd"]:
            future.result()
    kept = found(store, "words", "text", X, 99)
    assert {name for name, _ in kept} == {"first", *(f"{name} {at}" for name in "abcd" for at in range(15, 20))}
    store.close()
    with MediaStore(store.folder) as again:
        assert found(again, "words", "text", X, 99) == kept


# -- notes ----------------------------------------------------------------------------------------------------------------


def test_notes_on_files(store):
    notes = [
        Source("b.txt", DIGEST, "indexed", document_id="p"),
        Source("a.txt", DIGEST, "indexed", document_id="p"),
        Source("c.txt", "", "failed", "It is empty."),
    ]
    store.note_sources(notes[:1])
    store.add([Record(text("x", "p"), {})], notes[1:])
    assert store.sources() == [notes[1], notes[0], notes[2]]
    assert store.sources(document_id="p") == [notes[1], notes[0]]
    assert store.sources(status="failed") == [notes[2]]
    assert store.sources(document_id="p", status="failed") == []
    assert store.source("c.txt") == notes[2]
    assert store.source("d.txt") is None
    mended = Source("c.txt", "cd" * 32, "indexed", document_id="q")
    store.note_sources([mended])
    assert store.source("c.txt") == mended


def test_deleting_a_document_forgets_its_files(store):
    notes = [Source("a.txt", DIGEST, "indexed", document_id="p"), Source("b.txt", DIGEST, "indexed", document_id="q")]
    store.add([Record(text("x", "p"), {}), Record(text("y", "q"), {})], notes)
    store.delete(node_ids=["y"])
    store.delete(ref_doc_ids=["p"])
    assert store.sources() == notes[1:]


def test_notes_of_the_store(store):
    assert store.meta("preset") is None
    store.set_meta("preset", "tiny")
    store.set_meta("preset", "tiny+shape")
    store.close()
    with MediaStore(store.folder, create=False) as again:
        assert again.meta("preset") == "tiny+shape"


def test_media_in_the_folder(store):
    path = store.media_path(b"bytes", ".png")
    assert path.parent.parent == store.folder / "media"
    assert path.suffix == ".png"
    path.write_bytes(b"stays")
    assert store.media_path(b"bytes", ".png") == path
    assert path.read_bytes() == b"stays"
    assert store.media_path(b"other", ".png") != path
    assert len([file for file in (store.folder / "media").rglob("*") if file.is_file()]) == 2
