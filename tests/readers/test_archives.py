"""Zip archives, good ones and such as nobody means well with."""

import io
import os
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import fsspec
import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import MediaLimits
from llama_index_mm.readers import FetchLimits, MediaReader, is_archive, list_archive
from llama_index_mm.readers.archives import list_members, read_member
from llama_index_mm.readers.remote import is_remote, list_remote, read_remote


def zipped(files, method=zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, data)
    return out.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def short(path, **options) -> list[str]:
    """Members' names as they stand in the addresses."""
    return [one[len("zip://") :].partition("::")[0] for one in list_archive(path, **options)]


def contents(path) -> dict[str, bytes | str]:
    """What each member gives: its bytes, or the reason why not."""
    found: dict[str, bytes | str] = {}
    for address, name in zip(list_archive(path), short(path), strict=True):
        try:
            found[name] = read_member(address).data
        except DecodeError as error:
            found[name] = str(error)
    return found


def refusal(call, *given, **options) -> str:
    with pytest.raises(DecodeError) as caught:
        list(call(*given, **options))
    return str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive(make, method):
    files = {"b.txt": b"words " * 1000, "sub/a.png": os.urandom(3_000_000), "sub/deep/c.txt": b"c", "A.txt": b"a"}
    path = make.bytes("photos.zip", zipped(files, method))
    assert list(list_archive(path)) == [f"zip://{name}::{path}" for name in ("A.txt", "b.txt", "sub/a.png", "sub/deep/c.txt")]
    assert contents(path) == files
    fetched = read_member(f"zip://sub/a.png::{path}")
    assert (fetched.name, fetched.url) == ("a.png", f"zip://sub/a.png::{path}")


def test_addresses_are_those_of_fsspec(make):
    path = make.bytes("photos.zip", zipped({"sub/a.txt": b"a", "sub/b.txt": b"b", "submarine.txt": b"c"}))
    for address in list_archive(path):
        assert is_remote(address)
        with fsspec.open(address, "rb") as file:
            assert file.read() == read_remote(address).data
    assert list(list_remote(f"zip://::{path}")) == list(list_archive(path))
    assert list(list_remote(f"zip://sub::{path}")) == [f"zip://sub/{name}.txt::{path}" for name in "ab"]
    assert list(list_remote(f"zip://sub/b.txt::{path}")) == [f"zip://sub/b.txt::{path}"]
    assert refusal(list_remote, "zip://a.png").startswith("Expected an address such as zip://beach.jpg::/home/")


def test_an_archive_in_a_bucket(make):
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/photos.zip", zipped({"sub/a.txt": b"words", "b.txt": b"more"}))
    assert list(list_members("zip://::memory://bucket/photos.zip")) == [
        "zip://b.txt::memory://bucket/photos.zip",
        "zip://sub/a.txt::memory://bucket/photos.zip",
    ]
    assert read_remote("zip://sub/a.txt::memory://bucket/photos.zip").data == b"words"
    system.store.clear()


def test_is_archive():
    assert [is_archive(name) for name in ("a.zip", "A.ZIP", "a.zip.txt", "zip", "a.tar")] == [True, True, False, False, False]


def test_what_is_hidden(make):
    hidden = {".DS_Store": b"x", "__MACOSX/._a.png": b"x", "sub/.git/config.txt": b"x", "a/__MACOSX/b.txt": b"x"}
    assert short(make.bytes("a.zip", zipped({**hidden, "a.txt": b"a", "empty/": b""}))) == ["a.txt"]


def test_names_are_only_names(make, tmp_path):
    names = ["../../up.txt", "/etc/passwd.txt", "a/../../b.txt", "C:\\windows\\c.txt", "50%.txt", "a::b.txt", "new\nline.txt"]
    path = make.bytes("in/a.zip", zipped({name: name.encode() for name in names}))
    before = sorted(tmp_path.rglob("*"))
    addresses = list(list_archive(path))
    assert [read_member(address).data.decode() for address in addresses] == sorted(names)
    assert {read_member(address).name for address in addresses} == {
        "up.txt",
        "passwd.txt",
        "b.txt",
        "c.txt",
        "50%.txt",
        "a::b.txt",
        "new\nline.txt",
    }
    assert not any("\n" in address for address in addresses)
    assert sorted(tmp_path.rglob("*")) == before


