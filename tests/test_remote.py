"""Files that lie elsewhere, by fsspec's memory file system and by a web server of our own."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.readers import FetchLimits
from llama_index_mm.readers.remote import is_remote, list_remote, read_remote
from llama_index_mm.testing import tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")

PRIVATE = FetchLimits(allow_private=True)


@pytest.fixture
def index(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as opened:
        yield opened


@pytest.fixture
def bucket(make):
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in (make.text("a.txt", "a red boat"), make.picture("door.png"), make.tone("whistle.wav"), make.obj("stool.obj")):
        system.pipe(f"/bucket/deep/{path.name}", path.read_bytes())
    system.pipe("/bucket/torn.png", b"no picture")
    system.pipe("/bucket/none.txt", b"")
    yield system
    system.store.clear()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def web(make):
    (make.folder / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(make.folder / "web")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def nodes(index):
    return sorted(index.store.nodes(index.store.find().tolist()).values(), key=lambda node: node.metadata["file_name"])


def test_a_bucket(index, bucket):
    report = index.ingest("memory://bucket")
    assert report.added == 4
    assert [(problem.path.name, problem.reason.split(" (")[0]) for problem in report.problems] == [
        ("none.txt", "memory://bucket/none.txt is empty"),
        ("torn.png", report.problems[1].reason.split(" (")[0]),
    ]
    assert "can't be decoded as a picture" in report.problems[1].reason
    found = nodes(index)
    assert [node.metadata["file_name"] for node in found] == ["a.txt", "door.png", "stool.obj", "whistle.wav"]
    assert {node.metadata["mm_url"] for node in found} == {
        f"memory://bucket/deep/{name}" for name in ("a.txt", "door.png", "stool.obj", "whistle.wav")
    }
    assert (found[1].title, found[1].url) == ("door", "memory://bucket/deep/door.png")
    assert found[1].get_content_blocks()[-1].path.is_file()
    report = index.ingest("memory://bucket")
    assert (report.added, report.unchanged) == (0, 4)


def test_what_changed_elsewhere_is_taken_again(index, bucket):
    index.ingest("memory://bucket/deep/a.txt")
    bucket.pipe("/bucket/deep/a.txt", b"a blue boat")
    assert index.ingest("memory://bucket/deep/a.txt").added == 1
    assert [node.get_content() for node in nodes(index)] == ["a blue boat"]


def test_the_same_content_here_and_elsewhere(index, bucket, make):
    report = index.ingest([make.folder / "door.png", "memory://bucket/deep/door.png"])
    assert (report.added, report.duplicates) == (1, 1)
    assert nodes(index)[0].metadata["file_path"] == str(make.folder / "door.png")
    (make.folder / "door.png").unlink()
    index.ingest(make.folder, prune=True)
    (door,) = [node for node in nodes(index) if node.metadata["mm_modality"] == "image"]
    assert door.get_content_blocks()[-1].path.is_file()
    assert door.path.is_relative_to(index.store.folder.resolve())


def test_the_web(index, web, make):
    make.picture("web/red door.png", "red")
    report = index.ingest(f"{web}/red%20door.png", limits=PRIVATE)
    assert (report.added, report.problems) == (1, [])
    assert [(node.title, node.url) for node in nodes(index)] == [("red door", f"{web}/red%20door.png")]
    report = index.ingest([f"{web}/red%20door.png", f"{web}/none.png"], limits=PRIVATE)
    assert report.unchanged == 1
    assert [problem.reason for problem in report.problems] == [f"{web}/none.png can't be fetched: the server answers 404."]


def test_ones_own_network_is_not_asked(index, web):
    (problem,) = index.ingest(f"{web}/a.png").problems
    assert problem.reason.startswith("127.0.0.1 is not asked: its address 127.0.0.1 is private")
    assert [one.status for one in index.store.sources()] == ["failed"]


def test_is_remote():
    given = ["s3://a/b", "https://a", "/a/b", "a.txt", "C:/a", b"s3://a"]
    assert [is_remote(one) for one in given] == [True, True, False, False, False, False]


def test_what_can_not_be_read(bucket):
    with pytest.raises(DecodeError, match=r"^memory://bucket/deep/a\.txt has more than 3 bytes, which is the limit"):
        read_remote("memory://bucket/deep/a.txt", FetchLimits(max_bytes=3))
    for address in ("memory://bucket/gone.txt", "nothing://a/b.txt"):
        with pytest.raises(DecodeError, match=r"^(memory|nothing)://.* can't be read: "):
            read_remote(address)
    with pytest.raises(DecodeError, match=r"^nothing://a can't be listed: "):
        list(list_remote("nothing://a"))
