import asyncio
import os
import re
import threading
from pathlib import Path

import fsspec
import pytest
from llama_index.core import SimpleDirectoryReader
from llama_index.core.schema import Document, MetadataMode

from llama_index_mm.errors import DecodeError, MediaError, UnsupportedMediaError
from llama_index_mm.media import MediaLimits, digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.readers import FetchLimits, MediaBytes, MediaReader, Problem
from llama_index_mm.readers.media import document_of


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
        ("Grüße\r\nund".encode("utf-16"), "Grüße\nund"),
        ("\ufeffGrüße\rund".encode("utf-16-be"), "Grüße\nund"),
        ("日本 \U0001f600".encode("utf-32"), "日本 \U0001f600"),
    ],
)
def test_text(make, data, text):
    assert document_of(make.bytes("a.txt", data)).text == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("Grüße".encode("latin-1"), "is not text in UTF-8"),
        ("Grüße".encode("utf-16")[:-1], "is not text in UTF-16"),
        ("\ufeff".encode("utf-16-le"), "nothing but white space"),
        ("a\0b".encode("utf-16"), "has NUL characters"),
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
    documents = SimpleDirectoryReader(str(folder), file_extractor=MediaReader().file_extractor()).load_data()
    assert [type(document) for document in documents] == KINDS
    picture = documents[1]
    assert picture.path == folder / "b.png"
    assert picture.metadata["file_type"] == "image/png"
    assert "mm_" not in picture.get_content(metadata_mode=MetadataMode.LLM)
    assert [document.node_id for document in documents] == [one.node_id for one in MediaReader().load_data(folder)]


def test_in_simple_directory_reader_with_its_options(folder):
    documents = SimpleDirectoryReader(
        str(folder),
        file_extractor=MediaReader().file_extractor(),
        filename_as_id=True,
        file_metadata=lambda name: {"owner": f"archive of {Path(name).name}"},
    ).load_data()
    assert [document.node_id for document in documents] == [f"{path}_part_0" for path in sorted(folder.iterdir())]
    assert [document.metadata["owner"] for document in documents] == [
        f"archive of {name}" for name in ("a.txt", "b.png", "c.wav", "d.obj")
    ]
    assert [document.metadata["file_name"] for document in documents] == ["a.txt", "b.png", "c.wav", "d.obj"]


def test_in_simple_directory_reader_with_broken_files(folder, make, capsys):
    empty = make.bytes("bad.png", b"")
    options = {"file_extractor": MediaReader().file_extractor()}
    documents = SimpleDirectoryReader(str(folder), **options).load_data()
    assert [type(document) for document in documents] == KINDS
    assert capsys.readouterr().out == f"Failed to load file {empty} with error: bad.png is empty (0 bytes).. Skipping...\n"
    with pytest.raises(Exception, match="Error loading file") as caught:
        SimpleDirectoryReader(str(folder), raise_on_error=True, **options).load_data()
    assert isinstance(caught.value.__cause__, DecodeError)


def test_in_simple_directory_reader_with_workers(make):
    """Reader and documents go through pickle to other processes and back."""
    make.text("a.txt", "words")
    make.picture("b.png")
    reader = SimpleDirectoryReader(str(make.folder), file_extractor=MediaReader(folder=make.folder / "kept").file_extractor())
    alone, shared = reader.load_data(), reader.load_data(num_workers=2)
    assert [type(document) for document in shared] == KINDS[:2]
    assert [document.to_dict() for document in shared] == [document.to_dict() for document in alone]


async def test_in_simple_directory_reader_async(folder):
    documents = await SimpleDirectoryReader(str(folder), file_extractor=MediaReader().file_extractor()).aload_data(
        num_workers=2
    )
    assert [type(document) for document in documents] == KINDS


@pytest.fixture
def bucket(folder):
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in folder.iterdir():
        system.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield system
    system.store.clear()


