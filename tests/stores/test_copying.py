"""An index from one store into another: the same to the bit, resumable, and never over something else."""

import shutil

import numpy as np
import pytest
from stored import vectors_in

from llama_index_mm.errors import StoreError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.nodes import node_to_json
from llama_index_mm.stores import MediaStore, Record
from llama_index_mm.stores.copying import copy_store, digest_store
from llama_index_mm.stores.opening import open_store
from llama_index_mm.testing import tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")


@pytest.fixture
def folder(make, tmp_path):
    for at in range(24):
        make.picture(f"files/{at}.png", (at * 10, 255 - at * 10, at))
    make.picture("files/again.png", (0, 255, 0))  # what 0.png holds
    make.tone("files/whistle.wav", 900)
    make.obj("files/stool.obj")
    make.bytes("files/broken.png", b"\x89PNG\r\n\x1a\nnothing")
    for at in range(24):
        make.text(f"files/letter-{at}.txt", f"a red boat and {at} oars")
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        report = index.ingest(make.folder / "files", num_workers=0)
        assert (report.added, len(index.store.sources(status="failed"))) == (50, 1)
    return tmp_path / "index"


def said(store):
    """All nodes by id, in their order, with the store's own folder taken out; all notes; all vectors."""
    nodes = store.nodes(store.find().tolist())
    own = str(store.media_folder)
    bodies = {node.node_id: (type(node), node_to_json(node).replace(own, "OWN")) for node in nodes.values()}
    return list(bodies), bodies, store.sources(), vectors_in(store), store.meta("preset"), store.meta("calibration")


def test_a_copy_is_the_same(folder, tmp_path):
    with open_store(folder) as source, open_store(tmp_path / "copy", create=True) as target:
        report = copy_store(source, target)
        assert (report.ok, report.copied, report.removed, report.missing) == (True, 50, 0, [])
        assert report.target.sources == 52
        assert said(source) == said(target)
        assert target.check().problems == ()
        sheet = next(node for node in target.nodes(target.find(modalities=["mesh"]).tolist()).values()).views
        assert sheet.is_relative_to(target.media_folder)
        assert sheet.is_file()
    shutil.rmtree(folder)  # nothing of the copy lies there
    with MultiModalIndex.open(tmp_path / "copy", preset=tiny_preset()) as index:
        found = index.as_retriever(similarity_top_k=1).retrieve("a red boat and 7 oars")
        assert found[0].node.metadata["file_name"] == "letter-7.txt"


def test_a_copy_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_index_mm.stores.copying._BATCH", 8)
    with open_store(folder) as source, open_store(tmp_path / "copy", create=True) as target:
        add, calls = target.add, []

        def stopping(records, *rest, **options):
            calls.append(len(records))
            if len(calls) == 4:
                raise KeyboardInterrupt
            add(records, *rest, **options)

        target.add = stopping
        with pytest.raises(KeyboardInterrupt):
            copy_store(source, target)
        target.add = add
        report = copy_store(source, target)
        assert (report.ok, report.copied) == (True, 50 - 24)
        assert said(source) == said(target)


def test_a_copy_follows(folder, tmp_path):
    with open_store(folder) as source, open_store(tmp_path / "copy", create=True) as target:
        copy_store(source, target)
        (gone,) = source.find(filters=None, node_ids=[next(iter(source.nodes(source.find().tolist()).values())).node_id])
        source.delete_from("picture", [gone])
        path = next(one.path for one in source.sources() if one.path.endswith("letter-3.txt"))
        source.release(path)
        seq = int(source.find(modalities=["text"])[0])
        node = source.nodes([seq])[seq]
        node.metadata["shelf"] = 7
        source.add([Record(node, {"text": np.ones(source.spaces()["text"].dimension, np.float32)})])
        report = copy_store(source, target)
        assert (report.ok, report.removed) == (True, 1)
        assert report.copied == 2
        assert target.source(path) is None
        assert set(said(source)[1]) == set(said(target)[1])
        assert said(source)[1:] == said(target)[1:]


def test_a_digest_sees_every_kind_of_change(folder, tmp_path):
    def digest(change):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "other")
        with MediaStore(tmp_path / "other", create=False) as store:
            before = digest_store(store)
            change(store)
            return before.digest, digest_store(store).digest

    def vector(store):
        seq = int(store.find(space="text")[0])
        store.add([Record(store.nodes([seq])[seq], {"text": np.arange(1, 33, dtype=np.float32)})])

    before, same = digest(lambda store: None)
    assert before == same
    for change in (
        vector,
        lambda store: store.delete_from("text", store.find(space="text")[:1]),
        lambda store: store.release(store.sources(status="failed")[0].path),
        lambda store: store.delete(node_ids=[store.nodes([int(store.find()[3])])[int(store.find()[3])].node_id]),
    ):
        first, after = digest(change)
        assert first == before != after


def test_another_index_is_not_overwritten(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    with open_store(folder) as source:
        with MediaStore(tmp_path / "new") as target:
            target.declare_space("text", 32, "another model")
            with pytest.raises(ValueError, match="'text'"):
                copy_store(source, target)
        with MediaStore(tmp_path / "full") as target:
            target.declare_space("mine", 2, "m")
            target.add([Record(source.nodes([1])[1], {"mine": np.ones(2, np.float32)})])
            with pytest.raises(StoreError, match="holds another index"):
                copy_store(source, target)
        with MediaStore(tmp_path / "twice") as target:
            target.set_meta("copy_of", "of something else")
            with pytest.raises(StoreError, match="copy of another index"):
                copy_store(source, target)
        with pytest.raises(StoreError, match="twice"):
            copy_store(source, source)


def test_a_file_that_is_gone_is_told(folder, tmp_path):
    with open_store(folder) as source, open_store(tmp_path / "copy", create=True) as target:
        (sheet,) = source.media_folder.rglob("*.png")
        sheet.unlink()
        report = copy_store(source, target)
        assert (report.ok, report.missing) == (True, [str(sheet)])


@pytest.mark.parametrize("where", ["mysql://host/db", "http://host"])
def test_an_address_of_no_known_kind(where):
    with pytest.raises(StoreError, match="postgresql://"):
        open_store(where)
