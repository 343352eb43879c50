"""Connections to a PostgreSQL server, and what is done when one is lost.

What a store does is written once, as a plan: a generator that yields statements and is sent their rows. A plan is one
transaction. `Connections.run` carries it out over psycopg2, and `Connections.arun` over asyncpg.
"""

import asyncio
import io
import itertools
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from weakref import WeakKeyDictionary

from llama_index_mm._optional import require
from llama_index_mm.errors import StoreError
from llama_index_mm.stores.postgres_tries import Tries, is_lost

__all__ = ["Address", "Connections", "Copy", "Plan", "Statement", "read_address"]

T = TypeVar("T")
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_CONNECT = 5  # seconds in which a server must answer
# A client lets go of a server that is gone without a word, as when a machine loses its power.
_KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
_SOCKET = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}  # the same for asyncpg
_OURS = ("connect_", "keepalives", "tcp_user_timeout")  # parameters of libpq that asyncpg does not know
# A server lets go of a client that is gone, and of the lock that it holds.
_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "120000",
    "client_encoding": "UTF8",
    "application_name": "llama-index-mm",
}
_POOL = 4
_MORE = 8  # connections beyond those that are kept


class Statement(NamedTuple):
    """A statement of SQL, with ``?`` for each value."""

    sql: str
    values: tuple[Any, ...] = ()


class Copy(NamedTuple):
    """Rows to add to a table, in PostgreSQL's binary format."""

    schema: str
    table: str
    columns: tuple[str, ...]
    data: bytes


Plan = Generator[Statement | Copy, list[Any], T]


