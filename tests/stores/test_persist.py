"""`SpaceVectorStore.persist` and what opens it again, alone and through LlamaIndex's storage context."""

import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import fsspec
import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from llama_index_mm.errors import StoreError
from llama_index_mm.media import digest_bytes
from llama_index_mm.nodes import ImageMedia
from llama_index_mm.stores import MediaStore, Record, SpaceVectorStore
from llama_index_mm.testing import HashingEncoder

ENCODER = HashingEncoder("text")
NAME = "default__vector_store.json"
AXES = dict(zip("abcd", np.eye(4), strict=True))


class Words(BaseEmbedding):
    def _get_text_embedding(self, text):
        return ENCODER.encode([text])[0].tolist()

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


def nodes(names):
    return [TextNode(id_=name, text=f"text {name}", metadata={"name": name}, embedding=AXES[name].tolist()) for name in names]


def found(store, name="a", filters=None):
    result = store.query(VectorStoreQuery(query_embedding=AXES[name].tolist(), similarity_top_k=9, filters=filters))
    return list(zip(result.ids, result.similarities, strict=True))


def held(store):
    return "".join(one.node_id for one in store.get_nodes())


@pytest.fixture
def opened():
    """Closes at the end what it was given."""
    with ExitStack() as stack:

        def note(store):
            stack.callback(store.close)
            return store

        yield note


@pytest.fixture
def store(tmp_path, opened):
    made = opened(SpaceVectorStore(tmp_path / "store"))
    made.add(nodes("abc"))
    return made


@pytest.fixture
def context(tmp_path):
    """The folder of a storage context."""
    return tmp_path / "context"


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_is_persisted_comes_back(store, context, opened):
    store.persist(str(context / "any.json"))
    again = opened(SpaceVectorStore.from_persist_path(str(context / "any.json")))
    assert again.get_nodes() == store.get_nodes()
    assert found(again) == found(store) == [("a", 1.0), ("b", 0.0), ("c", 0.0)]
    only = MetadataFilters(filters=[MetadataFilter(key="name", value="c")])
    assert found(again, filters=only) == [("c", 0.0)]
    assert again.client.spaces() == store.client.spaces()
    assert again.client.check().problems == ()
    assert again.client.folder.parent == context


def test_namespaces(store, context, opened):
    store.persist(str(context / "mine__vector_store.json"))
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context), "mine"))) == "abc"
    with pytest.raises(StoreError, match=r"^There is no persisted store in .*default__vector_store\.json"):
        SpaceVectorStore.from_persist_dir(str(context))


def test_where_llama_index_persists_by_default(store, tmp_path, monkeypatch, opened):
    monkeypatch.chdir(tmp_path)
    store.persist()
    assert held(opened(SpaceVectorStore.from_persist_path("storage/vector_store.json"))) == "abc"
    StorageContext.from_defaults(vector_store=store).persist()
    assert held(opened(SpaceVectorStore.from_persist_dir())) == "abc"


# -- through LlamaIndex -------------------------------------------------------------------------------------------------


def reopened(context, opened):
    """As LlamaIndex opens a storage context with a vector store that is not its own."""
    vectors = opened(SpaceVectorStore.from_persist_dir(str(context)))
    return load_index_from_storage(
        StorageContext.from_defaults(vector_store=vectors, persist_dir=str(context)), embed_model=Words()
    )


def retrieved(index, text="a boat in a storm"):
    return [(result.node.node_id, result.score) for result in index.as_retriever(similarity_top_k=9).retrieve(text)]


def test_an_index_through_its_storage_context(tmp_path, context, opened):
    store = opened(SpaceVectorStore(tmp_path / "store"))
    index = VectorStoreIndex(
        [TextNode(id_=text, text=text) for text in ("a boat", "a goat", "rain in a storm")],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=Words(),
    )
    index.storage_context.persist(context)
    again = reopened(context, opened)
    assert again.index_id == index.index_id
    assert retrieved(again) == retrieved(index)
    assert len(retrieved(again)) == 3


def test_opened_changed_and_persisted_into_the_same_folder(store, context, opened):
    StorageContext.from_defaults(vector_store=store).persist(context)
    for gone, new, left in (("a", "d", "bcd"), ("b", "a", "cda"), ("", "b", "cdab")):
        again = opened(SpaceVectorStore.from_persist_dir(str(context)))
        again.delete_nodes(list(gone))
        StorageContext.from_defaults(vector_store=again).persist(context)
        again.add(nodes(new))  # is not lost, though it comes late
        again.close()
        last = opened(SpaceVectorStore.from_persist_dir(str(context)))
        assert held(last) == left
        assert last.client.check().problems == ()
    assert [path for path in context.iterdir() if path.is_dir()] == [last.client.folder]
    assert held(store) == "abc"


