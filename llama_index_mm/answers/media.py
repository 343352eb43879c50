"""What of a node an LLM is given besides its text."""

from pathlib import Path
from typing import Literal, TypeAlias

from llama_index.core.schema import BaseNode, ImageNode, Node, TextNode

from llama_index_mm.errors import MediaError
from llama_index_mm.media import load_audio
from llama_index_mm.nodes import TEXT_ONLY, AudioMedia, MediaNode, MeshMedia, modality_of_node

__all__ = ["Medium", "as_text", "is_gone", "medium_of", "seconds_of"]

Medium: TypeAlias = Literal["image", "audio"]
"""A kind of content block; views of a mesh are an image."""


def medium_of(node: BaseNode) -> Medium | None:
    """What the node's content blocks hold besides text; None for texts, and for media that are given as text."""
    if node.metadata.get(TEXT_ONLY) or (isinstance(node, MeshMedia) and node.views is None):
        return None
    modality = modality_of_node(node)
    return "audio" if modality == "audio" else None if modality == "text" else "image"


def is_gone(node: BaseNode) -> bool:
    """Whether the file that an LLM would be shown is no longer there; the text has to do then."""
    if isinstance(node, MeshMedia):
        return node.views is None or not (node.views.is_file() or node.path.is_file())  # views can be rendered anew
    if isinstance(node, MediaNode):
        return not node.path.is_file()
    held = (node.image_resource, node.audio_resource, node.video_resource) if isinstance(node, Node) else ()
    paths = [one.path for one in held if one is not None and one.path is not None]
    if isinstance(node, ImageNode) and node.image_path:
        paths.append(Path(node.image_path))
    return not all(path.is_file() for path in paths)


def as_text(node: BaseNode) -> BaseNode:
    """Make a copy's content blocks text alone; an `ImageNode`, which knows no other way, becomes a `TextNode`."""
    node.metadata[TEXT_ONLY] = True
    for hidden in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
        if TEXT_ONLY not in hidden:
            hidden.append(TEXT_ONLY)
    if isinstance(node, ImageNode):
        return TextNode(**{name: getattr(node, name) for name in TextNode.model_fields if hasattr(node, name)})
    if isinstance(node, Node) and not isinstance(node, MediaNode):
        node.image_resource = node.audio_resource = node.video_resource = None
    return node


def seconds_of(node: BaseNode) -> float:
    """Seconds of sound that an LLM would be given; 0 where that can't be told."""
    if not isinstance(node, AudioMedia):
        return 0.0
    end = node.end if node.end is not None else node.seconds
    if end is not None:
        return max(0.0, float(end) - float(node.start or 0.0))
    try:
        return float(load_audio(node.path, start=node.start).seconds)
    except MediaError:
        return 0.0
