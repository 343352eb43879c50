"""A store by where it is: a folder, or the address of a database."""

import re
from pathlib import Path

from llama_index_mm.errors import StoreError
from llama_index_mm.stores.base import NodeStore
from llama_index_mm.stores.external import VectorStores
from llama_index_mm.stores.store import MediaStore

__all__ = ["is_address", "open_store"]

_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]+:/")
_POSTGRES = re.compile(r"postgres(ql)?://")


def is_address(where: Path | str) -> bool:
    """Whether this is the address of a database, and no folder."""
    return isinstance(where, str) and _ADDRESS.match(where) is not None


def open_store(where: Path | str, *, create: bool = False, vector_stores: VectorStores | None = None) -> NodeStore:
    """Open the store that is there.

    Args:
        where: a folder, or ``postgresql://user:password@host:5432/database``; with several hosts the one that can be written.
        create: start a new store where there is none.
        vector_stores: what searches in place of FAISS; for folders only.

    Raises:
        StoreError: there is no store, it is damaged, or the address is of no kind that is known.
    """
    if isinstance(where, Path) and _POSTGRES.match(where.as_posix().replace(":/", "://", 1)):
        raise StoreError("Expected the address of a database as text, got a Path, which has no place for //.")
    if not is_address(where):
        return MediaStore(where, create=create, vector_stores=vector_stores)
    address = str(where)
    if not _POSTGRES.match(address):
        kind = address.partition(":")[0]
        raise StoreError(f"Expected a folder or an address that begins with postgresql://, got one that begins with {kind}:.")
    if vector_stores is not None:
        raise StoreError("An index in PostgreSQL has its vectors there; vector_stores are for one in a folder.")
    from llama_index_mm.stores.postgres import PostgresStore

    return PostgresStore(address, create=create)