def test_two_spaces_in_one_folder(tmp_path, context, opened):
    media = opened(MediaStore(tmp_path / "store"))
    words, looks = SpaceVectorStore(media, "words"), SpaceVectorStore(media, "looks")
    words.add(nodes("ab"))
    looks.add([TextNode(id_="x", text="x", embedding=[0.0, 1.0])])
    StorageContext.from_defaults(vector_stores={"default": words, "looks": looks}).persist(context)
    assert len([path for path in context.iterdir() if path.is_dir()]) == 1
    again = opened(SpaceVectorStore.from_persist_dir(str(context)))
    other = opened(SpaceVectorStore.from_persist_dir(str(context), "looks"))
    assert (again.space, held(again), other.space, held(other)) == ("words", "ab", "looks", "x")
    looks.delete_nodes(["x"])
    looks.persist(str(context / "looks__vector_store.json"))
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context), "looks"))) == ""
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context)))) == "ab"


# -- copies -------------------------------------------------------------------------------------------------------------


def test_persisting_again_after_changes(store, context, opened):
    path = str(context / NAME)
    store.persist(path)
    store.delete_nodes(["a"])
    store.add(nodes("d"))
    assert held(opened(SpaceVectorStore.from_persist_path(path))) == "abc"
    store.persist(path)
    assert held(opened(SpaceVectorStore.from_persist_path(path))) == "bcd"
    assert sorted(one.name for one in context.iterdir()) == [NAME, f"mm-store-{store.client.identity}"]


def test_a_folder_for_stores_of_several_folders(store, context, tmp_path, opened):
    other = opened(SpaceVectorStore(tmp_path / "other"))
    other.add(nodes("d"))
    store.persist(str(context / NAME))
    other.persist(str(context / "other__vector_store.json"))
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context)))) == "abc"
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context), "other"))) == "d"


def test_persisting_while_another_handle_writes(store, context, opened):
    reader = opened(SpaceVectorStore(store.client.folder))
    reader.persist(str(context / NAME))
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context)))) == "abc"


def test_into_the_folder_of_the_store_there_is_no_copy(store, opened):
    folder = store.client.folder
    before = {path.name for path in folder.iterdir()}
    store.persist(str(folder / NAME))
    assert {path.name for path in folder.iterdir()} - before <= {NAME, "faiss"}
    again = opened(SpaceVectorStore.from_persist_dir(str(folder)))
    assert again.client.folder.samefile(folder)
    store.add(nodes("d"))
    assert held(again) == "abcd"


def test_the_copy_stands_alone(store, context, opened):
    store.persist(str(context / NAME))
    again = opened(SpaceVectorStore.from_persist_dir(str(context)))
    again.delete_nodes(["a"])
    store.delete_nodes(["b"])
    assert (held(again), held(store)) == ("bc", "ac")
    store.close()
    shutil.rmtree(store.client.folder)
    again.add(nodes("d"))
    again.close()
    context.rename(context.with_name("moved"))
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context.with_name("moved"))))) == "bcd"


def picture(store, data=b"not really a picture", id_="picture"):
    path = store.client.media_path(data, ".png")
    node = ImageMedia.create(path, digest=digest_bytes(data), id_=id_, metadata={"file_path": str(path)})
    store.client.add([Record(node, {"default": AXES["d"].astype(np.float32)})])
    return path


def test_media_come_along(store, context, opened):
    path = picture(store)
    store.persist(str(context / NAME))
    again = opened(SpaceVectorStore.from_persist_dir(str(context)))
    store.close()
    shutil.rmtree(store.client.folder)
    (node,) = again.get_nodes(["picture"])
    assert type(node) is ImageMedia
    for named in (node.path, Path(node.image_resource.path), Path(node.metadata["file_path"])):
        assert named == again.client.folder / path.relative_to(store.client.folder)
        assert named.read_bytes() == b"not really a picture"
    assert found(again, "d")[0] == ("picture", 1.0)
    assert again.client.check().problems == ()
    again.client.compact()
    assert node.path.is_file()


# -- other file systems -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/deep/down", "memory://deep/down", "deep", ""])
def test_in_a_file_system_elsewhere(store, folder, memory, temporary, opened):
    path = picture(store)
    store.persist(f"{folder}/{NAME}" if folder else NAME, memory)
    assert list(temporary.iterdir()) == []
    store.close()
    shutil.rmtree(store.client.folder)
    again = opened(SpaceVectorStore.from_persist_path(f"{folder}/{NAME}" if folder else NAME, memory))
    assert held(again) == "abcpicture"
    assert found(again) == [("a", 1.0), ("b", 0.0), ("c", 0.0), ("picture", 0.0)]
    (node,) = again.get_nodes(["picture"])
    assert node.path == again.client.folder / path.relative_to(store.client.folder)
    assert node.path.read_bytes() == b"not really a picture"
    assert len(list(temporary.iterdir())) == 1
    again.close()
    assert list(temporary.iterdir()) == []


