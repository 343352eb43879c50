"""The tables of a store in PostgreSQL, and rows for them.

====================  ============================================================================================
``meta``              the store's own notes
``spaces``            embedding spaces, by name and number
``sources``           files, and what became of them
``nodes``             every node once: its body as JSON, and ``facts``, its metadata as filters compare it
``media``             files that belong to the store, named by their digest
``partitions``        how many vectors there are in each (space, modality), and how they are searched; nodes are space 0
``data_space_<n>``    one space, as LlamaIndex's `PGVectorStore` has it; ``id`` is the number of the node
====================  ============================================================================================
"""

import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from llama_index_mm.embeddings.base import Vectors
from llama_index_mm.errors import StoreError
from llama_index_mm.stores.postgres_connections import Copy, Plan, Statement

__all__ = [
    "NODE_COLUMNS",
    "SPACE_COLUMNS",
    "Tables",
    "as_big",
    "as_matrix",
    "as_vector_text",
    "identity_of",
    "integer",
    "jsonb",
    "lock",
    "make_tables",
    "space_statements",
    "tables_are_missing",
]

FORMAT = 1
NODE_COLUMNS = ("seq", "node_id", "ref_doc_id", "modality", "class", "digest", "body", "facts", "folded")
SPACE_COLUMNS = ("id", "text", "metadata_", "node_id", "embedding", "mm_modality", "mm_digest")
_INLINE = 1900  # dimensions of a vector that fits into a page together with its row
_PGVECTOR = (0, 8)