def test_of_two_files_of_a_name_the_last_is_meant(make):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped([("a.txt", b"old"), ("b.txt", b"b"), ("a.txt", b"new")])
    assert contents(make.bytes("a.zip", data)) == {"a.txt": b"new", "b.txt": b"b"}


def test_one_bad_member_does_not_stop_the_rest(make):
    data = zipped(
        [
            ("good.txt", b"words"),
            ("none.txt", b""),
            ("inner.zip", zipped({"a.txt": b"a"})),
            (special("link.txt", stat.S_IFLNK | 0o777), b"/etc/passwd"),
            (special("pipe.txt", stat.S_IFIFO | 0o644), b""),
            (special("plain.txt", stat.S_IFREG | 0o644), b"plain"),
        ]
    )
    path = make.bytes("a.zip", data)
    assert contents(path) == {
        "good.txt": b"words",
        "inner.zip": f"inner.zip in {path} is an archive in an archive, which is not opened. Unpack it.",
        "link.txt": f"link.txt in {path} is a link, which is not followed.",
        "none.txt": f"none.txt in {path} is empty (0 bytes).",
        "pipe.txt": f"pipe.txt in {path} is no regular file.",
        "plain.txt": b"plain",
    }


def test_encrypted_members(make):
    data = bytearray(zipped({"a.txt": b"secret", "b.txt": b"open"}))
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = make.bytes("a.zip", bytes(data))
    found = contents(path)
    assert found["a.txt"] == f"a.txt in {path} is encrypted. Unpack the archive with its password and give the files."
    assert found["b.txt"] == b"open"


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)])
def test_methods_that_inflate_without_bounds(make, method, number):
    path = make.bytes("a.zip", zipped({"a.txt": b"\0" * 10_000_000}, method))
    assert f"is compressed by method {number}; stored and deflated files are read" in contents(path)["a.txt"]


def test_damaged_content(make):
    data = bytearray(zipped({"a.txt": b"words of the first", "b.txt": b"of the second"}, zipfile.ZIP_STORED))
    data[data.index(b"words")] ^= 1
    path = make.bytes("a.zip", bytes(data))
    assert contents(path) == {
        "a.txt": f"a.txt in {path} can't be unpacked: Bad CRC-32 for file 'a.txt'.",
        "b.txt": b"of the second",
    }


@pytest.mark.parametrize("data", [b"PK", b"no archive at all" * 100, b"PK\x05\x06" + b"\xff" * 18])
def test_no_archive(make, data):
    path = make.bytes("a.zip", data)
    assert refusal(list_archive, path).startswith(f"{path} can't be opened as a zip archive: ")


def test_no_file(make, tmp_path):
    assert "missing" in refusal(list_archive, tmp_path / "gone.zip")
    assert refusal(list_archive, make.bytes("a.zip", b"")) == "a.zip is empty (0 bytes)."
    path = make.bytes("b.zip", zipped({"a.txt": b"a"}))
    address = next(list_archive(path))
    assert refusal(read_member, f"zip://b.txt::{path}") == f"There is no file b.txt in {path}."
    path.unlink()
    assert "No such file" in refusal(read_member, address)


def test_an_archive_that_changes(make):
    path = make.bytes("a.zip", zipped({"a.txt": b"old"}))
    assert contents(path) == {"a.txt": b"old"}
    path.write_bytes(zipped({"b.txt": b"newer"}))
    assert contents(path) == {"b.txt": b"newer"}


