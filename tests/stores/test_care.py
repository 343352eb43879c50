"""Looking after a store: statistics, check, repair, compact and copies, on sound stores and on ones damaged by hand."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import StoreError
from llama_index_mm.media import digest_bytes
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.stores import MediaStore, Record, SpaceVectorStore
from llama_index_mm.stores.schema import SEQ_BITS

DIMENSION = 8
VECTORS = np.random.default_rng(0).normal(size=(2000, DIMENSION)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
BAD_NUMBER = "UPDATE partitions SET vectors = {} WHERE space = 'words' AND modality = 'text'"


def text(at):
    return TextNode(
        id_=f"t{at}",
        text=f"text {at} " * 20,
        metadata={"even": at % 2 == 0, "tags": ["a", str(at % 3)]},
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"d{at % 5}")},
    )


def image(at):
    return ImageMedia.create(f"{at}.png", digest="ab" * 32, id_=f"i{at}", metadata={"even": at % 2 == 0})


def texts(count, start=0):
    return [Record(text(at), {"words": VECTORS[at]}) for at in range(start, start + count)]


@pytest.fixture
def store(tmp_path):
    """Nodes t0..t39 with numbers 1..40, i0..i9 with numbers 41..50, as files and in the database."""
    with MediaStore(tmp_path / "store") as made:
        made.declare_space("words", DIMENSION, "f")
        made.declare_space("looks", DIMENSION, "f")
        made.add(texts(40))
        made.add([Record(image(at), {"words": VECTORS[50 + at], "looks": VECTORS[60 + at]}) for at in range(10)])
        made.checkpoint()
        yield made


def reopened(store, *statements):
    """A store after some SQL behind its back."""
    store.close()
    with closing(sqlite3.connect(store.folder / "store.sqlite")) as database:
        for statement in statements:
            assert database.execute(statement).rowcount
        database.commit()
    return MediaStore(store.folder, create=False)


def even(value=True, condition=FilterCondition.AND):
    return MetadataFilters(filters=[MetadataFilter(key="even", value=int(value))], condition=condition)


def asked(store):
    """What searches and filters give."""
    found = [
        [(hit.seq, hit.similarity) for hit in store.search(space, modality, VECTORS[1], 99)]
        for space in ("words", "looks")
        for modality in ("text", "image")
    ]
    tagged = MetadataFilters(filters=[MetadataFilter(key="tags", value="1", operator=FilterOperator.CONTAINS)])
    chosen = [store.find(filters=filters).tolist() for filters in (even(), even(False), tagged)]
    return found, chosen, store.partitions(), store.counts()


def size(store):
    return sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())


# -- sound stores -------------------------------------------------------------------------------------------------------


def test_statistics(store):
    told = {(one.space, one.modality): one for one in store.statistics()}
    assert {key: one.vectors for key, one in told.items()} == store.partitions()
    assert store.partitions() == {("words", "text"): 40, ("words", "image"): 10, ("looks", "image"): 10}
    assert {(one.dimension, one.pending, one.approximate, str(one)) for one in told.values()} == {(DIMENSION, 0, None, "exact")}
    assert sum(one.file_bytes for one in told.values()) == sum(
        path.stat().st_size for path in (store.folder / "faiss").iterdir()
    )
    assert all(one.file_bytes > 4 * DIMENSION * one.vectors for one in told.values())
    store.add(texts(5, 38))
    store.delete_from("looks", store.find(modalities=["image"]))
    told = {(one.space, one.modality): (one.vectors, one.pending) for one in store.statistics()}
    assert told == {("words", "text"): (43, 5), ("words", "image"): (10, 0)}


def test_an_empty_store(tmp_path):
    with MediaStore(tmp_path) as store:
        assert store.statistics() == []
        for report in (store.check(), store.repair()):
            assert (report.ok, report.nodes, report.vectors, report.files, report.problems) == (True, 0, 0, 0, ())
        before, after = store.compact()
        assert 0 < after <= before
        store.copy_to(tmp_path / "copy")
    with MediaStore(tmp_path / "copy", create=False) as copy:
        assert len(copy) == 0


def test_what_a_check_looks_at(store):
    report = store.check()
    assert (report.ok, report.nodes, report.vectors, report.files, report.problems) == (True, 50, 60, 3, ())
    store.media_path(b"bytes", ".png")
    store.delete(node_ids=["t0", "i0"])
    store.add(texts(3, 100))
    report = store.check()
    assert (report.ok, report.nodes, report.vectors, report.files) == (True, 51, 60, 4)


def test_repair_changes_nothing_that_is_sound(store):
    store.add(texts(3, 100))
    before = asked(store)
    assert store.repair().ok
    assert asked(store) == before
    assert {one.pending for one in store.statistics()} == {0}


# -- damaged by hand ----------------------------------------------------------------------------------------------------

IMAGES = f"SELECT id << {SEQ_BITS} FROM partitions WHERE space = 'looks' AND modality = 'image'"
DAMAGES = {
    "facts that lack": (["DELETE FROM facts WHERE seq = 3"], ["Nodes that filters may miss (repair): t2."]),
    "no facts at all": (["DELETE FROM facts"], ["Nodes that filters may miss (repair): t0, t1, t2, t3, t4 and 45 more."]),
    "a name that lacks": (
        ["UPDATE names SET name = 'odd' WHERE name = 'even'"],
        ["Nodes that filters may miss (repair): t0, t1, t2, t3, t4 and 45 more."],
    ),
    "facts of nobody": (
        ["INSERT INTO facts SELECT name, kind, value, 999 FROM facts WHERE seq = 3"],
        ["Filters' rows: 142, expected 140 (repair)."],
    ),
    "a fact too many": (
        ["INSERT INTO facts SELECT name, kind, 1 - value, seq FROM facts WHERE seq = 3 AND kind = 2"],
        ["Filters' rows: 141, expected 140 (repair)."],
    ),
    "a count too high": ([BAD_NUMBER.format(41)], ["Counts of vectors (repair): words/text 40, noted 41."]),
    "a count too low": ([BAD_NUMBER.format(0)], ["Counts of vectors (repair): words/text 40, noted 0."]),
    "vectors of nobody": (
        [f"INSERT INTO vectors SELECT key + 900, digest, vector FROM vectors WHERE key = ({IMAGES}) + 41"],
        [
            "Vectors without a node (repair): 941.",
            "Counts of vectors (repair): looks/image 11, noted 10.",
            "FAISS files (repair): 3-3.vectors.npy has other vectors than the database.",
        ],
    ),
    "vectors of another modality": (
        [f"INSERT INTO vectors SELECT ({IMAGES}) + 1, digest, vector FROM vectors WHERE key = ({IMAGES}) + 41"],
        ["Vectors without a node (repair): 1.", "Counts of vectors (repair): looks/image 11, noted 10."],
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_a_repair_makes_good(store, what):
    before = asked(store)
    statements, problems = DAMAGES[what]
    with reopened(store, *statements) as damaged:
        report = damaged.check()
        assert not report.ok
        assert [one for one in report.problems if not one.startswith("FAISS")] == [
            one for one in problems if not one.startswith("FAISS")
        ]
        assert damaged.repair().problems == ()
        assert damaged.check().problems == ()
        assert asked(damaged) == before
    with MediaStore(store.folder, create=False) as again:
        assert asked(again) == before


def test_a_node_that_is_gone_leaves_nothing_behind(store):
    with reopened(store, "DELETE FROM nodes WHERE node_id = 'i3'") as damaged:
        problems = damaged.check().problems
        assert "Vectors without a node (repair): 44, 44." in problems
        assert "Filters' rows: 140, expected 134 (repair)." in problems
        assert damaged.repair().problems == ()
        assert damaged.partitions() == {("words", "text"): 40, ("words", "image"): 9, ("looks", "image"): 9}
        assert 44 not in [hit.seq for hit in damaged.search("looks", "image", VECTORS[0], 99)]
        damaged.add([Record(image(3), {"looks": VECTORS[63]})])
        assert damaged.check().problems == ()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE nodes SET body = replace(body, 'text 7', 'text 8') WHERE node_id = 't7'", "Nodes that are not what was"),
        ("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE key % 1048576 = 7", "Vectors that are not what was"),
    ],
)
def test_what_no_repair_makes_good(store, statement, message):
    with reopened(store, statement) as damaged:
        for report in (damaged.check(), damaged.repair()):
            assert any(one.startswith(message) for one in report.problems)


# -- compact ------------------------------------------------------------------------------------------------------------


def test_compact_gives_back_what_deleted_nodes_took(tmp_path):
    with MediaStore(tmp_path) as store:
        store.declare_space("words", DIMENSION, "f")
        store.declare_space("looks", DIMENSION, "f")
        store.add(texts(2000))
        store.checkpoint()
        store.delete(node_ids=[f"t{at}" for at in range(100, 2000)])
        left = asked(store)
        full = size(store)
        before, after = store.compact()
        assert (before, after) == (full, size(store))
        assert after < before / 5
        assert asked(store) == left
        assert len(left[0][0]) == 99
        assert {one.pending for one in store.statistics()} == {0}
        assert store.check().problems == ()
        assert store.compact() == (after, after)
        store.clear()
        store.compact()
        assert size(store) < after
        assert (len(store), store.statistics(), store.check().problems) == (0, [], ())
        store.add(texts(3))
        assert store.find().tolist() == [2001, 2002, 2003]  # numbers are not used again
    with MediaStore(tmp_path, create=False) as again:
        assert len(again) == 3
        assert again.check().problems == ()


def picture(store, data, id_, suffix=".png"):
    path = store.media_path(data, suffix)
    store.add([Record(ImageMedia.create(path, digest=digest_bytes(data), id_=id_), {"looks": VECTORS[0]})])
    return path


def test_compact_keeps_the_media_that_nodes_point_to(store):
    kept = [picture(store, b"one", "one"), picture(store, b"two", "two"), picture(store, b"odd", "odd", ".größe")]
    gone, unnamed = picture(store, b"gone", "gone"), store.media_path(b"unnamed", ".png")
    assert picture(store, b"two", "twin") == kept[1]
    assert store.check().files == 3 + 5
    store.delete(node_ids=["gone", "two"])
    for _ in range(2):
        store.compact()
        assert [path.is_file() for path in (*kept, gone, unnamed)] == [True, True, True, False, False]
        assert store.check().problems == ()
    again = store.media_path(b"gone", ".png")
    assert (again, again.read_bytes()) == (gone, b"gone")


def test_media_that_changed_by_themselves_are_told(store):
    path = picture(store, b"one", "one")
    path.write_bytes(b"another")
    name = path.relative_to(store.folder.resolve())
    assert store.check().problems == (f"Media files that are not what was written: {name}.",)


def test_media_that_are_gone_are_told(store):
    picture(store, b"one", "one").unlink()
    assert not store.check().ok


def test_media_are_found_by_their_path(store, tmp_path):
    picture(store, b"one", "one")
    store.copy_to(tmp_path / "copy")
    with MediaStore(tmp_path / "copy", create=False) as copy:
        for one in (store, copy):
            (node,) = SpaceVectorStore(one, "looks").get_nodes(["one"])
            for operator, value in ((FilterOperator.EQ, str(node.path)), (FilterOperator.IN, [str(node.path)])):
                wanted = MetadataFilters(filters=[MetadataFilter(key="file_path", value=value, operator=operator)])
                assert one.find(filters=wanted).tolist() == one.find(node_ids=["one"]).tolist()


@pytest.mark.parametrize("said", ["see mm-own-media://ab/cd.png", 'a "mm-own-media://"', "mm-own-media:\\/\\/x"])
def test_texts_that_look_like_a_stored_path_stay_as_they_are(store, said):
    node = TextNode(id_="odd", text=said, metadata={said: said, "list": [said]})
    store.add([Record(node, {"words": VECTORS[0]})])
    (found,) = store.nodes(store.find(node_ids=["odd"]).tolist()).values()
    assert found == node
    wanted = MetadataFilters(filters=[MetadataFilter(key=said, value=said)])
    assert store.find(filters=wanted).tolist() == store.find(node_ids=["odd"]).tolist()
    store.compact()
    assert store.check().problems == ()


# -- copies -------------------------------------------------------------------------------------------------------------


def test_a_copy(store, tmp_path):
    path = picture(store, b"one", "one")
    before = asked(store)
    store.copy_to(tmp_path / "copy")
    store.clear()
    store.compact()
    assert not path.exists()
    with MediaStore(tmp_path / "copy", create=False) as copy:
        assert asked(copy) == before
        assert copy.spaces() == store.spaces()
        assert copy.check().problems == ()
        (node,) = SpaceVectorStore(copy, "looks").get_nodes(["one"])
        assert node.path.read_bytes() == b"one"
        copy.delete(node_ids=["t1"])
        copy.checkpoint(everything=True)
        assert copy.check().problems == ()
        assert len(copy) == 50
    assert len(store) == 0


def test_a_copy_needs_a_folder_of_its_own(store, tmp_path):
    with pytest.raises(StoreError, match="is not empty; a copy of a store needs a folder of its own"):
        store.copy_to(store.folder)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="can't be written"):
        store.copy_to(tmp_path / "file" / "copy")
    (tmp_path / "empty").mkdir()
    store.copy_to(tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["store.sqlite"]


def test_a_damaged_node_is_told(store):
    store.add([Record(TextNode(id_="a", text="words"), {})])
    with store._database.writing() as database:
        database.execute("UPDATE nodes SET body = ? WHERE node_id = 'a'", ["{"])
    with pytest.raises(StoreError, match=r"^A node in .* is damaged: .*\. Run: llama-index-mm check --store "):
        store.nodes(store.find(node_ids=["a"]))


def test_media_that_can_not_be_written(store):
    store.folder.joinpath("media").write_text("in the way")
    with pytest.raises(StoreError, match=r"^.*media can't be written: "):
        store.media_path(b"bytes", ".png")


def test_compact_keeps_media_however_nodes_point_to_them(store):
    path, other = store.media_path(b"seen", ".png"), store.media_path(b"not seen", ".png")
    store.add([Record(ImageMedia.create("a.png", digest="ab" * 32, id_="a", text=f"see {path.name}"), {})])
    store.compact()
    assert path.is_file()
    assert not other.exists()
