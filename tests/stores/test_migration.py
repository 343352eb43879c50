"""Stores of version 1 become today's when they are opened."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from filelock import FileLock
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import StoreError, StoreLockedError
from llama_index_mm.media import digest_bytes
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.stores import Hit, MediaStore, Record, Source, StoredSpace, database, schema

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE spaces (name TEXT PRIMARY KEY, dimension INTEGER NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE nodes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node_id TEXT NOT NULL UNIQUE,
    ref_doc_id TEXT,
    modality TEXT NOT NULL,
    class TEXT NOT NULL,
    metadata TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX nodes_by_document ON nodes (ref_doc_id);
CREATE INDEX nodes_by_modality ON nodes (modality);
CREATE TABLE vectors (
    space TEXT NOT NULL REFERENCES spaces (name),
    modality TEXT NOT NULL,
    seq INTEGER NOT NULL REFERENCES nodes (seq) ON DELETE CASCADE,
    vector BLOB NOT NULL,
    PRIMARY KEY (space, modality, seq)
) WITHOUT ROWID;
CREATE INDEX vectors_by_node ON vectors (seq);
CREATE TABLE partitions (
    space TEXT NOT NULL, modality TEXT NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (space, modality)
);
CREATE TABLE sources (
    path TEXT PRIMARY KEY,
    document_id TEXT,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX sources_by_document ON sources (document_id);
"""

DIGEST = "ab" * 32
P, Q = RelatedNodeInfo(node_id="p"), RelatedNodeInfo(node_id="q")
CORNERS = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32) / 2
LOOKS = np.eye(3, dtype=np.float32)
NODES = {
    1: TextNode(
        id_="a",
        text="Größe 日本",
        metadata={"title": "Größe 日本", "n": 1, "x": 0.5, "tags": ["a", "b"], "none": None, "in": {"a": [1, {"b": 2}]}},
        excluded_embed_metadata_keys=["n"],
        relationships={NodeRelationship.SOURCE: P, NodeRelationship.NEXT: RelatedNodeInfo(node_id="b")},
        start_char_idx=3,
    ),
    2: TextNode(
        id_="b", text="second", metadata={"n": 2, "x": math.nan, "yes": True}, relationships={NodeRelationship.SOURCE: P}
    ),
    4: ImageMedia.create(
        "dir/c.png", digest=DIGEST, id_="c", text="a cat", source=Q, metadata={"n": 2, "x": math.inf}, width=3
    ),
    5: AudioMedia.create("d.ogg", digest=DIGEST, id_="d", source=Q, start=0.25, end=1.5, language="de"),
    6: TextNode(id_="e", text="no vectors"),
}
VECTORS = {
    ("words", "text"): {1: CORNERS[0], 2: CORNERS[1]},
    ("words", "image"): {4: CORNERS[2]},
    ("words", "audio"): {5: CORNERS[3]},
    ("looks", "image"): {4: LOOKS[0]},
    ("looks", "text"): {2: LOOKS[1]},
}
SOURCES = [
    Source("/data/a.txt", DIGEST, "indexed", document_id="p"),
    Source("/data/broken.png", "", "failed", "It is empty."),
    Source("/data/c.png", "cd" * 32, "indexed", document_id="q"),
]
MODALITIES = {1: "text", 2: "text", 3: "text", 4: "image", 5: "audio", 6: "text", 7: "text"}


def own_file(folder):
    digest = digest_bytes(b"picture")
    return folder.resolve() / "media" / digest[:2] / f"{digest}.png"


def filterable(body):
    stand_ins = {"NaN": {}, "Infinity": sys.float_info.max, "-Infinity": -sys.float_info.max}
    return json.dumps(json.loads(body, parse_constant=stand_ins.get)["metadata"])


def connect(folder):
    return sqlite3.connect(folder / "store.sqlite", isolation_level=None)


