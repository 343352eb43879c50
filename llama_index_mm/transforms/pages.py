"""Documents into their pages."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode, Document, NodeRelationship, TransformComponent

from llama_index_mm.media.pages import PAGE_BREAK
from llama_index_mm.nodes import PREFIX
from llama_index_mm.readers.media import PAGE_LABELS, PAGES

__all__ = ["PAGE", "SplitPages"]

PAGE = PREFIX + "page"  # the n-th of the file, from 1
_LABEL = "page_label"  # LlamaIndex's own key
_ABOUT_ALL = (PAGES, PAGE_LABELS)


class SplitPages(TransformComponent):
    """Make a document of every page of a PDF, so that what is cut from it never runs over two pages.

    A page has the label that the PDF gives it as ``page_label``, which LLMs are shown and embeddings are not, and its place,
    from 1, as ``mm_page``. Its source is the whole document, and so is that of nodes that LlamaIndex's splitters make of it.
    Pages with nothing but white space are left out. Nodes of other kinds pass through.
    """

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "SplitPages"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Split every document that has pages."""
        return [page for node in nodes for page in (_split(node) if PAGES in node.metadata else [node])]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Like calling it, off the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)


def _split(node: BaseNode) -> list[BaseNode]:
    texts = node.get_content().split(PAGE_BREAK)
    labels = json.loads(node.metadata.get(PAGE_LABELS, "[]"))
    if len(labels) != len(texts):
        labels = [str(at + 1) for at in range(len(texts))]
    own = {key: value for key, value in node.metadata.items() if key not in _ABOUT_ALL}
    return [
        Document(
            id_=f"{node.node_id}:p{at + 1}",
            text=text,
            metadata={**own, _LABEL: label, PAGE: at + 1},
            excluded_embed_metadata_keys=[*node.excluded_embed_metadata_keys, _LABEL, PAGE],
            excluded_llm_metadata_keys=[*node.excluded_llm_metadata_keys, PAGE],
            relationships={NodeRelationship.SOURCE: node.as_related_node_info()},
        )
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
        if text.strip()
    ]
