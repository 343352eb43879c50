"""Files as they are found: named by the digest of their content, ahead of the run, in threads."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llama_index_mm.errors import DecodeError, MediaError
from llama_index_mm.media import MediaLimits, Modality, digest_bytes, digest_file, modality_of
from llama_index_mm.media.files import check_readable
from llama_index_mm.readers import FetchLimits
from llama_index_mm.readers.remote import read_remote
from llama_index_mm.stores import NodeStore

__all__ = ["Found", "examined"]

_THREADS = 4
_AHEAD = 32  # files that are looked at before it is their turn


@dataclass(frozen=True)
class Found:
    """A file that was given, or an address.

    Attributes:
        name: the path or address, by which the index knows it.
        digest: SHA-256 of its content, empty if that can't be had.
        modality: by the ending of its name.
        file: where it lies; what came from an address lies in the store's media folder.
        title: its file name.
        url: the address.
        problem: why it can't be taken; empty if nothing is known against it.
        notable: whether the store can keep a note on it.
        stamp: size and time of the last change when the digest was taken.
        lasting: whether that is so until the file changes; a disk or a network may come back.
    """

    name: str
    digest: str = ""
    modality: Modality = "text"
    file: Path = Path()
    title: str | None = None
    url: str | None = None
    problem: str = ""
    notable: bool = True
    lasting: bool = False
    stamp: tuple[int, int] = (0, 0)

    def check_same(self) -> None:
        """Refuse a file that changed since its digest was taken: what was read of it is of no known content.

        Raises:
            OSError: it changed, or is gone.
        """
        try:
            changed = self.url is None and _stamp(self.file) != self.stamp
        except OSError as error:
            raise OSError(f"{self.file.name} can't be read any more: {error.strerror}.") from error
        if changed:
            raise OSError(f"{self.file.name} changed while it was read. The next run will take it as it is then.")


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def examined(
    files: Iterable[Path | str], store: NodeStore, limits: MediaLimits, fetch_limits: FetchLimits | None
) -> Iterator[Found]:
    """Look at files and fetch addresses, some ahead of their turn, in order."""
    ahead: deque[Future[Found]] = deque()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="examine")
    try:
        for one in files:
            if isinstance(one, Path):
                ahead.append(threads.submit(_examine, one, limits))
            else:
                ahead.append(threads.submit(_fetch, one, store, limits, fetch_limits))
            if len(ahead) >= _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _examine(path: Path, limits: MediaLimits) -> Found:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        name = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return Found(name, problem=f"The name of {Path(name).name} is not UTF-8. Rename it.", notable=False)
    try:
        modality = modality_of(path)
        check_readable(path, limits)
        stamp = _stamp(path)
        return Found(str(path), digest_file(path), modality, path, stamp=stamp)
    except MediaError as error:
        return Found(str(path), problem=str(error), lasting=True)
    except OSError as error:
        return Found(str(path), problem=f"{path.name} can't be read: {error.strerror or error}.")


def _fetch(address: str, store: NodeStore, limits: MediaLimits, fetch_limits: FetchLimits | None) -> Found:
    try:
        fetched = read_remote(address, fetch_limits, media=limits)
        modality = modality_of(Path(fetched.name))
        if len(fetched.data) > limits.file_bytes:
            raise DecodeError(
                f"{address} has {len(fetched.data):,} bytes; at most {limits.file_bytes:,} are read (MediaLimits.file_bytes)."
            )
        file = store.media_path(fetched.data, Path(fetched.name).suffix.lower())
        return Found(address, digest_bytes(fetched.data), modality, file, fetched.name, address)
    except (MediaError, OSError) as error:
        return Found(address, problem=str(error))
