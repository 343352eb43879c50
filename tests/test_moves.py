"""Files and indexes that are renamed, moved and deleted between runs."""

import os
import shutil

import pytest
from llama_index.core.schema import Document, MediaResource, NodeRelationship, RelatedNodeInfo, TextNode

from llama_index_mm import MediaQuery, MultiModalIndex
from llama_index_mm.errors import QueryError, StoreError
from llama_index_mm.media import digest_file
from llama_index_mm.testing import tiny_preset


@pytest.fixture
def index(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as opened:
        yield opened


def nodes(index):
    return list(index.store.nodes(index.store.find().tolist()).values())


def test_a_renamed_file_is_found_under_its_new_name(index, make):
    old = make.picture("files/cat.png")
    index.ingest(make.folder / "files")
    new = old.rename(old.with_name("red-dog.png"))
    assert index.ingest(make.folder / "files").duplicates == 1
    (node,) = nodes(index)
    assert (node.path, node.metadata["file_name"], node.text, node.image_resource.path) == (new, "red-dog.png", "red dog", new)
    assert [source.path for source in index.store.sources()] == [str(new)]


def test_one_file_by_two_ways_is_one_file(index, make, monkeypatch):
    path = make.text("files/a.txt", "before")
    (make.folder / "other").mkdir()
    monkeypatch.chdir(make.folder / "other")
    index.ingest("../files")
    path.write_text("after")
    monkeypatch.chdir(make.folder)
    index.ingest("files")
    assert [node.get_content() for node in nodes(index)] == ["after"]


@pytest.mark.skipif(not hasattr(os, "fsencode") or os.name == "nt", reason="names of bytes are a matter of POSIX")
def test_a_name_that_is_not_unicode_is_reported_and_the_rest_goes_on(index, make):
    folder = make.text("files/good.txt", "good").parent
    try:
        (folder / os.fsdecode(b"b\xe9t\xe9.txt")).write_text("bad")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    report = index.ingest(folder)
    assert report.added == 1
    assert [(problem.path.name, problem.reason) for problem in report.problems] == [
        ("b\\xe9t\\xe9.txt", "The name of b\\xe9t\\xe9.txt is not UTF-8. Rename it.")
    ]


def test_an_index_that_was_moved_has_its_own_files_with_it(tmp_path, make):
    data = make.picture("a.png").read_bytes()
    with MultiModalIndex.open(tmp_path / "one", preset=tiny_preset(), create=True) as index:
        index.insert(Document(id_="door", image_resource=MediaResource(data=data)))
    shutil.move(tmp_path / "one", tmp_path / "two")
    with MultiModalIndex.open(tmp_path / "two", preset=tiny_preset()) as index:
        (node,) = nodes(index)
        assert node.path.is_relative_to(tmp_path / "two")
        assert digest_file(node.path) == node.digest
        assert index.as_retriever().retrieve(MediaQuery(image=node.path))[0].node.node_id == node.node_id


def test_text_nodes_have_the_same_ids_in_every_index(tmp_path, make):
    path = make.text("a.txt", "The tide comes in. " * 300)
    ids = []
    for name in ("one", "two"):
        with MultiModalIndex.open(tmp_path / name, preset=tiny_preset(), create=True) as index:
            index.ingest(path)
            ids.append([node.node_id for node in nodes(index)])
    assert ids[0] == ids[1]
    assert len(ids[0]) > 1


def test_a_node_of_another_document_is_replaced_when_it_is_inserted_again(index):
    source = RelatedNodeInfo(node_id="book")
    for text in ("first", "second"):
        index.insert(TextNode(id_="page", text=text, relationships={NodeRelationship.SOURCE: source}))
    assert [node.get_content() for node in nodes(index)] == ["second"]
    assert index.delete_ref_doc("page") == 1


def test_an_interrupted_change_leaves_no_orphans(index, make, monkeypatch):
    path = make.text("a.txt", "before")
    index.ingest(path)
    path.write_text("after")

    def stop(*_):
        raise KeyboardInterrupt

    from llama_index_mm.stores.rows import Changes

    with monkeypatch.context() as patch:
        patch.setattr(Changes, "drop", stop)
        with pytest.raises(KeyboardInterrupt):
            index.ingest(path)
    index.ingest(path)
    assert [node.get_content() for node in nodes(index)] == ["after"]


def test_an_index_that_was_never_filled_is_not_given_a_preset_by_a_search(tmp_path):
    from llama_index_mm.stores import MediaStore

    MediaStore(tmp_path / "empty").close()
    with pytest.raises(StoreError, match="is empty"):
        MultiModalIndex.open(tmp_path / "empty")


def test_a_preset_without_an_llm_says_so(index):
    with pytest.raises(QueryError, match="has no LLM of its own"):
        index.as_query_engine()


def test_an_index_in_a_temporary_folder_lives_as_long_as_its_retriever():
    retriever = MultiModalIndex.from_documents([Document(text="The tide comes in.")], preset=tiny_preset()).as_retriever()
    assert retriever.retrieve("tide")[0].node.get_content() == "The tide comes in."
    retriever._store.close()