def test_names_that_are_not_the_utf_8_they_should_be(make):
    data = zipped({"é.txt": b"a"}).replace("é".encode(), b"\xff\xff")
    path = make.bytes("a.zip", data)
    assert refusal(list_archive, path) == f"{path} can't be opened: it has a file whose name is not the UTF-8 it should be."


def test_names_of_old(make):
    """Without the mark of UTF-8, names are in code page 437, as the format says."""
    data = bytearray(zipped({"xy.txt": b"a"}).replace(b"xy", b"\x81\x84"))
    assert contents(make.bytes("a.zip", bytes(data))) == {"üä.txt": b"a"}


def test_limits(make):
    path = make.bytes("a.zip", zipped({f"{at}.txt": b"x" * 100 for at in range(5)}))
    assert len(short(path, limits=MediaLimits(members=5))) == 5
    assert refusal(list_archive, path, limits=MediaLimits(members=4)) == (
        f"{path} has 5 files; at most 4 are read (MediaLimits.members)."
    )
    size = path.stat().st_size
    assert "at most 10 are read (MediaLimits.file_bytes)" in refusal(list_archive, path, limits=MediaLimits(file_bytes=10))
    swollen = make.bytes("b.zip", zipped({f"{at}.txt": b"x" * 2 * size for at in range(3)}))
    assert swollen.stat().st_size < 1.1 * size
    told = f"{swollen} holds {6 * size:,} bytes; at most {4 * 720:,} are read (four times MediaLimits.file_bytes)."
    assert refusal(list_archive, swollen, limits=MediaLimits(file_bytes=720)) == told
    address = next(list_archive(path))
    assert read_member(address, FetchLimits(max_bytes=100)).data == b"x" * 100
    assert refusal(read_member, address, FetchLimits(max_bytes=99)) == (
        f"0.txt in {path} has more than 99 bytes, which is the limit (FetchLimits.max_bytes)."
    )


def test_a_bomb_of_one_file(make):
    """1 MB that would be 1 GB: inflating stops at the limit, and holds no more than it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block, body = b"\0" * (1 << 20), b""
    for _ in range(256):
        body += packer.compress(block)
    path = make.bytes("a.zip", crafted([("a.txt", body + packer.flush(), 1 << 28)]))
    address = next(list_archive(path))
    tracemalloc.start()
    try:
        message = refusal(read_member, address, FetchLimits(max_bytes=4 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message.endswith("has more than 4,194,304 bytes, which is the limit (FetchLimits.max_bytes).")
    assert peak < 20 << 20


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def crafted(files, *, crc: int = 0, stated: int | None = None, overlapping: bool = False) -> bytes:
    """An archive by hand: (name, deflated body, size that is stated); all in one place if they overlap."""
    out, entries, first = bytearray(), bytearray(), None
    for name, body, size in files:
        at = len(out) if first is None or not overlapping else first
        if first is None or not overlapping:
            first = at
            out += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0)
            out += name.encode() + body
        head = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0, 0, 0, 0, 0, at)
        entries += head + name.encode()
    count = min(len(files), 0xFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, stated or len(entries), len(out), 0)
    return bytes(out + entries + end)


def test_a_size_that_is_a_lie(make):
    """What is stated is not believed: neither too little, nor too much."""
    body = deflate(b"x" * 1000)
    small = make.bytes("a.zip", crafted([("a.txt", body, 10)], crc=zlib.crc32(b"x" * 1000)))
    assert "can't be unpacked: " in contents(small)["a.txt"]
    large = make.bytes("b.zip", crafted([("a.txt", body, 10**6)], crc=zlib.crc32(b"x" * 1000)))
    found = contents(large)["a.txt"]
    assert found == b"x" * 1000


def test_members_that_share_their_bytes(make):
    """Fifield's bomb: one kernel of bytes that many members quote."""
    body = deflate(b"\0" * 100_000)
    data = crafted([(f"{at}.txt", body, 100_000) for at in range(50)], crc=zlib.crc32(b"\0" * 100_000), overlapping=True)
    path = make.bytes("a.zip", data)
    found = contents(path)
    refused = [name for name, what in found.items() if isinstance(what, str)]
    assert len(refused) >= 49
    assert found["0.txt"] == f"0.txt in {path} shares its bytes with other members, as zip bombs do."