@pytest.fixture
def old(tmp_path):
    """The folder of a store of version 1, in which numbers 3 and 7, the highest, were deleted."""
    folder = tmp_path / "index"
    own_file(folder).parent.mkdir(parents=True)
    own_file(folder).write_bytes(b"picture")
    own = json.dumps(str((folder / "media").resolve()) + "/")[1:-1]
    with_own_file = NODES[4].with_facts(views=str(own_file(folder)))
    written = connect(folder)
    written.execute("PRAGMA journal_mode = WAL")
    written.executescript(SCHEMA)
    written.execute("PRAGMA foreign_keys = ON")
    written.executemany(
        "INSERT INTO meta VALUES (?, ?)", [("version", "1"), ("preset", "offline"), ("identity", "0123456789abcdef")]
    )
    written.executemany("INSERT INTO spaces VALUES (?, ?, ?)", [("words", 4, "f1"), ("looks", 3, "f2")])
    for seq, modality in MODALITIES.items():
        node = with_own_file if seq == 4 else NODES.get(seq, TextNode(id_=f"gone {seq}", text="", metadata={"gone": 1}))
        body = json.dumps({**node.to_dict(), "embedding": None}, default=str).replace(own, "mm-own-media://")
        row = [node.node_id, node.ref_doc_id, modality, node.class_name(), filterable(body), body]
        sql = "INSERT INTO nodes (node_id, ref_doc_id, modality, class, metadata, body) VALUES (?, ?, ?, ?, ?, ?)"
        assert written.execute(sql, row).lastrowid == seq
        for (space, of), vectors in VECTORS.items():
            vector = vectors.get(seq, CORNERS[0] if seq not in NODES and (space, of) == ("words", "text") else None)
            if vector is not None:
                written.execute("INSERT INTO vectors VALUES (?, ?, ?, ?)", [space, of, seq, vector.tobytes()])
    for key in VECTORS:
        written.execute("INSERT INTO partitions VALUES (?, ?, 3)", key)
    written.execute("DELETE FROM nodes WHERE seq IN (3, 7)")  # their vectors go with them
    notes = [(one.path, one.document_id, one.digest, one.status, one.reason) for one in SOURCES]
    written.executemany("INSERT INTO sources VALUES (?, ?, ?, ?, ?)", notes)
    written.close()
    return folder


def dump(folder):
    reading = connect(folder)
    lines = list(reading.iterdump())
    reading.close()
    return lines


def matching(store, key, value, operator=FilterOperator.EQ):
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])
    return store.find(filters=filters).tolist()


def assert_as_before(store):
    assert store.meta("version") == "2"
    assert store.meta("preset") == "offline"
    assert store.identity == "0123456789abcdef"
    assert store.spaces() == {"looks": StoredSpace(3, "f2", True), "words": StoredSpace(4, "f1", True)}
    assert store.sources() == SOURCES

    assert store.find().tolist() == [1, 2, 4, 5, 6]
    nodes = store.nodes([1, 2, 3, 4, 5, 6, 7])
    expected = {**NODES, 4: NODES[4].with_facts(views=str(own_file(store.folder)))}
    assert {seq: (type(node), repr(node.to_dict())) for seq, node in nodes.items()} == {
        seq: (type(node), repr(node.to_dict())) for seq, node in expected.items()
    }
    assert store.counts() == {"text": 3, "image": 1, "audio": 1}
    assert store.find(ref_doc_ids=["p"]).tolist() == [1, 2]
    assert store.find(ref_doc_ids=["q"], modalities=["audio"]).tolist() == [5]
    assert store.find(node_ids=["d", "a", "gone 7"]).tolist() == [1, 5]

    assert store.partitions() == {key: len(vectors) for key, vectors in VECTORS.items()}
    for (space, modality), vectors in VECTORS.items():
        assert store.find(space=space, modalities=[modality]).tolist() == list(vectors)
        np.testing.assert_array_equal(store.vectors(space, modality, list(vectors)), list(vectors.values()))
    assert store.search("words", "text", CORNERS[1], 5) == [Hit(2, 1.0), Hit(1, 0.5)]
    assert store.search("words", "text", CORNERS[1], 5, exact=True, fingerprint="f1") == [Hit(2, 1.0), Hit(1, 0.5)]
    assert store.search("words", "audio", CORNERS[0], 5) == [Hit(5, 0.0)]
    assert store.search("looks", "image", LOOKS[0], 5) == [Hit(4, 1.0)]

    assert matching(store, "n", 2) == [2, 4]
    assert matching(store, "n", 1, FilterOperator.GT) == [2, 4]
    assert matching(store, "x", 0, FilterOperator.GT) == [1, 4]
    assert matching(store, "yes", 1) == [2]
    assert matching(store, "title", "größe", FilterOperator.TEXT_MATCH_INSENSITIVE) == [1]
    assert matching(store, "tags", "b", FilterOperator.CONTAINS) == [1]
    assert matching(store, "mm_language", "de") == [5]
    assert matching(store, "gone", 1) == []
    assert store.check().problems == ()