def test_a_storage_context_elsewhere(store, memory, opened):
    index = VectorStoreIndex.from_vector_store(store, embed_model=Words())
    index.storage_context.persist("memory://context", fs=memory)
    vectors = opened(SpaceVectorStore.from_persist_dir("memory://context", fs=memory))
    again = StorageContext.from_defaults(vector_store=vectors, persist_dir="memory://context", fs=memory)
    assert held(again.vector_store) == "abc"
    vectors.add(nodes("d"))
    again.persist("memory://context", fs=memory)
    assert held(opened(SpaceVectorStore.from_persist_dir("memory://context", fs=memory))) == "abcd"
    assert held(opened(SpaceVectorStore.from_persist_dir("memory://context", fs=memory))) == "abcd"


def test_this_machine_as_a_file_system(store, context, opened):
    local = fsspec.filesystem("file")
    store.persist(f"file://{context}/{NAME}", local)
    assert held(opened(SpaceVectorStore.from_persist_dir(f"file://{context}", fs=local))) == "abc"
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context)))) == "abc"


# -- what can't be ------------------------------------------------------------------------------------------------------


def of_core(path):
    core = SimpleVectorStore()
    core.add(nodes("a"))
    core.persist(str(path))


WRONG = {
    "nothing": (lambda path: None, "There is no persisted store in {path}: "),
    "a folder": (lambda path: path.mkdir(), "There is no persisted store in {path}: "),
    "core": (of_core, "{path} was not written by this store's persist, but by another vector store."),
    "a list": (lambda path: path.write_text("[]"), "{path} was not written by this store's persist, but by another"),
    "garbage": (lambda path: path.write_bytes(b"\xff\x00 no JSON"), "{path} was not written by this store's persist: "),
    "empty": (lambda path: path.write_bytes(b""), "{path} was not written by this store's persist: "),
}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_persisted_store(tmp_path, memory, temporary, what, elsewhere):
    path = tmp_path / NAME
    WRONG[what][0](path)
    if elsewhere and path.exists():
        memory.put(str(path), str(path), recursive=path.is_dir())
    with pytest.raises(StoreError) as caught:
        SpaceVectorStore.from_persist_dir(str(tmp_path), fs=memory if elsewhere else None)
    assert str(caught.value).startswith(WRONG[what][1].format(path=path))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_copy_that_is_gone(tmp_path, memory, temporary, elsewhere):
    told = json.dumps({"kind": "llama-index-mm store", "store": "mm-store-gone", "space": "default"})
    (tmp_path / NAME).write_text(told)
    memory.pipe(str(tmp_path / NAME), told.encode())
    with pytest.raises(StoreError, match=r"^There is no index in "):
        SpaceVectorStore.from_persist_dir(str(tmp_path), fs=memory if elsewhere else None)
    assert list(temporary.iterdir()) == []


def test_a_folder_that_can_not_be_written(store, tmp_path, memory, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="can't be written"):
        store.persist(str(tmp_path / "file" / NAME))
    (tmp_path / "context" / NAME).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"default__vector_store\.json can't be written"):
        store.persist(str(tmp_path / "context" / NAME))

    def refused(*_args, **_kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(memory, "put_file", refused)
    with pytest.raises(StoreError, match=r"^/far/default__vector_store\.json can't be written: read-only\.$"):
        store.persist(f"/far/{NAME}", memory)


def test_an_older_copy_outlives_a_copy_that_fails(store, context, monkeypatch, opened):
    store.persist(str(context / NAME))
    store.add(nodes("d"))

    def fails(folder):
        folder.mkdir()
        (folder / "half").write_bytes(b"")
        raise StoreError("The disk is full.")

    monkeypatch.setattr(store.client, "copy_to", fails)
    with pytest.raises(StoreError, match=r"^The disk is full\.$"):
        store.persist(str(context / NAME))
    assert sorted(one.name for one in context.iterdir()) == [NAME, f"mm-store-{store.client.identity}"]
    assert held(opened(SpaceVectorStore.from_persist_dir(str(context)))) == "abc"


@pytest.mark.parametrize("where", ["..", "../other", "/etc", "a/b"])
def test_a_small_file_that_points_elsewhere(tmp_path, where):
    path = tmp_path / NAME
    path.write_text(json.dumps({"kind": "llama-index-mm store", "store": where, "space": "default"}))
    with pytest.raises(StoreError, match="a persisted store lies beside its small file"):
        SpaceVectorStore.from_persist_path(str(path))
