"""Files within zip archives, read one by one; nothing is unpacked to disk, and nothing that an archive says is believed.

A member has an address: ``zip://holiday/beach.jpg::/home/me/photos.zip``, as fsspec writes it. In it ``%``, ``:`` and control
characters of the member's name stand as ``%25``, ``%3A`` and so on.
"""

import functools
import io
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import LIMITS, MediaLimits
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.regular import open_regular
from llama_index_mm.readers.fetch import Fetched, FetchLimits

__all__ = ["is_archive", "list_archive", "list_members", "read_member"]

_SCHEME = "zip://"
_BLOCK = 1 << 20  # bytes read at a time
_PER_MEMBER = 512  # bytes of an archive's list of files
_LARGER = 4  # times the limit on one file is the limit on all of an archive
_HEADER = 30  # bytes before a member's name and content
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # which inflate in bounded memory


def is_archive(path: Path | str) -> bool:
    """Whether a name is that of a zip archive."""
    return Path(path).suffix.lower() == ".zip"


def list_archive(path: Path | str, *, limits: MediaLimits = LIMITS) -> Iterator[str]:
    """Addresses of the files in an archive, by name; `read_member` reads them.

    Hidden files, and the folder ``__MACOSX``, are left out. Of files of the same name the last is meant. What can't be read
    (encrypted members, links, archives in the archive) is listed too, and refused when it is read.

    Raises:
        DecodeError: the file is missing, no zip archive, or beyond the limits on bytes and members.
    """
    check_readable(Path(path), limits)
    return list_members(f"{_SCHEME}::{os.path.abspath(path)}", limits=limits)  # noqa: PTH100 - links are kept


def list_members(address: str, *, limits: MediaLimits = LIMITS) -> Iterator[str]:
    """Like `list_archive`, of a folder in the archive: ``zip://holiday::/home/me/photos.zip``, or a file in it."""
    folder, target = _parts(address)
    archive = _open(target, limits)
    under = folder.strip("/")
    for name in sorted(archive.members):
        if not under or name == under or name.startswith(under + "/"):
            yield f"{_SCHEME}{_quote(name)}::{target}"


def read_member(address: str, limits: FetchLimits | None = None, *, media: MediaLimits = LIMITS) -> Fetched:
    """Read a file in an archive.

    Args:
        address: as `list_archive` gives it.
        limits: ``max_bytes`` is the most that the member may have.
        media: limits on the archive.

    Raises:
        DecodeError: it can't be read, or not safely, or is beyond the limits; the message says why.
    """
    limits = limits or FetchLimits()
    name, target = _parts(address)
    archive = _open(target, media)
    if name not in archive.members:
        raise DecodeError(f"There is no file {name} in {target}.")
    if name in archive.reasons:
        raise DecodeError(f"{name} in {target} {archive.reasons[name]}")
    data = bytearray()
    try:
        with archive.zip.open(archive.members[name]) as file:
            while block := file.read(_BLOCK):
                data += block
                if len(data) > limits.max_bytes:
                    raise DecodeError(
                        f"{name} in {target} has more than {limits.max_bytes:,} bytes, which is the limit "
                        "(FetchLimits.max_bytes)."
                    )
    except DecodeError:
        raise
    except Exception as error:  # zipfile and zlib raise whatever their parsers raise
        raise DecodeError(f"{name} in {target} can't be unpacked: {error or type(error).__name__}.") from error
    if not data:
        raise DecodeError(f"{name} in {target} is empty (0 bytes).")
    return Fetched(bytes(data), PurePosixPath(name.replace("\\", "/")).name, address)


@dataclass(frozen=True)
class _Archive:
    zip: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    reasons: dict[str, str]  # why a member is not read


def _parts(address: str) -> tuple[str, str]:
    """Name of the member, and where the archive is."""
    member, _, target = address[len(_SCHEME) :].partition("::")
    if not target:
        raise DecodeError(f"Expected an address such as zip://beach.jpg::/home/me/photos.zip, got {address}.")
    return unquote(member), target


