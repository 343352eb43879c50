"""Nodes of other stores and retrievers, as what they are."""

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_mm.nodes import retype

__all__ = ["RetypeNodes"]


class RetypeNodes(BaseNodePostprocessor):
    """Give media nodes their class back where another vector store, docstore or retriever gave them out as plain nodes.

    Example:
        >>> engine = VectorStoreIndex.from_vector_store(chroma).as_query_engine(node_postprocessors=[RetypeNodes()])
    """

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "RetypeNodes"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        return [NodeWithScore(node=retype(found.node), score=found.score) for found in nodes]
