"""Files that belong to a store in PostgreSQL: kept in a table, and in a folder of this machine where they are needed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from llama_index.core.schema import BaseNode

from llama_index_mm.errors import StoreError
from llama_index_mm.media import digest_bytes
from llama_index_mm.stores.media_folder import MediaFolder
from llama_index_mm.stores.postgres_connections import Plan, Statement
from llama_index_mm.stores.postgres_tables import Tables

__all__ = ["PostgresMedia"]

_LARGEST = 2**30 - 2**16  # bytes of one value in PostgreSQL
_BATCH = 16  # files fetched at once


class PostgresMedia(MediaFolder):
    """A table of files, named by their digests, with a folder beside it that holds some of them.

    Args:
        tables: of the store.
        folder: for the files.
        name: of the store, for messages.
    """

    def __init__(self, tables: Tables, folder: Path, name: str) -> None:
        super().__init__(folder)
        self._tables = tables
        self._name = name
        self._stored: set[str] = set()

    def unpack(self, body: str, class_name: str) -> BaseNode:
        """Undo `pack`.

        Raises:
            StoreError: it is not what `pack` gave.
        """
        try:
            return super().unpack(body, class_name)
        except StoreError as error:
            raise StoreError(str(error).replace(str(self.store_folder), self._name)) from error.__cause__

    def store(self, paths: Iterable[Path]) -> Plan[list[str]]:
        """Write files of the folder into the table; give the names of those that it has then."""
        wanted = {path.name: path for path in paths if path.name not in self._stored}
        if not wanted:
            return []
        rows = yield Statement(f"SELECT name FROM {self._tables.media} WHERE name = ANY(CAST(? AS text[]))", (list(wanted),))
        there = {row[0] for row in rows}
        for name, path in sorted(wanted.items()):
            if name not in there and path.is_file():
                data = path.read_bytes()
                if len(data) > _LARGEST:
                    raise StoreError(f"{path} has {len(data)} bytes; a file in PostgreSQL has at most {_LARGEST}.")
                yield Statement(f"INSERT INTO {self._tables.media} VALUES (?, ?) ON CONFLICT DO NOTHING", (name, data))
                there.add(name)
        return sorted(there)

    def stored(self, names: Iterable[str]) -> None:
        """Remember which files the table has, once that is sure."""
        self._stored.update(names)

    def fetch(self, paths: Sequence[Path]) -> Plan[None]:
        """Bring those files of the folder that are not there from the table, if it has them."""
        lacking = sorted({path.name for path in paths if not path.is_file()})
        for at in range(0, len(lacking), _BATCH):
            sql = f"SELECT name, bytes FROM {self._tables.media} WHERE name = ANY(CAST(? AS text[]))"
            for name, data in (yield Statement(sql, (lacking[at : at + _BATCH],))):
                if digest_bytes(bytes(data)) == name.partition(".")[0]:  # else it is for `check` to tell
                    self.keep(bytes(data), name[name.find(".") :] if "." in name else "")

    def place(self, digest: str) -> Plan[Path | None]:
        """The file with this content, None if there is none."""
        if digest:
            sql = f'SELECT name FROM {self._tables.media} WHERE name COLLATE "C" >= ? AND name COLLATE "C" < ? ORDER BY name'
            rows = yield Statement(sql, (digest, f"{digest}~"))
            yield from self.fetch([self.folder / digest[:2] / row[0] for row in rows])
        return self.find(digest)
