"""What went wrong with a PostgreSQL server, and whether it is worth another try."""

import logging
import re
import time
from collections.abc import Callable

from llama_index_mm.errors import StoreError

__all__ = ["Tries", "is_lost"]

logger = logging.getLogger(__name__)

_PAUSES = (0.05, 2.0)  # seconds before the second try, and at most
_AGAIN = {"40001", "40P01", "55006"}  # serialization, deadlock, object in use
_CHANGED = {"42P01"}  # a table that somebody has just dropped
_LOST = {"25006", "57P01", "57P02", "57P03", "57P05", "25P03"}  # a standby; being shut down, or begun; timeouts
_STANDBY = {"25006", "0A000"}  # told to who would write
_READ_ONLY = re.compile("read-only|during recovery|target attribute requirement")
_HOPELESS = re.compile(
    r"authentication failed|no password supplied|password .* (failed|empty)|does not exist|no pg_hba|"
    r"not support SSL|rejected SSL|certificate|not permitted",
    re.IGNORECASE,
)


class Tries:
    """How often something was tried, and whether it is worth another time.

    Args:
        hosts: for messages.
        patience: seconds for which lost connections are tried again.
        drivers: errors of the drivers that they raise where the server has said nothing: then it was the connection.
        lost: called when a connection is lost.
    """

    def __init__(self, hosts: str, patience: float, drivers: tuple[type[BaseException], ...], lost: Callable[[], None]) -> None:
        self._hosts = hosts
        self._patience = patience
        self._drivers = drivers
        self._lost = lost
        self._end = time.monotonic() + patience
        self._count = 0

    def pause(self, error: BaseException) -> float:
        """Seconds to wait before the next try.

        Raises:
            StoreError: there is no use in one.
        """
        self._count += 1
        told, code = _told(error), _code(error)
        pause: float = min(_PAUSES[0] * 2 ** (self._count - 1), _PAUSES[1])
        if code in _CHANGED and self._count < 3:
            return pause
        if code in _AGAIN and time.monotonic() + pause < self._end:
            return pause
        if not is_lost(error, self._drivers):
            hint = " Check user, password and database of the address." if code is None or code[:2] in ("28", "3D") else ""
            raise StoreError(f"PostgreSQL at {self._hosts} refuses: {told}.{hint}") from error
        self._lost()
        if time.monotonic() + pause < self._end:
            if self._count == 1:
                logger.warning("PostgreSQL at %s: %s. Trying for %g s.", self._hosts, told, self._patience)
            return pause
        failed, hint = "reached", "See that the server is running, and that host and port of the address are right."
        if code in _STANDBY or _READ_ONLY.search(told):
            failed = "written"
            hint = "Only a standby answers, which can be read. Promote it, or name the server that it follows in the address."
        raise StoreError(
            f"PostgreSQL at {self._hosts} can't be {failed}: {told}. It was tried for {self._patience:g} s. {hint}"
        ) from error


def is_lost(error: BaseException, drivers: tuple[type[BaseException], ...]) -> bool:
    """Whether it is the connection that failed, and not the statement.

    Args:
        error: of SQLAlchemy, psycopg2, asyncpg or the system.
        drivers: see `Tries`.
    """
    told, code = _told(error), _code(error)
    if code is not None:
        return code in _LOST or code.startswith(("08", "53300")) or (code == "0A000" and "recovery" in told)
    if _HOPELESS.search(told):
        return False
    return isinstance(_inner(error), drivers) or "server closed the connection" in told


def _inner(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _code(error: BaseException) -> str | None:
    """What SQL calls an error, if the server told it."""
    return getattr(_inner(error), "pgcode", None) or getattr(_inner(error), "sqlstate", None)


def _told(error: BaseException) -> str:
    """What an error says, on one line; without the statement, which may hold anything."""
    inner = _inner(error)
    primary = getattr(getattr(inner, "diag", None), "message_primary", None)
    return " ".join(str(primary or inner).split()).rstrip(".") or type(inner).__name__
