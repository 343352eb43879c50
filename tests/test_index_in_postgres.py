"""An index in PostgreSQL does what one in a folder does: each step is done to both, and both are compared after it."""

import base64
import dataclasses
import io
import json
import logging
import re

import pytest
from llama_index.core.schema import Document, ImageDocument, MediaResource
from PIL import Image
from postgres_server import postgres_server
from stored import vectors_in

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.nodes import ImageMedia, node_to_json
from llama_index_mm.stores.opening import open_store
from llama_index_mm.testing import HashingEncoder, tiny_preset

pytestmark = pytest.mark.distributed
pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")
pytest.importorskip("llama_index.vector_stores.postgres")


@pytest.fixture(scope="module")
def there():
    with postgres_server() as one:
        yield one


def new_database(there, name):
    """Address of an empty database."""
    there.ask(f"CREATE DATABASE {name}")
    return f"{there.url.rpartition('/')[0]}/{name}"


@pytest.fixture
def both(there, tmp_path, request):
    """An index in a folder and one in a schema of its own in the database."""
    address = new_database(there, request.node.name[:60])
    with (
        MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as local,
        MultiModalIndex.open(address, preset=tiny_preset(), create=True) as remote,
    ):
        yield local, remote


def said(index):
    """All that can be asked of an index, with the folder of its own files taken out."""
    store = index.store
    nodes = store.nodes(store.find().tolist())
    bodies = {node.node_id: (type(node).__name__, _body(node, str(store.media_folder))) for node in nodes.values()}
    return {
        "nodes": bodies,
        "order": [node.node_id for _, node in sorted(nodes.items())],
        "sources": store.sources(),
        "vectors": vectors_in(store),
        "counts": (len(store), store.counts(), store.partitions(), store.spaces()),
        "calibration": _sorted(store.meta("calibration")),
    }


def _body(node, own):
    """The node as JSON. The hash of a document covers its path, which is another where the file is the store's own."""
    body = node_to_json(node).replace(own, "OWN")
    return re.sub(r'"hash": "[0-9a-f]{64}"', '"hash": ""', body) if '"mm_path": "OWN' in body else body


def _sorted(text):
    """What was learned; in which order partitions were counted is of no matter."""
    return None if text is None else {**json.loads(text), "counts": sorted(json.loads(text)["counts"])}


def same(both, work):
    """Do something to both; what it gives or raises, and what is there afterwards, must be the same."""
    told = []
    for index in both:
        try:
            told.append(work(index))
        except Exception as error:
            told.append((type(error), str(error).replace(index.store.name, "STORE")))
    assert told[0] == told[1]
    ours, theirs = map(said, both)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == theirs[key]
    return told[0]


def files(make):
    for at in range(30):
        make.picture(f"files/{at}.png", (at * 8, 255 - at * 8, at))
    for at in range(25):
        make.text(f"files/{at}.txt", f"letter {at} of a red boat, and {at * 7} oars")
    make.picture("files/again.png", (0, 255, 0))
    make.tone("files/whistle.wav", 900)
    make.obj("files/stool.obj")
    make.bytes("files/broken.png", b"\x89PNG\r\n\x1a\nnothing")
    make.bytes("files/nothing.wav", b"")
    return make.folder / "files"


