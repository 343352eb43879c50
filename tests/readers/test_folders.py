"""What a folder holds, and what it must not lead to."""

import os
import socket
import stat
from contextlib import suppress

import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.readers import MediaReader, Problem, list_files
from llama_index_mm.readers.media import document_of
from llama_index_mm.stores import MediaStore


def names(source, folder, **options):
    return [path.relative_to(folder).as_posix() for path in list_files(source, **options)]


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
def outside(make, tmp_path):
    """A file and a folder beside the folder that is listed."""
    make.text("secret/key.txt", "a key"), make.text("shared/a.txt", "a")
    return tmp_path / "secret"


def test_links_that_lead_out_are_not_listed(outside, tmp_path):
    shared = tmp_path / "shared"
    (shared / "key.txt").symlink_to(outside / "key.txt")
    (shared / "up.txt").symlink_to("../secret/key.txt")
    (shared / "gone.txt").symlink_to("../secret/gone.txt")
    (shared / "secret").symlink_to(outside, target_is_directory=True)
    (shared / "twice.txt").symlink_to("key.txt")
    problems: list[Problem] = []
    assert names(shared, shared, problems=problems) == ["a.txt"]
    assert [problem.path.name for problem in problems] == ["gone.txt", "key.txt", "secret", "twice.txt", "up.txt"]
    assert problems[1].reason == (
        f"{shared / 'key.txt'} is a link that leads out of {shared}, to {outside / 'key.txt'}. Give what it leads to, or "
        "allow it (follow_links=True)."
    )
    with pytest.raises(DecodeError, match=r"gone\.txt is a link that leads out of"):
        names(shared, shared)


def test_links_that_lead_out_are_listed_if_that_is_allowed(outside, tmp_path):
    shared = tmp_path / "shared"
    (shared / "key.txt").symlink_to(outside / "key.txt")
    (shared / "more").symlink_to(outside, target_is_directory=True)
    (outside / "back").symlink_to(shared, target_is_directory=True)
    (outside / "round").symlink_to(outside, target_is_directory=True)
    assert names(shared, shared, follow_links=True) == ["a.txt", "key.txt", "more/key.txt"]


def test_a_link_that_is_given_is_followed(outside, tmp_path):
    link = tmp_path / "shared" / "key.txt"
    link.symlink_to(outside / "key.txt")
    assert list(list_files(link)) == [link]
    assert document_of(link).text == "a key"
    folder = tmp_path / "shared" / "more"
    folder.symlink_to(outside, target_is_directory=True)
    assert list(list_files(folder)) == [folder / "key.txt"]


def test_a_folder_below_a_link_is_a_place_of_its_own(outside, tmp_path):
    """What is given decides where "out" begins, not where a link to it lies."""
    (tmp_path / "link").symlink_to(tmp_path / "shared", target_is_directory=True)
    (tmp_path / "shared" / "b.txt").symlink_to(tmp_path / "shared" / "a.txt")
    assert names(tmp_path / "link", tmp_path / "link") == ["a.txt", "b.txt"]


def test_links_to_themselves(make, tmp_path):
    (tmp_path / "a.txt").symlink_to("a.txt")
    (tmp_path / "b.txt").symlink_to("c.txt")
    (tmp_path / "c.txt").symlink_to("b.txt")
    assert names(tmp_path, tmp_path) == ["a.txt", "b.txt", "c.txt"]
    problems: list[Problem] = []
    assert MediaReader().load_data(tmp_path, problems=problems) == []
    assert [problem.path.name for problem in problems] == ["a.txt", "b.txt", "c.txt"]


def test_what_is_no_file_is_never_opened(make, tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "c.zip")
    os.mkfifo(tmp_path / "d.pdf")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "e.txt"))
        problems: list[Problem] = []
        assert MediaReader().load_data(tmp_path, problems=problems) == []
    assert [problem.path.name for problem in problems] == ["a.txt", "b.png", "c.zip", "d.pdf", "e.txt"]
    assert all("no regular file" in problem.reason for problem in problems)


def test_devices():
    with pytest.raises(DecodeError, match="no regular file"):
        document_of(next(list_files("/dev/null")))


def test_a_pipe_that_comes_in_between_is_not_waited_for(make):
    """`open_regular` looks at what it opened, not at what lay there before."""
    from llama_index_mm.media.regular import open_regular

    path = make.folder / "a.txt"
    os.mkfifo(path)
    with pytest.raises(DecodeError, match=r"a\.txt is no regular file"):
        open_regular(path)
    with pytest.raises(DecodeError, match=r"is no regular file"):
        open_regular(make.folder)
    with pytest.raises(DecodeError, match="missing"):
        open_regular(make.folder / "gone")
    with open_regular(make.text("b.txt", "words")) as file:
        assert file.read() == b"words"
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def test_odd_names(make, tmp_path):
    for name in ("a\nb.txt", "c\x1b[31md.TXT", "e\u202ef.Txt", "日本.md"):
        make.text(name, name)
    documents = MediaReader().load_data(tmp_path)
    assert [document.metadata["file_name"] for document in documents] == [
        "a\nb.txt",
        "c\x1b[31md.TXT",
        "e\u202ef.Txt",
        "日本.md",
    ]


def test_names_that_are_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    try:
        with open(path, "wb") as file:  # noqa: PTH123 - no Path for these bytes
            file.write(b"words")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    problems: list[Problem] = []
    assert MediaReader().load_data(tmp_path, problems=problems) == []
    assert [problem.reason for problem in problems] == ["The name of caf\\xe9.txt is not UTF-8. Rename it."]


def test_folders_that_are_deeper_than_a_path_may_be_long(make, tmp_path):
    """2,500 folders in folders: the files above are listed, and what is too deep is told."""
    make.text("a.txt", "a"), make.text("d/b.txt", "b")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2_500):
        with suppress(FileExistsError):
            os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    problems: list[Problem] = []
    try:
        assert names(tmp_path, tmp_path, problems=problems) == ["a.txt", "d/b.txt"]
        assert [problem.reason for problem in problems] == ["The folder can't be listed: File name too long."]
    finally:  # from the deepest upwards, as no path reaches it
        (tmp_path / "d" / "b.txt").unlink()
        for _ in range(2_500):
            outer = os.open("..", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = outer
            os.rmdir("d", dir_fd=here)
        os.close(here)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may list everything")
def test_folders_that_may_not_be_listed(make, tmp_path):
    make.text("closed/a.txt", "a"), make.text("open/b.txt", "b")
    (tmp_path / "closed").chmod(0)
    problems: list[Problem] = []
    try:
        assert names(tmp_path, tmp_path, problems=problems) == ["open/b.txt"]
        with pytest.raises(DecodeError, match="The folder can't be listed: Permission denied"):
            names(tmp_path, tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert problems == [Problem(tmp_path / "closed", "The folder can't be listed: Permission denied.")]


def test_a_folder_that_goes_while_it_is_listed(make, tmp_path):
    make.text("a/1.txt", "1"), make.text("b/2.txt", "2")
    problems: list[Problem] = []
    found = list_files(tmp_path, problems=problems)
    assert next(found).name == "1.txt"
    (tmp_path / "b" / "2.txt").unlink()
    (tmp_path / "b").rmdir()
    assert list(found) == []
    assert problems == [Problem(tmp_path / "b", "The folder can't be listed: No such file or directory.")]
