import asyncio
import os

import pytest
from llama_index.core import SimpleDirectoryReader
from llama_index.core.schema import Document, MetadataMode

from llama_index_mm.errors import DecodeError, MediaError, UnsupportedMediaError
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.readers import MediaReader, Problem, list_files
from llama_index_mm.readers.media import document_of
from llama_index_mm.stores import MediaStore


def names(source, folder):
    return [path.relative_to(folder).as_posix() for path in list_files(source)]


def test_list_files_goes_in_order_and_leaves_hidden_ones_out(make, tmp_path):
    for name in (
        "b.txt",
        "a.txt",
        "C.txt",
        ".hidden.txt",
        "sub/z.txt",
        "sub/deep/y.txt",
        "also/x.txt",
        ".git/config.txt",
        "10.txt",
    ):
        make.text(name, name)
    wanted = ["10.txt", "C.txt", "a.txt", "b.txt", "also/x.txt", "sub/z.txt", "sub/deep/y.txt"]
    assert names(tmp_path, tmp_path) == wanted
    assert names(str(tmp_path), tmp_path) == wanted


def test_list_files_does_not_follow_links_to_folders(make, tmp_path):
    make.text("real/a.txt", "a")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "real" / "linked.txt").symlink_to(tmp_path / "real" / "a.txt")
    (tmp_path / "real" / "broken.txt").symlink_to(tmp_path / "gone")
    assert names(tmp_path, tmp_path) == ["real/a.txt", "real/broken.txt", "real/linked.txt"]


def test_list_files_leaves_a_folder_that_holds_an_index_out(make, tmp_path):
    make.text("a.txt", "a"), make.text("index/media/ab/views.png", "b"), make.text("index/notes.txt", "c")
    assert names(tmp_path, tmp_path) == ["a.txt", "index/notes.txt", "index/media/ab/views.png"]
    with MediaStore(tmp_path / "index"):
        assert names(tmp_path, tmp_path) == ["a.txt"]


def test_list_files_takes_what_is_named(make, tmp_path):
    hidden, file = make.text(".hidden.txt", "a"), make.text("sub/b.txt", "b")
    (tmp_path / "link").symlink_to(tmp_path / "sub", target_is_directory=True)
    assert list(list_files(hidden)) == [hidden]
    assert list(list_files([file, str(hidden), tmp_path / "link"])) == [file, hidden, tmp_path / "link" / "b.txt"]
    assert list(list_files([])) == []
    with pytest.raises(DecodeError, match=r"There is no file or folder .*gone"):
        list(list_files([file, tmp_path / "gone"]))


@pytest.fixture
def folder(make, tmp_path):
    make.text("a.txt", "words")
    make.picture("b.png")
    make.tone("c.wav")
    make.obj("d.obj")
    return tmp_path


KINDS = [Document, ImageMedia, AudioMedia, MeshMedia]


def test_load_data(folder):
    documents = MediaReader().load_data(folder)
    assert [type(document) for document in documents] == KINDS
    paths = sorted(folder.iterdir())
    assert [document.metadata["mm_path"] for document in documents] == [str(path) for path in paths]
    assert [document.metadata["mm_digest"] for document in documents] == [digest_file(path) for path in paths]
    assert [document.node_id for document in documents] == [digest_file(path)[:32] for path in paths]
    assert [document.metadata["mm_modality"] for document in documents] == ["text", "image", "audio", "mesh"]
    assert documents[0].text == "words"
    for document in documents:
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert document.get_content(metadata_mode=mode) == document.get_content()


def test_ids_do_not_depend_on_the_place(make, tmp_path):
    first, second = make.picture("one/a.png"), make.picture("two/b.png")
    assert document_of(first).node_id == document_of(second).node_id
    assert document_of(make.picture("c.png", "blue")).node_id != document_of(first).node_id


