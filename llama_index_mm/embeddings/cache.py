"""Vectors that were made before: a cache on disk, keyed by what was encoded and by which model."""

import asyncio
import hashlib
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.base import Encoder, Vectors
from llama_index_mm.embeddings.events import Events, spanned
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import Mesh, Waveform

__all__ = ["CachedEncoder", "EmbeddingCache", "payload_digest"]

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

_FILE = "embeddings.sqlite"
_LEAST_BYTES = 1 << 20
_WAIT = 10.0  # seconds for another process's short locks
_AT_ONCE = 500  # keys in one look-up; SQLite takes 999 at least
_SHARE = 10  # one in so many entries goes when the cache is full
_TABLES = """
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, used INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS vectors_used ON vectors (used);
"""


class EmbeddingCache:
    """Vectors by key in a folder, for several encoders, threads and processes at once.

    It is one SQLite file. Nothing of what was encoded is in it but digests. An entry has a checksum; one that is damaged is
    dropped, and its vector made anew. A file that is no database any more is replaced. Where the disk is full or can't be
    written, encoding goes on without the cache, with one logged warning.

    Args:
        folder: made if it is missing; may be deleted at any time that nobody uses it.
        max_bytes: size that the file may reach; beyond it, a tenth of the entries goes, those first that were not asked for
            the longest.

    Attributes:
        hits: vectors that were found, since this object was made.
        misses: vectors that were not.

    Raises:
        EncodeError: ``max_bytes`` is less than 1 MB.
    """

    def __init__(self, folder: Path | str, *, max_bytes: int = 1 << 30) -> None:
        if max_bytes < _LEAST_BYTES:
            raise EncodeError(f"A cache needs max_bytes of {_LEAST_BYTES} or more; got {max_bytes}.")
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._warned = False
        self._lock = threading.RLock()
        self._open: dict[int, sqlite3.Connection] = {}  # by process: a connection must not be used after a fork

    def find(self, keys: Sequence[bytes], dimension: int) -> dict[bytes, Vectors]:
        """Look up vectors.

        Args:
            keys: which; one may come twice.
            dimension: length of the vectors.

        Returns:
            ``(dimension,)`` float32 by key, for those that are there.
        """
        wanted = list(dict.fromkeys(keys))
        entries = self._use("read", lambda database: _entries(database, wanted)) or {}
        found = {key: vector for key, blob in entries.items() if (vector := _unpack(key, blob, dimension)) is not None}
        damaged = entries.keys() - found.keys()
        if entries:
            self._use("written", lambda database: _note_use(database, found, damaged))
        with self._lock:
            hits = sum(key in found for key in keys)
            self.hits += hits
            self.misses += len(keys) - hits
        return found

    def keep(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Write vectors, and drop the oldest entries if the cache gets too large."""
        entries = {key: _pack(key, vector) for key, vector in vectors.items()}
        self._use("written", lambda database: _write(database, entries, self.max_bytes))

    def clear(self) -> None:
        """Drop every entry."""
        self._use("written", lambda database: database.execute("DELETE FROM vectors"))

    def close(self) -> None:
        """Close the file; it is opened again when it is next needed."""
        with self._lock:
            connection = self._open.pop(os.getpid(), None)
            if connection is not None:
                connection.close()

    def __len__(self) -> int:
        """Number of entries."""
        return self._use("read", _count) or 0

    def _use(self, done: str, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Do some work on the file, one thread at a time; None if the file is at fault, which is logged."""
        with self._lock:
            try:
                return work(self._connection())
            except (sqlite3.OperationalError, OSError) as error:
                level = logging.DEBUG if self._warned else logging.WARNING
                self._warned = True
                _LOG.log(level, "%s can't be %s: %s. Encoding goes on without it.", self.folder / _FILE, done, error)
            except sqlite3.DatabaseError as error:
                _LOG.warning("%s is damaged (%s) and is made anew.", self.folder / _FILE, error)
                with suppress(sqlite3.Error, OSError):
                    self.close()
                    self._replace()
        return None

    def _connection(self) -> sqlite3.Connection:
        process = os.getpid()
        if process not in self._open:
            self.folder.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.folder / _FILE, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(_TABLES)
            except BaseException:
                connection.close()
                raise
            self._open[process] = connection
        return self._open[process]

    def _replace(self) -> None:
        """Delete a damaged file, unless another process has done so already."""
        with FileLock(self.folder / f"{_FILE}.lock", timeout=_WAIT):
            try:
                if self._connection().execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    return
            except sqlite3.DatabaseError:
                pass
            self.close()
            for ending in ("", "-wal", "-shm"):
                (self.folder / f"{_FILE}{ending}").unlink(missing_ok=True)


class CachedEncoder(Encoder):
    """An encoder that looks in a cache before it encodes.

    The key is the encoder's fingerprint, whether it is a query, and the content: the text, the picture's size and pixels, the
    recording's rate and samples. A vector out of the cache equals the first one bit for bit. Only what is encoded sends
    events. An item that comes twice in a call is encoded once.

    Args:
        encoder: makes what is not there.
        cache: an `EmbeddingCache`, or the folder of one.

    Example:
        >>> encoder = CachedEncoder(ClipImageEncoder(ClipEmbedding()), "vectors")
    """

    events: Events = "none"

    def __init__(self, encoder: Encoder, cache: EmbeddingCache | Path | str) -> None:
        self.encoder = encoder
        self.cache = cache if isinstance(cache, EmbeddingCache) else EmbeddingCache(cache)
        self.payload = encoder.payload
        self.dimension = encoder.dimension
        self.fingerprint = encoder.fingerprint
        self.batch_size = encoder.batch_size

    @spanned
    def encode(self, items: Sequence[Any], *, query: bool = False) -> Vectors:
        """Like `Encoder.encode`; new vectors are kept after each batch."""
        if not len(items):
            return np.zeros((0, self.dimension), dtype=np.float32)
        self._check_items(items)
        keys = self._keys(items, query=query)
        found = self.cache.find(keys, self.dimension)
        missing = _missing(keys, items, found)
        for at in range(0, len(missing), self.batch_size):
            some = missing[at : at + self.batch_size]
            vectors = self.encoder.encode([item for _, item in some], query=query)
            made = {key: vector for (key, _), vector in zip(some, vectors, strict=True)}
            self.cache.keep(made)
            found |= made
        return np.stack([found[key] for key in keys])

    @spanned
    async def aencode(self, items: Sequence[Any], *, query: bool = False) -> Vectors:
        """Like `Encoder.aencode`; all that is missing is encoded at once, as the model's own workers and limits allow."""
        if not len(items):
            return np.zeros((0, self.dimension), dtype=np.float32)
        self._check_items(items)
        keys = await asyncio.to_thread(self._keys, items, query=query)
        found = await asyncio.to_thread(self.cache.find, keys, self.dimension)
        missing = _missing(keys, items, found)
        if missing:
            vectors = await self.encoder.aencode([item for _, item in missing], query=query)
            made = {key: vector for (key, _), vector in zip(missing, vectors, strict=True)}
            await asyncio.to_thread(self.cache.keep, made)
            found |= made
        return np.stack([found[key] for key in keys])

    def release(self) -> None:
        """Free the memory of the encoder's model; the cache stays."""
        self.encoder.release()

    def _encode(self, items: Sequence[Any], *, query: bool) -> NDArray[Any]:
        return self.encode(items, query=query)

    def _keys(self, items: Sequence[Any], *, query: bool) -> list[bytes]:
        about = f"{self.fingerprint}\x1f{self.payload}\x1f{query}\x1f".encode()
        return [hashlib.blake2b(about + payload_digest(item), digest_size=32).digest() for item in items]


def payload_digest(item: object) -> bytes:
    """BLAKE2b of what an encoder takes: 32 bytes, equal for equal content. Three times as fast as SHA-256 on pictures.

    Args:
        item: a str, bytes, PIL image, `Waveform`, `Mesh`, NumPy array, or a list of these.

    Raises:
        EncodeError: it is none of these.
    """
    if isinstance(item, list | tuple):
        return _digest("list", *map(payload_digest, item))
    if isinstance(item, str):
        return _digest("text", item.encode("utf-8", "surrogatepass"))
    if isinstance(item, bytes):
        return _digest("bytes", item)
    if isinstance(item, Image.Image):
        colours = (item.getpalette("RGBA"), item.info.get("transparency")) if item.mode in ("P", "PA") else ()
        return _digest(f"image {item.mode} {item.size} {colours}", item.tobytes())
    if isinstance(item, Waveform):
        return _digest(f"audio {item.rate}", payload_digest(np.asarray(item.samples)))
    if isinstance(item, Mesh):
        return _digest("mesh", payload_digest(np.asarray(item.vertices)), payload_digest(np.asarray(item.faces)))
    if isinstance(item, np.ndarray) and not item.dtype.hasobject:
        return _digest(f"array {item.dtype.str} {item.shape}", item.tobytes())
    raise EncodeError(
        f"Expected a text, bytes, a PIL image, a Waveform, a Mesh, an array or a list of these to cache its vector, "
        f"got {type(item).__name__}. Use the encoder without a cache."
    )


def _digest(kind: str, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(f"{kind}\x1f{len(parts)}\x1f".encode(), digest_size=32)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _missing(keys: Sequence[bytes], items: Sequence[Any], found: Mapping[bytes, Vectors]) -> list[tuple[bytes, Any]]:
    """Each key that was not found, once, with its item."""
    return [(key, item) for key, item in dict(zip(keys, items, strict=True)).items() if key not in found]


def _pack(key: bytes, vector: Vectors) -> bytes:
    body = np.asarray(vector, dtype="<f4").tobytes()
    return zlib.crc32(key + body).to_bytes(4, "little") + body


def _unpack(key: bytes, blob: object, dimension: int) -> Vectors | None:
    """The vector of an entry; None if it is damaged."""
    if not isinstance(blob, bytes) or len(blob) != 4 + 4 * dimension:
        return None
    if zlib.crc32(key + blob[4:]) != int.from_bytes(blob[:4], "little"):
        return None
    return np.frombuffer(blob, dtype="<f4", offset=4).astype(np.float32)


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _entries(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    for at in range(0, len(keys), _AT_ONCE):
        some = keys[at : at + _AT_ONCE]
        marks = ",".join("?" * len(some))
        found.update(database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some).fetchall())  # noqa: S608
    return found


def _note_use(database: sqlite3.Connection, found: Iterable[bytes], damaged: Iterable[bytes]) -> None:
    with _transaction(database):
        now = _now(database)
        database.executemany("UPDATE vectors SET used = ? WHERE key = ?", [(now, key) for key in found])
        database.executemany("DELETE FROM vectors WHERE key = ?", [(key,) for key in damaged])


def _write(database: sqlite3.Connection, entries: Mapping[bytes, bytes], max_bytes: int) -> None:
    with _transaction(database):
        now = _now(database)
        rows = [(key, now, blob) for key, blob in entries.items()]
        database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
    while _size(database) > max_bytes and (count := _count(database)):
        with _transaction(database):
            oldest = "SELECT key FROM vectors ORDER BY used LIMIT ?"
            database.execute(f"DELETE FROM vectors WHERE key IN ({oldest})", [count // _SHARE + 1])  # noqa: S608


def _count(database: sqlite3.Connection) -> int:
    (count,) = database.execute("SELECT count(*) FROM vectors").fetchone()
    return int(count)


def _now(database: sqlite3.Connection) -> int:
    """A running number that orders uses."""
    (last,) = database.execute("SELECT coalesce(max(used), 0) FROM vectors").fetchone()
    return int(last) + 1


def _size(database: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    (pages,), (free,), (page,) = (
        database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int(pages - free) * int(page)