def test_a_list_of_files_that_is_too_long(make):
    """2 MB of entries in an archive for at most ten files: refused before they are read."""
    path = make.bytes("a.zip", crafted([(f"{at:0200}.txt", b"", 0) for at in range(10_000)]))
    tracemalloc.start()
    try:
        message = refusal(list_archive, path, limits=MediaLimits(members=10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "has a list of files of " in message
    assert peak < 1 << 20


def test_many_members_are_read_in_one_go(make):
    """The list of files is read once, not once for each member."""
    path = make.bytes("a.zip", zipped({f"{at}.txt": b"words" for at in range(3_000)}))
    started = time.perf_counter()
    assert all(read_member(address).data == b"words" for address in list_archive(path))
    assert time.perf_counter() - started < 10  # 30 s if it were not so, 0.5 s as it is


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are seen on Linux only")
def test_nothing_stays_open(make):
    path = make.bytes("a.zip", zipped({"a.txt": b"words"}))
    assert contents(path) == {"a.txt": b"words"}
    with path.open("rb"):
        assert str(path) in open_files()
    assert str(path) not in open_files()


def open_files():
    return [os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()]


def test_web_addresses_in_chains_are_not_asked():
    """fsspec would ask them without looking where they lead."""
    for address in (
        "zip://a.png::http://169.254.169.254/a.zip",
        "simplecache::https://example.com/a.png",
        "tar://a.png::simplecache::HTTP://localhost/a.tar",
    ):
        for call in (list_remote, lambda one: read_remote(one)):
            assert refusal(call, address) == (
                f"{address} is not read: web addresses are fetched by themselves only. Download the file first."
            )


def test_other_chains(make, tmp_path):
    make.text("in/sub/a.txt", "words"), make.text("in/b.txt", "more")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", arcname="top")
    addresses = list(list_remote(f"tar://top::{tmp_path / 'a.tar'}"))
    assert addresses == [f"tar://top/{name}::{tmp_path / 'a.tar'}" for name in ("b.txt", "sub/a.txt")]
    assert [(read_remote(one).name, read_remote(one).data) for one in addresses] == [("b.txt", b"more"), ("a.txt", b"words")]


def test_in_the_reader(make, tmp_path):
    red, blue = make.picture("red.png", "red"), make.picture("blue.png", "blue")
    files = {"sub/red door.png": red.read_bytes(), "note.txt": b"a note", "bad.png": b"no", "x.xyz": b"?", "b.zip": b"PK"}
    make.bytes("in/photos.ZIP", zipped(files))
    make.bytes("in/blue.png", blue.read_bytes())
    make.bytes("in/torn.zip", b"PK")
    problems = []
    documents = MediaReader(folder=tmp_path / "kept").load_data(tmp_path / "in", problems=problems)
    assert [document.metadata["file_name"] for document in documents] == ["blue.png", "bad.png", "note.txt", "red door.png"]
    door = documents[3]
    assert door.title == "red door"
    assert door.url == f"zip://sub/red door.png::{tmp_path / 'in' / 'photos.ZIP'}"
    assert door.path.is_relative_to(tmp_path / "kept")
    assert door.path.read_bytes() == red.read_bytes()
    assert door.node_id == MediaReader().load_data(red)[0].node_id
    assert [problem.reason.split(" (")[0].split(": ")[0] for problem in problems] == [
        f"b.zip in {tmp_path / 'in' / 'photos.ZIP'} is an archive in an archive, which is not opened. Unpack it.",
        "No decoder for '.xyz'",
        f"{tmp_path / 'in' / 'torn.zip'} can't be opened as a zip archive",
    ]
