"""One space encoded anew, the rest left alone to the byte."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stored import vectors_in

import llama_index_mm
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion.reembed import UNFINISHED
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder, tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")


def with_picture(dimension=48, name="tiny"):
    """The tiny preset with another encoder in the space "picture"."""
    picture = HashingEncoder("image", dimension)
    space = EmbeddingSpace("picture", {"image": picture, "mesh": ViewsEncoder(picture)})
    old = tiny_preset(name)
    return dataclasses.replace(old, spaces=tuple(space if one.name == "picture" else one for one in old.spaces))


def vectors_of(folder):
    """Every vector, by space and node id."""
    with MediaStore(folder, create=False) as store:
        return vectors_in(store)


def nodes_of(folder):
    with MediaStore(folder, create=False) as store:
        return {seq: node.model_dump() for seq, node in store.nodes(store.find().tolist()).items()}


@pytest.fixture
def folder(make, tmp_path):
    for at in range(40):
        make.picture(f"files/{at}.png", "blue" if at == 7 else (at * 6, 255 - at * 6, at))
    make.tone("files/whistle.wav", 900)
    make.obj("files/stool.obj")
    make.text("files/letter.txt", "a red boat")
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        assert index.ingest(make.folder / "files").added == 43
    return tmp_path / "index"


def test_only_the_space_that_differs_is_encoded(folder, make, tmp_path):
    nodes, vectors = nodes_of(folder), vectors_of(folder)
    report = MultiModalIndex.reembed(folder, preset=with_picture())
    assert report.encoded == {"picture": 41}
    assert (sorted(report.kept), report.dropped, report.problems) == (["sound", "text"], [], [])
    assert str(report) == "picture: 41 nodes encoded, text: kept, sound: kept, 0 problems"
    assert nodes_of(folder) == nodes
    after = vectors_of(folder)
    assert {key: value for key, value in after.items() if key[0] != "picture"} == {
        key: value for key, value in vectors.items() if key[0] != "picture"
    }
    with MultiModalIndex.open(tmp_path / "fresh", preset=with_picture(), create=True) as fresh:
        fresh.ingest(make.folder / "files")
    assert vectors_of(tmp_path / "fresh") == after
    with MultiModalIndex.open(folder, preset=with_picture()) as index:
        assert index.store.check().problems == ()
        assert index.store.partitions()["picture", "image"] == 40


def test_open_refuses_until_it_is_done(folder):
    with pytest.raises(SpaceError, match="fingerprint"):
        MultiModalIndex.open(folder, preset=with_picture())
    MultiModalIndex.reembed(folder, preset=with_picture())
    with pytest.raises(SpaceError, match="fingerprint"):
        MultiModalIndex.open(folder, preset=tiny_preset())


def test_same_preset_does_nothing_unless_asked(folder):
    vectors = vectors_of(folder)
    assert MultiModalIndex.reembed(folder, preset=tiny_preset()).encoded == {}
    assert MultiModalIndex.reembed(folder, preset=tiny_preset(), spaces=["sound"]).encoded == {"sound": 1}
    assert vectors_of(folder) == vectors


def test_a_space_more_and_a_space_less(folder):
    voices = EmbeddingSpace("voice", {"audio": HashingEncoder("audio", 8)})
    old = tiny_preset()
    more = old.with_space(voices)
    assert MultiModalIndex.reembed(folder, preset=more).encoded == {"voice": 1}
    with MultiModalIndex.open(folder, preset=more) as index:
        assert index.store.partitions()["voice", "audio"] == 1
    less = dataclasses.replace(old, spaces=tuple(one for one in old.spaces if one.name != "sound"))
    report = MultiModalIndex.reembed(folder, preset=less)
    assert (report.encoded, sorted(report.dropped)) == ({}, ["sound", "voice"])
    with MultiModalIndex.open(folder, preset=less) as index:
        assert {space for space, _ in index.store.partitions()} == {"text", "picture"}
        assert len(index.store) == 43
        assert index.store.check().problems == ()


def test_search_finds_by_the_new_vectors(folder, make):
    with MultiModalIndex.open(folder, preset=tiny_preset()) as index:  # the old ones are in memory and in files
        index.store.checkpoint(everything=True)
    MultiModalIndex.reembed(folder, preset=with_picture())
    with MultiModalIndex.open(folder, preset=with_picture()) as index:
        asked = MediaQuery(image=make.folder / "files" / "7.png", modalities=["image"])
        assert index.as_retriever(similarity_top_k=1).retrieve(asked)[0].node.metadata["file_name"] == "7.png"


def test_reader_that_is_open_meanwhile_follows(folder):
    with MediaStore(folder, create=False) as reader:
        before = reader.search("picture", "image", np.ones(32, np.float32), 1)
        MultiModalIndex.reembed(folder, preset=with_picture())
        assert before
        assert len(reader.search("picture", "image", np.ones(48, np.float32), 50)) == 40
        with pytest.raises(SpaceError, match="shape"):
            reader.search("picture", "image", np.ones(32, np.float32), 1)


def test_file_that_is_gone_is_told_and_its_node_stays(folder, make):
    (make.folder / "files" / "3.png").unlink()
    report = MultiModalIndex.reembed(folder, preset=with_picture())
    assert report.encoded == {"picture": 40}
    assert [(one.path.name, "missing" in one.reason) for one in report.problems] == [("3.png", True)]
    with MultiModalIndex.open(folder, preset=with_picture()) as index:
        assert len(index.store) == 43
        assert index.store.partitions()["picture", "image"] == 39


def test_views_of_a_mesh_that_is_gone_still_serve(folder, make):
    """Its sheet of views lies in the store."""
    (make.folder / "files" / "stool.obj").unlink()
    report = MultiModalIndex.reembed(folder, preset=with_picture())
    assert (report.encoded, report.problems) == ({"picture": 41}, [])


def test_killed_run_goes_on(folder, tmp_path):
    code = (
        "import os, sys\n"
        "from llama_index_mm.stores import MediaStore\n"
        "from llama_index_mm.index import MultiModalIndex\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_reembed import with_picture\n"
        "add = MediaStore.add\n"
        "def add_once(self, records, *rest, **options):\n"
        "    add(self, records, *rest, **options)\n"
        "    os.kill(os.getpid(), 9)\n"
        "MediaStore.add = add_once\n"
        "MultiModalIndex.reembed(sys.argv[1], preset=with_picture())\n"
    )
    here = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": str(Path(llama_index_mm.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, str(folder), here], env=env, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    with MultiModalIndex.open(folder, preset=tiny_preset()) as index:  # the old space is there as it was
        assert index.store.partitions()["picture", "image"] == 40
        assert index.store.partitions()[UNFINISHED + "picture", "image"] == 32
    report = MultiModalIndex.reembed(folder, preset=with_picture())
    assert report.encoded == {"picture": 9}
    with MultiModalIndex.open(folder, preset=with_picture()) as index:
        assert index.store.partitions()["picture", "image"] == 40
        assert UNFINISHED + "picture" not in index.store.spaces()
    # With another encoder meanwhile, what was begun is of no use.
    assert MultiModalIndex.reembed(folder, preset=with_picture(56)).encoded == {"picture": 41}


def test_what_can_not_be(folder, tmp_path):
    with pytest.raises(SpaceError, match="Preset 'tiny' has no space 'smell'; it has text, picture, sound"):
        MultiModalIndex.reembed(folder, preset=tiny_preset(), spaces=["smell"])
    with pytest.raises(StoreError, match="There is no index"):
        MultiModalIndex.reembed(tmp_path / "nothing", preset=tiny_preset())
    with MediaStore(folder, create=False) as store, pytest.raises(SpaceError, match="'smell' is not in this store"):
        store.replace_space("text", by="smell")
