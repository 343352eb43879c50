"""The SQLite file of a store: connections, transactions, and who may write."""

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llama_index_mm.errors import StoreError, StoreLockedError
from llama_index_mm.media.files import INDEX_FILE
from llama_index_mm.stores.filters import register_functions
from llama_index_mm.stores.schema import IDENTIFY, MIGRATIONS, PAGE_SIZE, VERSION, statements

__all__ = ["Database"]

logger = logging.getLogger(__name__)

_LOCK_FILE = "writer.lock"
_IDLE = 4  # connections kept for further reading
_WAIT = 10.0  # seconds for SQLite's own short locks
_CACHE_KB = 32_768  # of pages, for the connection that writes
_WAL_LIMIT = 64 * 2**20  # bytes that the write-ahead log keeps after a large transaction


class Database:
    """One writer, many readers, over threads and processes.

    Whoever writes first holds the right to write until it is closed. Readers see what was committed when they began.

    Args:
        folder: of the store; made if it is missing.
        create: whether to start a new database where there is none.

    Raises:
        StoreError: there is none, it is damaged, or of a version that can't be read.
        StoreLockedError: it is of an older version, and somebody else is writing, so that it can't be brought up to date.
    """

    def __init__(self, folder: Path, *, create: bool) -> None:
        self.path = folder / INDEX_FILE
        self._guard = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._write_lock = threading.RLock()
        self._file_lock = FileLock(folder / _LOCK_FILE, timeout=0, thread_local=False)
        self._closed = False
        if not self.path.is_file() and not create:
            raise StoreError(f"There is no index in {folder} (no {INDEX_FILE}). Make one with: llama-index-mm ingest")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            first = self._connect()
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(f"{self.path} can't be opened as a store: {error}. Is the folder writable?") from error
        try:
            version = self._prepare(first)
            if version != VERSION:
                first.close()
                self._migrate(version)
                first = self._connect()
                first.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.DatabaseError as error:
            first.close()
            self.close()
            if "locked" in str(error) or "readonly" in str(error):
                raise StoreError(
                    f"{self.path} can't be opened now: {error}. Is another process writing, or is it read-only?"
                ) from error
            raise StoreError(
                f"{self.path} can't be opened as a store: {error}. Restore it from a copy, or index again."
            ) from error
        except BaseException:
            first.close()
            self.close()
            raise
        self._idle.append(first)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=_WAIT)
        register_functions(connection)
        return connection

    def _prepare(self, database: sqlite3.Connection) -> int:
        """Make the tables of a new store; give the version of the one that is there, if it can be brought up to date."""
        if not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            database.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("BEGIN IMMEDIATE")
            if not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():  # nobody came first
                for statement in statements():
                    database.execute(statement)
                database.execute("INSERT INTO meta VALUES ('version', ?)", [str(VERSION)])
                database.execute(IDENTIFY)
            database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")
        row = database.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        version = int(row[0]) if row and row[0].isdecimal() else None
        if version is None or (version != VERSION and version not in MIGRATIONS):
            raise StoreError(
                f"{self.path} is a store of version {row[0] if row else '?'}; this package reads version {VERSION}. "
                "Index again."
            )
        return version

    def _migrate(self, version: int) -> None:
        """Bring the tables of an older store up to date, while no other connection of this handle is open."""
        try:
            with self.writing() as database:
                found = int(database.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()[0])
                for step in range(found, VERSION):
                    MIGRATIONS[step](database)
                database.execute("UPDATE meta SET value = ? WHERE key = 'version'", [str(VERSION)])
            with self.writer() as database:
                for statement in ("PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {PAGE_SIZE}", "VACUUM"):
                    database.execute(statement).fetchall()  # pages keep their size while there is a log
        except StoreError as error:
            locked = isinstance(error, StoreLockedError) or "locked" in str(error.__cause__)
            why = "somebody else is writing it" if locked else str(error.__cause__)
            raise (StoreLockedError if locked else StoreError)(
                f"{self.path} is a store of version {version} and can't be brought up to version {VERSION} now: {why}. "
                "It is as it was."
            ) from error
        except sqlite3.OperationalError as error:  # somebody is reading, or the disk is nearly full
            logger.info("%s keeps the size of its pages: %s.", self.path, error)
        finally:
            self.give_up_writing()

    # -- reading ----------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment: everything read within belongs together."""
        with self._guard:
            if self._closed:
                raise StoreError(f"The store in {self.path.parent} is closed. Open it again.")
            connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._connect()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path} can't be read: {error}.") from error
        ended = False
        try:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
            ended = True
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path} can't be read: {error}. Run: llama-index-mm check") from error
        finally:
            with self._guard:
                keep = ended and not self._closed and len(self._idle) < _IDLE
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        with self.reading() as connection:
            return connection.execute(sql, values).fetchall()

    # -- writing ----------------------------------------------------------------------------------------------------

    @property
    def is_writer(self) -> bool:
        """Whether this is the handle that may write."""
        return self._writer is not None

    @contextmanager
    def writer(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, for one thread at a time.

        Raises:
            StoreLockedError: another handle, here or in another process, has written and is still open.
        """
        with self._write_lock:
            if self._closed:
                raise StoreError(f"The store in {self.path.parent} is closed. Open it again.")
            if self._writer is None:
                try:
                    self._file_lock.acquire()
                except Timeout as error:
                    raise StoreLockedError(
                        f"{self.path.parent} is being written by another handle, in this process or in another one. Only one "
                        "may write: close that one first, or write through it. Reading goes on."
                    ) from error
                except OSError as error:
                    raise StoreError(f"{self.path.parent} can't be written: {error}.") from error
                try:
                    self._writer = self._connect()
                    self._writer.execute("PRAGMA foreign_keys = ON")
                    self._writer.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
                    self._writer.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
                except sqlite3.DatabaseError as error:
                    self.give_up_writing()
                    raise StoreError(f"{self.path} can't be written: {error}.") from error
            yield self._writer

    @contextmanager
    def briefly(self) -> Iterator[None]:
        """The right to write, given up again unless it was there before.

        Raises:
            StoreLockedError: as in `writer`.
        """
        with self._write_lock:
            before = self.is_writer
            with self.writer():
                try:
                    yield
                finally:
                    if not before:
                        self.give_up_writing()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: there whole afterwards, or, after any error or the death of the process, not at all.

        Raises:
            StoreLockedError: as in `writer`.
            StoreError: the disk is full or fails, or the file is damaged.
        """
        with self.writer() as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
            except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
                raise
            except sqlite3.DatabaseError as error:
                raise StoreError(f"{self.path} was not changed: {error}. Nothing of this call is stored.") from error
            finally:
                if database.in_transaction:  # SQLite may have rolled back by itself, when the disk is full for one
                    database.execute("ROLLBACK")

    def give_up_writing(self) -> None:
        """Let somebody else write."""
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
            self._writer = None
            self._file_lock.release()

    def close(self) -> None:
        """Close all connections and give up the right to write."""
        self.give_up_writing()
        with self._guard:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
