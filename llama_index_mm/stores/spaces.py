"""Spaces that go, and spaces that take another's place."""

import sqlite3

from llama_index_mm.stores.schema import SEQ_BITS

__all__ = ["drop_space", "replace_space"]


def drop_space(database: sqlite3.Connection, name: str) -> None:
    """Forget a space with all its vectors; nodes stay. Within a transaction."""
    for (number,) in database.execute("SELECT id FROM partitions WHERE space = ?", [name]).fetchall():
        low, high = number << SEQ_BITS, (number + 1) << SEQ_BITS
        database.execute("DELETE FROM vectors WHERE key >= ? AND key < ?", [low, high])
        for table in ("changes", "checkpoints"):
            database.execute(f"DELETE FROM {table} WHERE partition = ?", [number])
        database.execute("DELETE FROM partitions WHERE id = ?", [number])
    database.execute("DELETE FROM spaces WHERE name = ?", [name])


def replace_space(database: sqlite3.Connection, name: str, by: str) -> None:
    """Give the space ``by`` the name ``name``, in place of the one that had it. Within a transaction."""
    drop_space(database, name)
    database.execute("INSERT INTO spaces SELECT ?, dimension, fingerprint, normalize FROM spaces WHERE name = ?", [name, by])
    database.execute("UPDATE partitions SET space = ? WHERE space = ?", [name, by])
    database.execute("DELETE FROM spaces WHERE name = ?", [by])