class Tables:
    """Names of the tables in a schema."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        named = [f'"{schema}".{name}' for name in ("meta", "spaces", "sources", "nodes", "media", "partitions")]
        self.meta, self.spaces, self.sources, self.nodes, self.media, self.partitions = named

    def space(self, number: int) -> str:
        """The table of a space."""
        return f'"{self.schema}".data_space_{number}'

    def index(self, number: int, modality: str) -> str:
        """Name of the approximate index of a partition."""
        return f"data_space_{number}_{modality}_hnsw"

    def copy(self, table: str, columns: tuple[str, ...], rows: Iterable[Sequence[bytes | None]]) -> Copy:
        """Rows to add, of which every field is in the binary format of its type."""
        return Copy(self.schema, table, columns, _binary(rows))


def lock(tables: Tables, what: str = "write") -> Statement:
    """Wait until nobody else writes to the store, and be the one until the end of the transaction.

    One lock for all: nobody waits for somebody who waits for him, and numbers of nodes ascend as they become visible.
    """
    return Statement("SELECT pg_advisory_xact_lock(?, ?)", (_signed("llama_index_mm"), _signed(f"{tables.schema} {what}")))


def _signed(text: str) -> int:
    return zlib.crc32(text.encode()) - 2**31


def tables_are_missing(tables: Tables) -> Plan[bool]:
    """Whether there is no store in the schema."""
    rows = yield Statement("SELECT to_regclass(?) IS NULL", (tables.meta,))
    return bool(rows[0][0])


def identity_of(tables: Tables, name: str) -> Plan[str]:
    """See that there is a store of a format that is known, and give its identity.

    Raises:
        StoreError: there is none, or it is of another format.
    """
    if (yield from tables_are_missing(tables)):
        raise StoreError(f"There is no store in schema {tables.schema!r} of {name}. Index something into it first.")
    rows = yield Statement(f"SELECT key, value FROM {tables.meta} WHERE key IN ('format', 'identity')")
    notes = dict(map(tuple, rows))
    if notes.get("format") != str(FORMAT):
        raise StoreError(
            f"The store in {name} has format {notes.get('format', 'unknown')}, this package reads {FORMAT}. "
            "Use the version of llama-index-mm that made it."
        )
    return str(notes["identity"])


def make_tables(tables: Tables, identity: str) -> Plan[None]:
    """Make those tables that are missing.

    Raises:
        StoreError: the database can't hold them.
    """
    ((encoding,),) = yield Statement("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise StoreError(
            f"Expected a database of encoding UTF8, got {encoding}. Make one: CREATE DATABASE ... ENCODING 'UTF8'."
        )
    yield lock(tables)
    yield from _extension()
    yield from _schema(tables)
    for statement in _statements(tables):
        yield Statement(statement)
    for note in (("format", str(FORMAT)), ("identity", identity)):
        yield Statement(f"INSERT INTO {tables.meta} VALUES (?, ?) ON CONFLICT DO NOTHING", note)


def _extension() -> Plan[None]:
    rows = yield Statement("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if not rows:
        raise StoreError(
            "PostgreSQL lacks the extension pgvector. Install it on the server: https://github.com/pgvector/pgvector"
        )
    rows = yield Statement("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if not rows:
        yield from _may_create("EXTENSION vector")
        yield Statement("CREATE EXTENSION IF NOT EXISTS vector")
        rows = yield Statement("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    version = tuple(int(part) for part in rows[0][0].split(".")[:2])
    if version < _PGVECTOR:
        raise StoreError(f"Expected pgvector 0.8 or later, got {rows[0][0]}. Run: ALTER EXTENSION vector UPDATE")


def _schema(tables: Tables) -> Plan[None]:
    """Make the schema, for which a role needs more rights than for tables in one that is there."""
    rows = yield Statement("SELECT 1 FROM pg_namespace WHERE nspname = ?", (tables.schema,))
    if not rows:
        yield from _may_create(f"SCHEMA {tables.schema} AUTHORIZATION", of_role=True)
        yield Statement(f'CREATE SCHEMA IF NOT EXISTS "{tables.schema}"')


def _may_create(what: str, *, of_role: bool = False) -> Plan[None]:
    """See that the role may make schemas and extensions in the database."""
    sql = "SELECT has_database_privilege(current_database(), 'CREATE'), quote_ident(current_user), current_database()::text"
    ((may, role, database),) = yield Statement(sql)
    if not may:
        command = f"CREATE {what} {role}" if of_role else f"CREATE {what}"
        raise StoreError(f"Role {role} may not create anything in database {database!r}. Let its owner run there: {command}")


def _statements(tables: Tables) -> list[str]:
    return [
        f"CREATE TABLE IF NOT EXISTS {tables.meta} (key text PRIMARY KEY, value text NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS {tables.spaces} (number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "name text NOT NULL UNIQUE, dimension integer NOT NULL, fingerprint text NOT NULL, normalize boolean NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS {tables.partitions} (space integer NOT NULL, modality text NOT NULL, "
        "vectors bigint NOT NULL, candidates integer, told text, built bigint, PRIMARY KEY (space, modality))",
        f"CREATE TABLE IF NOT EXISTS {tables.sources} (path text PRIMARY KEY, document_id text, digest text NOT NULL, "
        "status text NOT NULL, reason text NOT NULL)",
        f"CREATE INDEX IF NOT EXISTS sources_document_id ON {tables.sources} (document_id)",
        f"CREATE INDEX IF NOT EXISTS sources_status ON {tables.sources} (status)",
        f"CREATE TABLE IF NOT EXISTS {tables.nodes} (seq bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "
        "node_id text NOT NULL UNIQUE, ref_doc_id text, modality text NOT NULL, class text NOT NULL, digest bigint NOT NULL, "
        "body text NOT NULL, facts jsonb NOT NULL, folded jsonb)",
        f"CREATE INDEX IF NOT EXISTS nodes_ref_doc_id ON {tables.nodes} (ref_doc_id)",
        f"CREATE INDEX IF NOT EXISTS nodes_modality ON {tables.nodes} (modality, seq)",
        f"CREATE INDEX IF NOT EXISTS nodes_facts ON {tables.nodes} USING gin (facts jsonb_path_ops)",
        f"CREATE TABLE IF NOT EXISTS {tables.media} (name text PRIMARY KEY, bytes bytea NOT NULL)",
        f"ALTER TABLE {tables.media} ALTER COLUMN bytes SET STORAGE EXTERNAL",  # media are compressed already
    ]


def space_statements(tables: Tables, number: int, dimension: int) -> list[str]:
    """The table of a space, with the columns that LlamaIndex's `PGVectorStore` reads."""
    table = tables.space(number)
    return [
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, text varchar NOT NULL, metadata_ jsonb, "
        f"node_id varchar NOT NULL UNIQUE, embedding vector({dimension}) NOT NULL, mm_modality text NOT NULL, "
        "mm_digest bigint NOT NULL)",
        f"ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE {'PLAIN' if dimension <= _INLINE else 'EXTERNAL'}",
        f"CREATE INDEX data_space_{number}_modality ON {table} (mm_modality, id)",
    ]


# -- binary ------------------------------------------------------------------------------------------------------------


def integer(value: int) -> bytes:
    """A bigint."""
    return struct.pack(">q", value)


def jsonb(text: str) -> bytes:
    """JSON; its format has a version in front."""
    return b"\x01" + text.encode()


def as_big(vector: bytes) -> bytes:
    """A vector of float32 in this machine's order as pgvector sends and takes it."""
    return struct.pack(">hh", len(vector) // 4, 0) + np.frombuffer(vector, np.float32).astype(">f4").tobytes()


def as_matrix(sent: Sequence[bytes], dimension: int) -> Vectors:
    """Vectors as pgvector sends them: ``(n, d)`` float32."""
    joined = b"".join(bytes(one)[4:] for one in sent)
    return np.ascontiguousarray(np.frombuffer(joined, ">f4").reshape(len(sent), dimension).astype(np.float32))


def as_vector_text(vector: Vectors) -> str:
    """A vector as pgvector reads it; no digit is lost."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _binary(rows: Iterable[Sequence[bytes | None]]) -> bytes:
    parts = [b"PGCOPY\n\xff\r\n\0", struct.pack(">ii", 0, 0)]
    for row in rows:
        parts.append(struct.pack(">h", len(row)))
        for value in row:
            if value is None:
                parts.append(b"\xff\xff\xff\xff")
            else:
                parts += (struct.pack(">i", len(value)), value)
    parts.append(b"\xff\xff")
    return b"".join(parts)