def test_everything_is_as_before(old):
    with MediaStore(old, create=False) as store:
        assert_as_before(store)
    with MediaStore(old, create=False) as again:
        assert_as_before(again)
        assert (again.check().nodes, again.check().vectors) == (5, 6)


def test_tables_are_those_of_a_new_store(old, tmp_path):
    MediaStore(old).close()
    MediaStore(tmp_path / "new").close()
    found = []
    for folder in (old, tmp_path / "new"):
        reading = connect(folder)
        found.append(dict(reading.execute("SELECT name, sql FROM sqlite_master")))
        settings = [reading.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "journal_mode")]
        assert settings == [schema.PAGE_SIZE, "wal"]
        assert reading.execute("PRAGMA foreign_key_check").fetchall() == []
        reading.close()
    assert found[0] == found[1]


def test_numbers_are_not_used_again(old):
    with MediaStore(old) as store:
        store.add([Record(TextNode(id_="f", text="new"), {"words": CORNERS[0]})])
        assert store.find(node_ids=["f"]).tolist() == [8]
        assert store.search("words", "text", CORNERS[0], 2) == [Hit(1, 1.0), Hit(8, 1.0)]
        store.delete(node_ids=["f"])
        store.add([Record(TextNode(id_="g", text="new"), {})])
        assert store.find(node_ids=["g"]).tolist() == [9]


def test_numbers_of_a_store_that_was_emptied(old):
    emptied = connect(old)
    emptied.execute("PRAGMA foreign_keys = ON")
    emptied.execute("DELETE FROM nodes")
    emptied.close()
    with MediaStore(old) as store:
        assert (len(store), store.partitions(), store.check().problems) == (0, {}, ())
        store.add([Record(TextNode(id_="f", text="new"), {"words": CORNERS[0]})])
        assert store.find().tolist() == [8]


def test_a_store_in_which_nothing_was(old):
    empty = connect(old)
    for table in ("vectors", "nodes", "partitions", "spaces", "sources", "sqlite_sequence"):
        empty.execute(f"DELETE FROM {table}")
    empty.close()
    with MediaStore(old) as store:
        assert store.check().problems == ()
        store.declare_space("words", 4, "f1")
        store.add([Record(TextNode(id_="f", text="new"), {"words": CORNERS[0]})])
        assert store.search("words", "text", CORNERS[0], 2) == [Hit(1, 1.0)]


def test_it_can_be_changed_in_every_way(old):
    with MediaStore(old) as store:
        store.checkpoint()
        assert sorted(path.name for path in (old / "faiss").iterdir()) == [
            f"{number}-0.{kind}.npy" for number in range(1, 6) for kind in ("ids", "vectors")
        ]
        assert_as_before(store)
        store.add([Record(NODES[2], {"words": CORNERS[3]})])  # the vector in the other space is kept
        (seq,) = store.find(node_ids=["b"]).tolist()
        assert store.search("looks", "text", LOOKS[1], 5) == [Hit(seq, 1.0)]
        assert store.search("words", "text", CORNERS[3], 1) == [Hit(seq, 1.0)]
        assert matching(store, "yes", 1) == [seq]
        store.release("/data/c.png")
        assert store.delete(node_ids=["a"]) == 1
        assert store.find().tolist() == sorted([6, seq])
        store.compact()
        assert store.repair().problems == ()


