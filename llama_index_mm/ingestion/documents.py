"""LlamaIndex's own documents as media nodes."""

import base64
from pathlib import Path

from llama_index.core.schema import BaseNode, ImageDocument, ImageNode, MediaResource, Node, TextNode

from llama_index_mm.errors import DecodeError
from llama_index_mm.nodes import PREFIX, MediaNode, retype
from llama_index_mm.readers.media import document_of
from llama_index_mm.stores import NodeStore

__all__ = ["as_media"]


def as_media(document: BaseNode, store: NodeStore) -> BaseNode:
    """Turn LlamaIndex's own nodes that hold an image or a sound into media nodes; others are given back as they are.

    Raises:
        DecodeError: the media is neither a local file nor in memory.
    """
    document = retype(document)  # of a cache or another store
    if isinstance(document, MediaNode) or (isinstance(document, TextNode) and not isinstance(document, ImageNode)):
        return document
    if isinstance(document, ImageNode):
        path = document.image_path or document.metadata.get("file_path")
        data = base64.b64decode(document.image) if document.image and not path else None
    elif isinstance(document, ImageDocument) and document.image_resource is None:
        path, data = document.metadata.get("file_path"), None
    elif isinstance(document, Node) and (resource := document.image_resource or document.audio_resource):
        path, data = _file_or_bytes(resource)
    else:
        return document
    if path is None and data is None:
        raise DecodeError(f"Document {document.node_id} has media by URL only; download it first and give the file.")
    suffix = ".wav" if isinstance(document, Node) and document.audio_resource else ".png"
    file = store.media_path(data, suffix) if data is not None else Path(str(path))
    own = {key: value for key, value in document.metadata.items() if not key.startswith(PREFIX)}
    made = document_of(file, name=str(own["file_name"]) if own.get("file_name") else None)
    if not isinstance(made, MediaNode):
        raise DecodeError(f"Document {document.node_id}: {file.name} is no picture and no sound.")
    text = document.get_content().strip()
    fresh = made.with_facts(text=text or None)
    fresh.metadata.update(own)
    fresh.id_ = document.node_id
    return fresh


def _file_or_bytes(resource: MediaResource) -> tuple[str | None, bytes | None]:
    if resource.path is not None:
        return str(resource.path), None
    if resource.data is None:
        return None, None
    return None, base64.b64decode(resource.data)