def _quote(name: str) -> str:
    return re.sub(r"[%:\x00-\x1f\x7f]", lambda found: f"%{ord(found[0]):02X}", name)


def _open(target: str, limits: MediaLimits) -> _Archive:
    try:
        if "://" in target:
            system, path = fsspec.core.url_to_fs(target)
            size, state = int(system.size(path)), system.ukey(path)
        else:
            about = Path(target).stat()
            size, state = about.st_size, (about.st_ino, about.st_mtime_ns)
        if size > limits.file_bytes:
            raise DecodeError(f"{target} has {size:,} bytes; at most {limits.file_bytes:,} are read (MediaLimits.file_bytes).")
        return _load(target, (size, state), limits)
    except DecodeError:
        raise
    except UnicodeDecodeError as error:
        raise DecodeError(f"{target} can't be opened: it has a file whose name is not the UTF-8 it should be.") from error
    except Exception as error:  # zipfile and fsspec raise whatever their parsers raise
        raise DecodeError(f"{target} can't be opened as a zip archive: {error or type(error).__name__}.") from error


@functools.lru_cache(maxsize=2)  # to list 10,000 members anew for each of them takes a quarter of an hour
def _load(target: str, state: tuple[int, Any], limits: MediaLimits) -> _Archive:
    archive = zipfile.ZipFile(_Ranges(_reader(target), state[0], limits.members * _PER_MEMBER + _BLOCK, target))
    files = [one for one in archive.infolist() if not one.is_dir() and not _is_hidden(one.filename)]
    if len(files) > limits.members:
        raise DecodeError(f"{target} has {len(files):,} files; at most {limits.members:,} are read (MediaLimits.members).")
    total, most = sum(one.file_size for one in files), _LARGER * limits.file_bytes
    if total > most:
        raise DecodeError(f"{target} holds {total:,} bytes; at most {most:,} are read (four times MediaLimits.file_bytes).")
    reasons = {one.filename: reason for one in files if (reason := _reason(one))}
    ordered = sorted(archive.infolist(), key=lambda one: one.header_offset)
    ends = [*(one.header_offset for one in ordered[1:]), archive.start_dir]
    for one, end in zip(ordered, ends, strict=True):
        if one.header_offset + _HEADER + len(one.orig_filename) + one.compress_size > end:
            reasons[one.filename] = "shares its bytes with other members, as zip bombs do."
    return _Archive(archive, {one.filename: one for one in files}, reasons)


def _reason(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link, which is not followed."
    if kind not in (0, stat.S_IFREG):
        return "is no regular file."
    if member.flag_bits & 1:
        return "is encrypted. Unpack the archive with its password and give the files."
    if is_archive(member.filename):
        return "is an archive in an archive, which is not opened. Unpack it."
    if member.compress_type not in _METHODS:
        return f"is compressed by method {member.compress_type}; stored and deflated files are read. Unpack the archive."
    return ""


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


def _reader(target: str) -> Callable[[int, int], bytes]:
    """What gives the bytes from one place to another. No file stays open in between."""
    if "://" in target:
        system, path = fsspec.core.url_to_fs(target)
        return lambda start, end: bytes(system.cat_file(path, start=start, end=end))

    def read(start: int, end: int) -> bytes:
        with open_regular(Path(target)) as file:
            file.seek(start)
            return file.read(end - start)

    return read


class _Ranges(io.RawIOBase):
    """A file to zipfile, which never reads more than ``most`` bytes at a time, whatever the archive says it should."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, most: int, name: str) -> None:
        self._read = read
        self._size = size
        self._most = most
        self._name = name
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError("a place before the beginning of the file")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end - self._at > self._most:
            raise DecodeError(f"{self._name} has a list of files of {end - self._at:,} bytes; at most {self._most:,} are read.")
        if end <= self._at:
            return b""
        data = self._read(self._at, end)
        self._at += len(data)
        return data