def test_paths_are_absolute(make, tmp_path, monkeypatch):
    make.picture("a.png")
    monkeypatch.chdir(tmp_path)
    (document,) = MediaReader().load_data("a.png")
    assert document.path == (tmp_path / "a.png").resolve()


def test_extra_info(folder):
    documents = MediaReader().load_data(folder, extra_info={"owner": "archive"})
    assert [document.metadata["owner"] for document in documents] == ["archive"] * 4


async def test_async(folder):
    documents = await MediaReader().aload_data(folder)
    assert [type(document) for document in documents] == KINDS


def test_problems_are_listed_and_the_rest_goes_on(folder, make, tmp_path):
    empty, odd = make.bytes("e.png", b""), make.text("f.xyz", "?")
    latin, blank = make.bytes("g.txt", "Grüße".encode("latin-1")), make.text("h.md", " \n\t ")
    (tmp_path / "i.txt").symlink_to(tmp_path / "gone")
    problems: list[Problem] = []
    documents = MediaReader().load_data(folder, problems=problems)
    assert [type(document) for document in documents] == KINDS
    assert [problem.path for problem in problems] == [empty, odd, latin, blank, tmp_path / "i.txt"]
    reasons = [problem.reason for problem in problems]
    assert reasons[0] == "e.png is empty (0 bytes)."
    assert reasons[1].startswith("No decoder for '.xyz' (f.xyz). Taken are: ")
    assert reasons[2] == "g.txt is not text in UTF-8 (invalid start byte at byte 2). Convert it."
    assert reasons[3] == "h.md has nothing but white space."
    assert "missing" in reasons[4]


@pytest.mark.parametrize(("name", "error"), [("e.png", DecodeError), ("f.xyz", UnsupportedMediaError)])
def test_without_a_list_the_first_problem_is_raised(make, name, error):
    path = make.bytes(name, b"" if name == "e.png" else b"?")
    with pytest.raises(error):
        MediaReader().load_data(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file_is_a_problem(make):
    path = make.text("a.txt", "secret")
    path.chmod(0)
    problems: list[Problem] = []
    assert MediaReader().load_data(path, problems=problems) == []
    assert [problem.path for problem in problems] == [path]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("\ufeffGrüße".encode(), "Grüße"),
        ("日本語\r\nзвук".encode(), "日本語\nзвук"),
        (b"plain\n", "plain\n"),
    ],
)
def test_text(make, data, text):
    assert document_of(make.bytes("a.txt", data)).text == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("Grüße".encode("latin-1"), "is not text in UTF-8"),
        ("Grüße".encode("utf-16"), "is not text in UTF-8"),
        ("plain".encode("utf-16-le"), "has NUL characters"),
        (b"\x89PNG\r\n\x1a\n", "is not text in UTF-8"),
        (b" \n \t\r\n", "nothing but white space"),
        ("\ufeff".encode(), "nothing but white space"),
        (b"", "is empty"),
    ],
)
def test_no_text(make, data, reason):
    with pytest.raises(DecodeError, match=rf"^a\.txt .*{reason}"):
        document_of(make.bytes("a.txt", data))


def test_folder_with_an_ending(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(MediaError, match="no regular file"):
        document_of(tmp_path / "a.png")


def test_in_simple_directory_reader(folder):
    reader = MediaReader()
    documents = SimpleDirectoryReader(
        str(folder),
        file_extractor={".png": reader, ".wav": reader, ".obj": reader},
        required_exts=[".png", ".wav", ".obj", ".txt"],
    ).load_data()
    assert [type(document) for document in documents] == KINDS
    picture = documents[1]
    assert picture.path == folder / "b.png"
    assert picture.metadata["file_type"] == "image/png"
    assert "mm_" not in picture.get_content(metadata_mode=MetadataMode.LLM)


def test_reader_is_a_component():
    reader = MediaReader()
    assert MediaReader.from_dict(reader.to_dict()) == reader
    assert (reader.class_name(), reader.is_remote) == ("MediaReader", False)
    assert asyncio.run(reader.aload_data([])) == []