# -- interrupted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("interrupted"), KeyboardInterrupt(), sqlite3.DatabaseError("interrupted")])
@pytest.mark.parametrize("calls", [1, 3, 5])
def test_what_fails_midway_leaves_the_old_store(old, monkeypatch, error, calls):
    before = dump(old)
    insert, left = schema.insert_facts, [calls]

    def failing(*arguments):
        left[0] -= 1
        if not left[0]:
            raise error
        insert(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(schema, "insert_facts", failing)
        expected = StoreError if isinstance(error, sqlite3.Error) else type(error)
        with pytest.raises(expected, match=r"interrupted|^$") as caught:
            MediaStore(old)
    if expected is StoreError:
        assert str(caught.value) == (
            f"{old / 'store.sqlite'} is a store of version 1 and can't be brought up to version 2 now: interrupted. "
            "It is as it was."
        )
    assert dump(old) == before
    with MediaStore(old, create=False) as store:
        assert_as_before(store)


# Before which statement, or how far into it, and the version that is found then.
DEATHS = {
    "among the nodes": ("INSERT INTO nodes", 0, 1),
    "before old tables go": ("DROP TABLE nodes_1", 0, 1),
    "before the end": ("COMMIT", 0, 1),
    "before it is packed": ("VACUUM", 0, 2),
    "while it is packed": ("VACUUM", 30, 2),
}


@pytest.mark.parametrize("when", DEATHS)
def test_a_process_that_dies_midway(old, when):
    before = dump(old)
    statement, steps, version = DEATHS[when]
    program = f"""
        import os
        from pathlib import Path
        from llama_index_mm.stores.database import Database

        begun = False
        left = {steps}

        def step():
            global left
            left -= begun
            if begun and left < 0:
                os._exit(3)

        def trace(sql):
            global begun
            begun = begun or sql.startswith({statement!r})
            if not {steps}:
                step()

        class Dying(Database):
            def _connect(self):
                connection = super()._connect()
                connection.set_trace_callback(trace)
                connection.set_progress_handler(step, 20)
                return connection

        Dying(Path({str(old)!r}), create=False)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    reading = connect(old)
    assert reading.execute("SELECT value FROM meta WHERE key = 'version'").fetchall() == [(str(version),)]
    reading.close()
    if version == 1:
        assert dump(old) == before
    with MediaStore(old, create=False) as store:
        assert_as_before(store)


# -- others at the same time ----------------------------------------------------------------------------------------------

WRITTEN = "{} is a store of version 1 and can't be brought up to version 2 now: somebody else is writing it. It is as it was."


def test_another_handle_writes(old):
    before = dump(old)
    with FileLock(old / "writer.lock"), pytest.raises(StoreLockedError) as caught:
        MediaStore(old)
    assert str(caught.value) == WRITTEN.format(old / "store.sqlite")
    assert dump(old) == before
    with MediaStore(old) as store:
        assert_as_before(store)


def test_an_older_package_writes(old, monkeypatch):
    monkeypatch.setattr(database, "_WAIT", 0.2)
    before = dump(old)
    other = connect(old)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLockedError) as caught:
        MediaStore(old)
    assert str(caught.value) == WRITTEN.format(old / "store.sqlite")
    other.execute("ROLLBACK")
    other.close()
    assert dump(old) == before
    with MediaStore(old) as store:
        assert_as_before(store)


def test_an_older_package_has_it_open(old):
    other = connect(old)
    assert other.execute("SELECT count(*) FROM nodes").fetchone() == (5,)
    with MediaStore(old) as store:
        assert_as_before(store)
    other.close()
    with MediaStore(old) as store:
        assert_as_before(store)


def test_whoever_opened_it_first_does_not_keep_others_from_writing(old):
    with MediaStore(old) as first, MediaStore(old, create=False) as second:
        assert_as_before(first)
        assert_as_before(second)
        second.add([Record(TextNode(id_="f", text="new"), {"words": CORNERS[0]})])
        assert first.find().tolist() == [1, 2, 4, 5, 6, 8]
        with pytest.raises(StoreLockedError):
            first.delete(node_ids=["f"])


def test_many_open_it_at_once(old):
    def open_it(_):
        try:
            with MediaStore(old, create=False) as store:
                assert_as_before(store)
        except StoreError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        told = set(pool.map(open_it, range(12)))
    assert None in told
    assert all("locked" in one or "somebody else is writing it" in one for one in told - {None})
    with MediaStore(old, create=False) as store:
        assert_as_before(store)