def test_in_simple_directory_reader_with_another_file_system(bucket, folder, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    reader = MediaReader(folder=kept)
    documents = SimpleDirectoryReader("/bucket", fs=bucket, file_extractor=reader.file_extractor()).load_data()
    assert [type(document) for document in documents] == KINDS
    assert [document.node_id for document in documents] == [digest_file(path)[:32] for path in sorted(folder.iterdir())]
    assert [document.metadata["file_name"] for document in documents] == ["a.txt", "b.png", "c.wav", "d.obj"]
    assert documents[1].url == "memory://bucket/b.png"
    assert documents[1].path.is_relative_to(kept)
    assert documents[1].path.read_bytes() == (folder / "b.png").read_bytes()
    assert documents[1].get_content_blocks()[-1].path == documents[1].path


def test_another_file_system_has_limits(bucket):
    bucket.pipe("/bucket/none.txt", b"")
    problems: list[Problem] = []
    reader = MediaReader(fetch=FetchLimits(max_bytes=4))
    assert reader.load_data(["/bucket/a.txt", "/bucket/none.txt", "/bucket/gone.txt"], fs=bucket, problems=problems) == []
    assert [problem.reason for problem in problems] == [
        "memory://bucket/a.txt has more than 4 bytes, which is the limit (FetchLimits.max_bytes).",
        "none.txt is empty (0 bytes).",
        "memory://bucket/gone.txt can't be read: /bucket/gone.txt.",
    ]


def test_addresses_paths_and_bytes_in_one_list(bucket, folder, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    door = (folder / "b.png").read_bytes()
    given = [folder / "a.txt", "memory://bucket/b.png", MediaBytes(door, "up/../red door.PNG"), str(folder / "c.wav")]
    documents = MediaReader(folder=kept).load_data(given, extra_info={"owner": "me"})
    assert [document.metadata["file_name"] for document in documents] == ["a.txt", "b.png", "red door.PNG", "c.wav"]
    assert [document.metadata.get("mm_url") for document in documents] == [None, "memory://bucket/b.png", None, None]
    assert documents[1].node_id == documents[2].node_id == digest_file(folder / "b.png")[:32]
    assert documents[2].title == "red door"
    digest = digest_file(folder / "b.png")
    assert [path.relative_to(kept).as_posix() for path in kept.rglob("*.*")] == [f"{digest[:2]}/{digest}.png"]
    assert {document.metadata["owner"] for document in documents} == {"me"}


def test_bytes_are_kept_in_the_cache_folder_if_none_is_named(make, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_INDEX_MM_HOME", str(tmp_path / "home"))
    (document,) = MediaReader().load_data(MediaBytes(b"words", "a.txt"))
    path = Path(document.metadata["mm_path"])
    assert path.is_relative_to(tmp_path / "home" / "media")
    assert path.read_bytes() == b"words"
    assert (path.stat().st_mode & 0o077, path.parent.stat().st_mode & 0o077) == (0, 0)
    assert document.text == "words"


def test_what_can_not_be_taken(make, tmp_path):
    reader = MediaReader(folder=tmp_path / "kept")
    problems: list[Problem] = []
    given = [
        b"words",
        MediaBytes(b"", "a.txt"),
        MediaBytes(b"words", "a.xyz"),
        tmp_path / "gone.txt",
        "memory://bucket/gone.txt",
        "http://127.0.0.1:1/a.png",
        MediaBytes(b"words", "b.txt"),
    ]
    (document,) = reader.load_data(given, problems=problems)
    assert document.text == "words"
    assert [problem.reason.split(" (")[0].split(": ")[0] for problem in problems] == [
        "Expected a path, an address or MediaBytes, got bytes. Give MediaBytes(data, 'name.png').",
        "a.txt is empty",
        "No decoder for '.xyz'",
        f"There is no file or folder {tmp_path / 'gone.txt'}.",
        "memory://bucket/gone.txt can't be read",
        "127.0.0.1 is not asked",
    ]
    assert [path.suffix for path in (tmp_path / "kept").rglob("*.*")] == [".txt"]
    for one in given[:-1]:
        with pytest.raises(MediaError):
            reader.load_data(one)


def test_limits(make):
    path = make.text("a.txt", "word words")
    assert MediaReader(limits=MediaLimits(characters=10)).load_data(path)[0].text == "word words"
    for limits, reason in (
        (MediaLimits(characters=9), "a.txt has more than 9 characters, which is the limit (MediaLimits.characters)."),
        (MediaLimits(characters=1), "a.txt has more than 1 characters, which is the limit (MediaLimits.characters)."),
        (MediaLimits(file_bytes=9), "a.txt has 10 bytes; at most 9 are read (MediaLimits.file_bytes)."),
    ):
        with pytest.raises(DecodeError, match=re.escape(reason)):
            MediaReader(limits=limits).load_data(path)


async def test_reading_async_is_off_the_loop(folder):
    """Each document is read in another thread, and only when it is asked for."""
    threads = []
    reader = MediaReader()

    def files():
        for path in sorted(folder.iterdir()):
            threads.append(threading.current_thread())
            yield path

    found = []
    async for document in await reader.alazy_load_data(files()):
        found.append(type(document))
        assert len(threads) == len(found)
    assert found == KINDS
    assert threading.main_thread() not in threads
    assert [type(document) for document in await reader.alazy_load_data(folder)] == KINDS


def test_pdf(make, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "empty.pdf")
    problems: list[Problem] = []
    assert MediaReader().load_data(tmp_path, problems=problems) == []
    assert [problem.reason[:44] for problem in problems] == ["empty.pdf has no text on its 1 pages. If the"]


def test_reader_is_a_component():
    reader = MediaReader()
    assert MediaReader.from_dict(reader.to_dict()) == reader
    own = MediaReader(
        folder="/a/b", limits=MediaLimits(pixels=7), fetch=FetchLimits(seconds=3, allow_private=True), follow_links=True
    )
    assert MediaReader.from_json(own.to_json()) == own
    assert own.folder == Path("/a/b")
    assert own.limits.pixels == 7
    assert (reader.class_name(), reader.is_remote) == ("MediaReader", False)
    assert asyncio.run(reader.aload_data([])) == []
