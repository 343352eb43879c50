"""Tables of the store, and how older ones become today's."""

import json
import sqlite3
from collections.abc import Callable

from llama_index_mm.stores.facts import insert_facts, row_digest

__all__ = ["IDENTIFY", "MIGRATIONS", "PAGE_SIZE", "SEQ_BITS", "VERSION", "statements"]

VERSION = 2
PAGE_SIZE = 16384  # bytes; a vector of 1,024 numbers fits a page four times, in SQLite's usual 4 KB not once
SEQ_BITS = 40  # of a vector's key; those above are the partition's

# ``seq`` is never used twice (AUTOINCREMENT), and what a node says never changes under it: a changed node gets a new one.
# ``facts`` are the entries of a node's metadata, for filters: kind 1 text, 2 number, 3 list, 4 anything else. null is left out.
# ``changes`` says which nodes of a partition came, went or got another vector; FAISS indexes are brought up to date by it. It
# lists the changes after ``listed_after``; earlier ones are in a checkpoint.
# ``checkpoints`` are the FAISS files on disk: what they hold is the partition after change ``change``.
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE spaces (
    name TEXT PRIMARY KEY, dimension INTEGER NOT NULL, fingerprint TEXT NOT NULL, normalize INTEGER NOT NULL
);
CREATE TABLE nodes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node_id TEXT NOT NULL UNIQUE,
    ref_doc_id TEXT,
    modality TEXT NOT NULL,
    class TEXT NOT NULL,
    digest INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX nodes_by_document ON nodes (ref_doc_id);
CREATE INDEX nodes_by_modality ON nodes (modality);
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE facts (
    name INTEGER NOT NULL REFERENCES names (id),
    kind INTEGER NOT NULL,
    value NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (name, kind, value, seq)
) WITHOUT ROWID;
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    space TEXT NOT NULL REFERENCES spaces (name),
    modality TEXT NOT NULL,
    change INTEGER NOT NULL,
    vectors INTEGER NOT NULL,
    listed_after INTEGER NOT NULL DEFAULT 0,
    UNIQUE (space, modality)
);
CREATE TABLE vectors (key INTEGER PRIMARY KEY, digest INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE TABLE changes (change INTEGER PRIMARY KEY AUTOINCREMENT, partition INTEGER NOT NULL, seqs BLOB NOT NULL);
CREATE INDEX changes_by_partition ON changes (partition, change);
CREATE TABLE checkpoints (
    partition INTEGER PRIMARY KEY REFERENCES partitions (id),
    change INTEGER NOT NULL,
    vectors INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    approximate TEXT
);
CREATE TABLE sources (
    path TEXT PRIMARY KEY,
    document_id TEXT,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX sources_by_document ON sources (document_id)
"""


# By which a store is known, wherever it is moved.
IDENTIFY = "INSERT OR IGNORE INTO meta VALUES ('identity', lower(hex(randomblob(8))))"


def statements() -> list[str]:
    """The statements of the schema, one by one, so that they can be part of a transaction."""
    return [one for one in _SCHEMA.split(";") if one.strip()]


def _from_1(database: sqlite3.Connection) -> None:
    """Version 1 kept metadata as JSON in ``nodes``, and vectors under (space, modality, seq)."""
    database.execute(IDENTIFY)
    for table in ("nodes", "vectors", "spaces", "partitions", "sources"):
        database.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
    for index in ("nodes_by_document", "nodes_by_modality", "vectors_by_node", "sources_by_document"):
        database.execute(f"DROP INDEX {index}")
    for statement in statements():
        if "TABLE meta" not in statement:
            database.execute(statement)
    database.execute("INSERT INTO spaces SELECT name, dimension, fingerprint, 1 FROM spaces_1")
    database.execute("INSERT INTO sources SELECT path, document_id, digest, status, reason FROM sources_1")
    for row in database.execute("SELECT seq, node_id, ref_doc_id, modality, class, body FROM nodes_1 ORDER BY seq"):
        *rest, body = row
        database.execute("INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?)", [*rest, row_digest(body.encode()), body])
        insert_facts(database, [(row[0], json.loads(body)["metadata"])])
    highest = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'nodes_1'").fetchone()
    if highest:
        database.execute("DELETE FROM sqlite_sequence WHERE name = 'nodes'")
        database.execute("INSERT INTO sqlite_sequence VALUES ('nodes', ?)", highest)
    database.execute(
        "INSERT INTO partitions (space, modality, change, vectors) "
        "SELECT space, modality, 0, count(*) FROM vectors_1 GROUP BY space, modality"
    )
    rows = database.execute(
        "SELECT p.id, v.seq, v.vector FROM vectors_1 AS v JOIN partitions AS p USING (space, modality) ORDER BY p.id, v.seq"
    )
    for partition, seq, vector in rows:
        database.execute("INSERT INTO vectors VALUES (?, ?, ?)", [partition << SEQ_BITS | seq, row_digest(vector), vector])
    for table in ("vectors", "nodes", "spaces", "partitions", "sources"):
        database.execute(f"DROP TABLE {table}_1")


# What to do with a store of each older version to bring it one version further, within one transaction.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1}
