"""Pictures, sounds and meshes of an index, ready for a browser: found by the id of a node, never by a path."""

import json
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from llama_index.core.schema import BaseNode

from llama_index_mm.agents.allowed import AllowedFiles
from llama_index_mm.agents.shown import medium_of
from llama_index_mm.display.embed import Embedder, OverBudget
from llama_index_mm.nodes import MediaNode, MeshMedia, modality_of_node
from llama_index_mm.server.web_errors import RefusedError
from llama_index_mm.server.web_kept import Kept
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.stores import NodeStore

__all__ = ["Form", "MediaDesk", "Ready", "address_of", "span_of"]

Form = Literal["picture", "sound", "mesh"]
"""In what form a node can be had; a mesh has two."""

_FORMS: dict[str, tuple[Form, ...]] = {"image": ("picture",), "audio": ("sound",), "mesh": ("picture", "mesh"), "text": ()}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MESH_BYTES = 4_000_000  # more than a simplified mesh ever takes


@dataclass(frozen=True)
class Ready:
    """Bytes for a browser.

    Attributes:
        data: always encoded anew; never the bytes of a file.
        mimetype: of ``data``.
    """

    data: bytes
    mimetype: str


def address_of(node: BaseNode, form: Form) -> str | None:
    """Where a node is had in a form; None if it is not."""
    if not isinstance(node, MediaNode) or form not in _FORMS[modality_of_node(node)]:
        return None
    return f"/api/media/{form}/{quote(node.node_id, safe='')}"


def span_of(given: str | None, size: int) -> tuple[int, int] | None:
    """First byte, and the one after the last, that a ``Range`` header asks for; None for all of them.

    Headers that are not understood, or ask for several ranges, count as none, as RFC 9110 allows.

    Raises:
        RefusedError: the range begins behind the end.
    """
    found = _RANGE.fullmatch((given or "").strip().replace(" ", "")) if len(given or "") < 100 else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last n bytes
        first, stop = max(0, size - int(found[2])), size
    else:
        first, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < first:
            return None
    if first >= size or first >= stop:
        raise RefusedError(416, f"There are {size:,} bytes; the range begins behind them.")
    return first, stop


class MediaDesk:
    """Makes the media of nodes ready, and keeps what was asked for lately.

    Args:
        store: whose nodes are shown.
        limits: on what is made and kept.
    """

    def __init__(self, store: NodeStore, limits: WebLimits) -> None:
        self.allowed = AllowedFiles(store)
        self._limits = limits
        self._kept: Kept[Ready] = Kept(limits.kept_media_bytes)

    def node(self, node_id: str) -> BaseNode:
        """The node of the index with this id.

        Raises:
            RefusedError: there is none.
        """
        node = self.allowed.node(node_id)
        if node is None:
            raise RefusedError(404, f"There is no result with the id {node_id[:80]!r}.")
        return node

    def ready(self, form: Form, node_id: str) -> Ready:
        """A node's picture or views, the sound of its span, or its mesh.

        Raises:
            RefusedError: there is no such node, it is not to be had in this form, or its file is gone or has changed.
            DecodeError: its file can't be read.
        """
        node = self.node(node_id)
        if not isinstance(node, MediaNode) or form not in _FORMS[modality_of_node(node)]:
            raise RefusedError(404, f"{node_id[:80]!r} has no {form}; it is of the kind {modality_of_node(node)}.")
        if not self.allowed.unchanged(node):
            raise RefusedError(404, "The file is gone or has changed since it was indexed.")
        key = f"{form} {node.digest} {node_id}"
        made = self._kept.get(key)
        if made is None:
            made = self._made(form, node)
            self._kept.put(key, made, len(made.data))
        return made

    def _made(self, form: Form, node: MediaNode) -> Ready:
        if form == "mesh" and isinstance(node, MeshMedia):
            try:
                solid = Embedder(_MESH_BYTES).solid(node.path)
            except OverBudget:
                raise RefusedError(413, "The mesh is too large to be turned in a page.") from None
            told = {"data": solid.data, "vertices": solid.vertices, "faces": solid.faces}
            return Ready(json.dumps(told).encode(), "application/json")
        medium = medium_of(node, side=self._limits.side, seconds=self._limits.sound_seconds)
        if medium is None:
            raise RefusedError(404, "There is nothing to show.")
        return Ready(medium.data, medium.mimetype)
