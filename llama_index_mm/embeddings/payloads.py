"""From a node, or a part of a query, to what an encoder takes."""

from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode
from PIL import Image

from llama_index_mm.embeddings.base import Payload
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import load_audio, load_image, load_mesh, render_views, split_sheet
from llama_index_mm.nodes import AudioMedia, MediaNode, MeshMedia

__all__ = ["file_payload", "node_payload"]


def node_payload(node: BaseNode, payload: Payload) -> Any:
    """Load what an encoder of this payload takes from a node.

    Returns:
        str, PIL image, `Waveform`, or list of PIL images.

    Raises:
        DecodeError: the node's file can't be decoded.
        EncodeError: the node has nothing of this kind.
    """
    if payload == "text":
        text = node.get_content(metadata_mode=MetadataMode.EMBED).strip()
        if not text:
            raise EncodeError(f"Node {node.node_id} has no text to encode.")
        return text
    if isinstance(node, AudioMedia) and payload == "audio":
        return load_audio(node.path, start=node.start, end=node.end)
    if isinstance(node, MeshMedia) and payload == "views" and node.views is not None and node.views.is_file():
        return split_sheet(load_image(node.views))
    if isinstance(node, MediaNode):
        return file_payload(node.path, payload)
    raise EncodeError(f"Node {node.node_id} ({type(node).__name__}) has no {payload} to encode.")


def file_payload(path: Path | str, payload: Payload) -> Any:
    """Load what an encoder of this payload takes from a file.

    Raises:
        DecodeError: the file can't be decoded.
    """
    if payload == "image":
        return load_image(path)
    if payload == "audio":
        return load_audio(path)
    if payload == "views":
        views: list[Image.Image] = render_views(load_mesh(path))
        return views
    return Path(path).read_text(encoding="utf-8")