_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d{1,5})?")


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        url: for libpq and asyncpg, with the password.
        schema: of the database.
        name: the address without the password, by which the store is opened again.
        hosts: for messages.
    """

    url: str
    schema: str
    name: str
    hosts: str


def read_address(url: str, schema: str | None, default: str) -> Address:
    """Take an address apart.

    Args:
        url: ``postgresql://user:password@host1:5432,host2:5432/database?schema=photos``; other parameters are libpq's.
        schema: which counts more than that of the url.
        default: schema if there is none.

    Raises:
        StoreError: it is no such address.
    """
    expected = "Expected an address such as postgresql://user:password@host:5432/database"
    try:
        url.encode()
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        readable = parts.fragment == "" and "#" not in url and not _BARE_PERCENT.search(url)
        readable = readable and "@" not in parts.path + parts.query
        readable = readable and all(map(_HOST.fullmatch, parts.netloc.rpartition("@")[2].split(",")))
    except ValueError:
        readable = False
    if not readable:  # what came may be a part of the password
        raise StoreError(
            f"{expected}, got one that can't be read. Signs such as @ : / ? # % in a name or a password are written as %XX "
            "(urllib.parse.quote)."
        )
    if parts.scheme not in ("postgresql", "postgres"):
        raise StoreError(f"{expected}, got one that begins with {parts.scheme + ':'!r}.")
    user, at, hosts = parts.netloc.rpartition("@")
    hosts = hosts or given.get("host", "")
    chosen = schema or given.pop("schema", None) or default
    given.pop("schema", None)
    if re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", chosen) is None:
        raise StoreError(f"Expected a schema of lower-case letters, digits and _, up to 41 of them, got {chosen!r}.")
    if "," in hosts:
        given.setdefault("target_session_attrs", "read-write")
    shown = {name: value for name, value in given.items() if name not in ("password", "sslpassword", "passfile")}
    if chosen != default:
        shown["schema"] = chosen
    own = user.partition(":")[0] + at + parts.netloc.rpartition("@")[2]
    whole, name = _joined(parts.netloc, parts.path, given), _joined(own, parts.path, shown)
    return Address(whole, chosen, name, hosts or "the local socket")


def _joined(place: str, path: str, parameters: Mapping[str, str]) -> str:
    told = urlencode(parameters, quote_via=quote, safe="/,")
    return f"postgresql://{place}{path}{'?' if told else ''}{told}"


class Connections:
    """A small pool of connections to one server, or to whichever of several can be written.

    Args:
        address: of the server.
        patience: seconds for which lost connections are tried again.

    Raises:
        MissingExtraError: the extra ``postgres`` is not installed.
    """

    def __init__(self, address: Address, patience: float) -> None:
        require("llama_index.vector_stores.postgres", extra="postgres")
        self.address = address
        self.patience = patience
        self._answered = ""  # the host that an asynchronous connection was last made to
        self._psycopg2: ModuleType = require("psycopg2", extra="postgres")
        self._asyncpg: ModuleType = require("asyncpg", extra="postgres")
        sqlalchemy = require("sqlalchemy", extra="postgres")
        self._drivers: tuple[type[BaseException], ...] = (
            self._psycopg2.OperationalError,
            self._psycopg2.InterfaceError,
            self._asyncpg.InterfaceError,
            self._asyncpg.InternalClientError,
            OSError,
            TimeoutError,
            asyncio.TimeoutError,
        )
        self._expected = (*self._drivers, self._psycopg2.Error, sqlalchemy.exc.SQLAlchemyError, self._asyncpg.PostgresError)
        self._idle: dict[asyncio.AbstractEventLoop, tuple[AsyncGenerator[list[Any], None], list[Any]]] = {}
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self.engine: Any = sqlalchemy.create_engine(
            "postgresql+psycopg2://",
            creator=self._connect,
            pool_size=_POOL,
            max_overflow=_MORE,
            pool_reset_on_return=None,
        )

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()
        for loop, (_, idle) in list(self._idle.items()):
            while idle and not loop.is_closed():
                loop.call_soon_threadsafe(idle.pop().terminate)

    # -- one connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        connection = self._psycopg2.connect(
            self.address.url,
            connect_timeout=_CONNECT,
            options=" ".join(f"-c {name}={value}" for name, value in _SETTINGS.items()),
            **_KEEPALIVES,
        )
        connection.autocommit = True  # transactions are begun by statements, as in asyncpg
        return connection

    async def aconnect(self) -> Any:
        """A connection of asyncpg; it belongs to whoever asks for it.

        Each host has as long as with psycopg2; the one that answered last is asked first.
        """
        parts = urlsplit(self.address.url)
        given = {name: value for name, value in parse_qsl(parts.query) if not name.startswith(_OURS)}
        user, at, hosts = parts.netloc.rpartition("@")
        settings = {name: value for name, value in _SETTINGS.items() if name != "client_encoding"}
        failed: BaseException | None = None
        for host in sorted(hosts.split(","), key=lambda one: one != self._answered):
            url = _joined(f"{user}{at}{host}", parts.path, given)
            try:
                connection = await self._asyncpg.connect(
                    url, timeout=_CONNECT, server_settings=settings, statement_cache_size=0
                )
            except self._expected as error:
                if not is_lost(error, self._drivers):
                    raise
                failed = error
            else:
                self._answered = host
                _keep_alive(connection._transport.get_extra_info("socket"))
                return connection
        raise failed or OSError("no host in the address")

    async def _taken(self) -> Any:
        """A connection for the running event loop, from those that are idle if there are any."""
        idle = self._idle.get(asyncio.get_running_loop(), (None, []))[1]
        while idle:
            connection = idle.pop()
            if not connection.is_closed():
                return connection
        return await self.aconnect()

    async def _given_back(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        if connection.is_closed():
            return
        if loop not in self._idle:
            keeper = self._keep(loop)
            self._idle[loop] = (keeper, await anext(keeper))
        idle = self._idle[loop][1]
        if len(idle) < _POOL:
            idle.append(connection)
        else:
            await connection.close()

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[list[Any], None]:
        """Holds idle connections. An event loop that ends closes its generators, and this one closes them."""
        idle: list[Any] = []
        try:
            yield idle
        finally:
            self._idle.pop(loop, None)
            for connection in idle:
                await connection.close(timeout=_CONNECT)

    # -- plans ------------------------------------------------------------------------------------------------------

    def run(self, make: Callable[[], Plan[T]], *, write: bool = False) -> T:
        """Carry out a plan in one transaction; once more if the connection was lost or others were in the way.

        Args:
            make: gives the plan anew.
            write: whether it changes anything.

        Raises:
            StoreError: the server can't be reached for as long as one is patient, or refuses.
        """
        tries = self._tries()
        while True:
            try:
                return self._run(make(), write)
            except self._expected as error:
                time.sleep(tries.pause(error))

    async def arun(self, make: Callable[[], Plan[T]], *, write: bool = False) -> T:
        """Like `run`."""
        tries = self._tries()
        gate = self._gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_POOL + _MORE))
        while True:
            try:
                async with gate:
                    return await self._arun(make(), write)
            except self._expected as error:
                await asyncio.sleep(tries.pause(error))

    def _tries(self) -> Tries:
        # What is left in the pool may lead to a server that is no longer the one to write to.
        return Tries(self.address.hosts, self.patience, self._drivers, self.close)

    def _run(self, plan: Plan[T], write: bool) -> T:
        connection = self.engine.raw_connection()
        try:
            with connection.cursor() as cursor:
                try:
                    begin = _WRITE if write else _READ
                    rows: list[Any] | None = None
                    while True:
                        try:
                            wanted = plan.send(rows) if rows is not None else next(plan)
                        except StopIteration as done:
                            if rows is not None:
                                cursor.execute("COMMIT")
                            return done.value  # type: ignore[no-any-return]
                        if isinstance(wanted, Copy) and begin:
                            cursor.execute(begin)
                            begin = ""
                        rows = _execute(cursor, wanted, begin)
                        begin = ""
                except BaseException:
                    plan.close()
                    if connection.dbapi_connection.closed:
                        connection.invalidate()
                    else:
                        _rolled_back(cursor, connection)
                    raise
        finally:
            connection.close()

    async def _arun(self, plan: Plan[T], write: bool) -> T:
        connection = await self._taken()
        try:
            await connection.execute(_WRITE if write else _READ)
            rows: list[Any] | None = None
            while True:
                try:
                    wanted = plan.send(rows) if rows is not None else next(plan)
                except StopIteration as done:
                    await connection.execute("COMMIT")
                    return done.value  # type: ignore[no-any-return]
                rows = await _aexecute(connection, wanted)
        except BaseException:
            plan.close()
            connection.terminate()
            raise
        finally:
            await self._given_back(connection)


def _keep_alive(found: Any) -> None:
    """Do for a socket of asyncpg what libpq does for its own."""
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET.items():
        if hasattr(socket, name):  # not on every system
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _rolled_back(cursor: Any, connection: Any) -> None:
    try:
        cursor.execute("ROLLBACK")
    except Exception:
        connection.invalidate()


def _execute(cursor: Any, wanted: Statement | Copy, begin: str = "") -> list[Any]:
    """The rows of a statement; ``begin`` goes to the server along with it, so that it is not waited for."""
    if isinstance(wanted, Copy):
        columns = ", ".join(wanted.columns)
        sql = f'COPY "{wanted.schema}"."{wanted.table}" ({columns}) FROM STDIN (FORMAT binary)'
        cursor.copy_expert(sql, io.BytesIO(wanted.data))
        return []
    sql = wanted.sql.replace("?", "%s")
    cursor.execute(f"{begin}; {sql}" if begin else sql, wanted.values or None)
    return cursor.fetchall() if cursor.description else []


async def _aexecute(connection: Any, wanted: Statement | Copy) -> list[Any]:
    if isinstance(wanted, Copy):
        await connection.copy_to_table(
            wanted.table,
            schema_name=wanted.schema,
            columns=list(wanted.columns),
            source=io.BytesIO(wanted.data),
            format="binary",
        )
        return []
    numbers = itertools.count(1)
    sql = re.sub(r"\?", lambda _: f"${next(numbers)}", wanted.sql)
    return list(await connection.fetch(sql, *wanted.values))
