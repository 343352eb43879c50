"""Tables of the store."""

__all__ = ["SCHEMA", "VERSION"]

VERSION = 1

# ``seq`` is never used twice (AUTOINCREMENT): an id in a FAISS index can't come to mean another node.
# ``metadata`` is what filters look at: that of ``body`` again, as strict JSON.
# ``revision`` of a partition counts its changes; a FAISS index in memory that has another one is built anew.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE spaces (name TEXT PRIMARY KEY, dimension INTEGER NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE nodes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    node_id TEXT NOT NULL UNIQUE,
    ref_doc_id TEXT,
    modality TEXT NOT NULL,
    class TEXT NOT NULL,
    metadata TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX nodes_by_document ON nodes (ref_doc_id);
CREATE INDEX nodes_by_modality ON nodes (modality);
CREATE TABLE vectors (
    space TEXT NOT NULL REFERENCES spaces (name),
    modality TEXT NOT NULL,
    seq INTEGER NOT NULL REFERENCES nodes (seq) ON DELETE CASCADE,
    vector BLOB NOT NULL,
    PRIMARY KEY (space, modality, seq)
) WITHOUT ROWID;
CREATE INDEX vectors_by_node ON vectors (seq);
CREATE TABLE partitions (
    space TEXT NOT NULL, modality TEXT NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (space, modality)
);
CREATE TABLE sources (
    path TEXT PRIMARY KEY,
    document_id TEXT,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX sources_by_document ON sources (document_id);
"""