def test_the_life_of_an_index(both, make, caplog):
    caplog.set_level(logging.ERROR)
    folder = files(make)
    report = same(both, lambda index: index.ingest(folder, num_workers=0))
    assert (report.added, report.duplicates, len(report.problems)) == (57, 1, 2)
    again = same(both, lambda index: index.ingest(folder, num_workers=0))
    assert (again.added, again.unchanged, len(again.problems)) == (0, 58, 2)
    for index in both:
        assert index.store.check().problems == ()

    make.picture("files/broken.png", "navy")  # mended
    make.text("files/3.txt", "quite another letter")
    (folder / "5.png").rename(folder / "five.png")
    (folder / "7.txt").unlink()
    (folder / "0.png").unlink()  # again.png holds the same
    report = same(both, lambda index: index.ingest(folder, num_workers=0, prune=True, retry_failed=True))
    assert (report.added, report.removed) == (2, 2)

    picture = io.BytesIO()
    Image.new("RGB", (20, 20), "orange").save(picture, "PNG")
    data = base64.b64encode(picture.getvalue())
    inserted = [
        Document(id_="doc-1", text="a note with \x00 and ünïcode 名", metadata={"n": 1.5, "deep": {"a": [1, None]}}),
        ImageDocument(id_="pic-1", image_resource=MediaResource(data=data)),
    ]
    same(both, lambda index: index.insert_nodes([one.model_copy(deep=True) for one in inserted]))
    for index in both:
        (seq,) = index.store.find(ref_doc_ids=["pic-1"])
        node = index.store.nodes([seq])[seq]
        assert isinstance(node, ImageMedia)
        assert node.path.read_bytes() == picture.getvalue()
        assert node.path.is_relative_to(index.store.media_folder)
    assert same(both, lambda index: index.delete_ref_doc("doc-1")) == 1
    assert same(both, lambda index: index.delete_ref_doc("doc-1")) == 0

    report = same(both, lambda index: str(index.calibrate(anew=True)).partition(" s")[0][:0])
    for query in ("letter 9", "a red boat", "navy"):
        results = same(
            both,
            lambda index, query=query: [
                (one.node.node_id, one.score) for one in index.as_retriever(similarity_top_k=8).retrieve(query)
            ],
        )
        assert len(results) == 8
    same(both, lambda index: index.store.clear())
    assert len(both[1].store) == 0


def other_preset():
    picture = HashingEncoder("image", 48)
    space = EmbeddingSpace("picture", {"image": picture, "mesh": ViewsEncoder(picture)})
    old = tiny_preset()
    return dataclasses.replace(old, spaces=tuple(space if one.name == "picture" else one for one in old.spaces))


def test_other_encoders(both, make, there):
    folder = files(make)
    same(both, lambda index: index.ingest(folder, num_workers=0))
    address = both[1].store.address
    for index, where in zip(both, (both[0].store.folder, address), strict=True):
        index.close()
        with pytest.raises(SpaceError, match="picture"):
            MultiModalIndex.open(where, preset=other_preset())
        report = MultiModalIndex.reembed(where, preset=other_preset(), num_workers=0)
        assert (report.encoded, report.kept) == ({"picture": 31}, ["text", "sound"])
    with (
        MultiModalIndex.open(both[0].store.folder, preset=other_preset()) as local,
        MultiModalIndex.open(address, preset=other_preset()) as remote,
    ):
        assert said(local) == said(remote)
        assert remote.store.spaces()["picture"].dimension == 48
        assert remote.store.check().problems == ()


def test_files_come_along_to_another_machine(both, make, tmp_path, monkeypatch):
    """The sheet of a mesh lies in the database, and is fetched by who is given the node."""
    make.obj("files/stool.obj")
    remote = both[1]
    remote.ingest(make.folder / "files", num_workers=0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    with open_store(remote.store.address) as other:
        (node,) = other.nodes(other.find(modalities=["mesh"]).tolist()).values()
        assert node.views.is_relative_to(tmp_path / "elsewhere")
        (first,) = remote.store.nodes(remote.store.find(modalities=["mesh"]).tolist()).values()
        assert node.views.read_bytes() == first.views.read_bytes()
        assert other.media_folder != remote.store.media_folder


def test_what_is_not_there(there):
    with pytest.raises(StoreError, match="There is no store"):
        open_store(new_database(there, "empty"))
    nowhere = there.url.replace(f":{there.port}/", ":1/")
    with pytest.raises(StoreError) as refused:
        open_store(nowhere, create=True)
    assert there.password not in str(refused.value)
