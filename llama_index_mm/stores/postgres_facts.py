"""Nodes as the rows that PostgreSQL takes.

PostgreSQL has texts without the character NUL and without halves of surrogate pairs, and JSON without NaN and infinity. Ids and
paths are written so that they can be read back; metadata for filters as `facts` says.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llama_index.core.schema import BaseNode, MetadataMode

from llama_index_mm.stores.facts import as_number, as_text, row_digest
from llama_index_mm.stores.rows import Row

__all__ = ["Prepared", "as_json", "facts_json", "from_stored", "prepare", "to_stored"]

_STRANGE = re.compile("[\x00\x01\ud800-\udfff]")
_STORED = re.compile("\x01(\x01|\x02|\x03[0-9a-f]{4})")
_SHORT = {"\x00": "\x01\x01", "\x01": "\x01\x02"}  # which sort as what they stand for
_LONG = {short: character for character, short in _SHORT.items()}
_EXACT = 2.0**53  # floats from here on are whole numbers; up to the next they are compared with integers
_FLOATS = 2.0**64
_CONTENT = ("text", "text_resource")


def to_stored(text: str) -> str:
    """A text as PostgreSQL takes it; `from_stored` undoes it."""
    if _STRANGE.search(text) is None:
        return text
    return _STRANGE.sub(lambda found: _SHORT.get(found[0]) or f"\x01\x03{ord(found[0]):04x}", text)


def from_stored(text: str) -> str:
    """Undo `to_stored`."""
    if "\x01" not in text:
        return text
    return _STORED.sub(lambda found: _LONG.get(found[0]) or chr(int(found[0][2:], 16)), text)


def as_json(value: Any) -> Any:
    """A value of metadata as filters compare it, ready for `json.dumps`.

    true is 1 and false 0, as in Python. NaN, which equals nothing, becomes an empty object, and infinity the largest number.
    Large floats become integers, so that PostgreSQL, which compares decimals, finds them equal to the same integer.
    """
    if isinstance(value, str):
        return to_stored(as_text(value))
    if isinstance(value, int | float):
        if value != value:
            return {}
        number = as_number(value)
        return int(number) if _EXACT <= abs(number) < _FLOATS else number
    if isinstance(value, list):
        return [as_json(one) for one in value]
    if isinstance(value, dict):
        return {to_stored(as_text(str(name))): as_json(one) for name, one in value.items()}
    return value


def facts_json(metadata: Mapping[str, Any], ref_doc_id: str | None) -> tuple[str, str | None]:
    """What filters look at: the metadata as JSON, and texts in lower case where PostgreSQL would not get that right.

    null is left out, and of an object nothing is kept but that it is there.

    Args:
        metadata: as it comes back from JSON.
        ref_doc_id: id of the node's document.
    """
    facts: dict[str, Any] = {}
    folded: dict[str, str] = {}
    for name, value in metadata.items():
        if value is None:
            continue
        key = to_stored(as_text(name))
        facts[key] = {} if isinstance(value, dict) else as_json(value)
        if isinstance(value, str) and not value.isascii():
            folded[key] = to_stored(as_text(value).lower())
    if ref_doc_id is not None and not ref_doc_id.isascii():
        folded["ref_doc_id"] = to_stored(as_text(ref_doc_id).lower())
    return _dumps(facts), _dumps(folded) if folded else None


class Prepared(NamedTuple):
    """A node with what else of it is written.

    Attributes:
        row: the node.
        digest: of its body.
        facts: for filters, as JSON.
        folded: texts of it in lower case, as JSON; None if there is no need.
        text: its text.
        described: metadata as LlamaIndex's `PGVectorStore` has it, as JSON; the node's number is still to come.
    """

    row: Row
    digest: int
    facts: str
    folded: str | None
    text: str
    described: str

    def numbered(self, seq: int) -> str:
        """The metadata with the node's number in it."""
        return f'{self.described[:-1]}, "mm_seq": {seq}}}'


def prepare(row: Row, node: BaseNode) -> Prepared:
    """Everything that is written of a node, apart from its number and its vectors."""
    fields: dict[str, Any] = json.loads(row.body)
    metadata = fields["metadata"]
    facts, folded = facts_json(metadata, row.ref_doc_id)
    content = {name: "" if name == "text" else value for name, value in fields.items() if name != "text_resource"}
    document = to_stored(row.ref_doc_id or "None")
    described = {
        **_sound(metadata),
        "_node_content": _ascii({**content, "embedding": None}),
        "_node_type": row.class_name,
        "document_id": document,
        "doc_id": document,
        "ref_doc_id": document,
        "mm_modality": row.modality,
    }
    text = to_stored(node.get_content(metadata_mode=MetadataMode.NONE))
    return Prepared(row, row_digest(row.body.encode()), facts, folded, text, _dumps(described))


def _sound(value: Any) -> Any:
    """A value as PostgreSQL takes it, otherwise as it is."""
    if isinstance(value, str | float):
        return as_json(value) if isinstance(value, str) or value - value != 0 else value
    if isinstance(value, list):
        return [_sound(one) for one in value]
    if isinstance(value, dict):
        return {to_stored(as_text(name)): _sound(one) for name, one in value.items()}
    return value


_dumps = json.JSONEncoder(ensure_ascii=False).encode
_ascii = json.JSONEncoder().encode
