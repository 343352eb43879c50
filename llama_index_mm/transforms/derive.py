"""Nodes made from a document's node."""

from llama_index.core.schema import NodeRelationship

from llama_index_mm.nodes import MediaNode

__all__ = ["derived"]


def derived(node: MediaNode, *, part: str, text: str | None = None, **facts: str | int | float | bool | None) -> MediaNode:
    """Give a part of a document's node, or the whole with more known of it.

    The id is made of the document's id and the part, so the same file gives the same ids every time.

    Args:
        node: the node of the document, or a node that was derived from it.
        part: tells the parts of one document apart.
        text: replaces the text; None keeps it.
        **facts: further ``mm_`` entries.
    """
    fresh = node.with_facts(text=text, **facts)
    if node.source_node is None:
        fresh.relationships[NodeRelationship.SOURCE] = node.as_related_node_info()
        fresh.id_ = f"{node.node_id}:{part}"
    return fresh
