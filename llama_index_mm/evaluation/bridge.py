"""LlamaIndex's own evaluators over retrievers that find media."""

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_mm.evaluation.judgments import Identity, check_identity, item_of

__all__ = ["ItemRetriever"]


class ItemRetriever(BaseRetriever):
    """Gives what another retriever finds as text nodes whose ids are the items that judgments name, each item once.

    LlamaIndex's `RetrieverEvaluator` reads ``.text`` of what is found, which LlamaIndex allows for text nodes only: over a
    picture it raises. It takes words to ask with, and compares ids.

    Args:
        retriever: any LlamaIndex retriever.
        by: what items are called by; see `item_of`.

    Example:
        >>> evaluator = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=ItemRetriever(retriever))
        >>> evaluator.evaluate(query="a boat", expected_ids=["boat.jpg"])
    """

    def __init__(self, retriever: BaseRetriever, by: Identity = "file_name") -> None:
        check_identity(by)
        super().__init__()
        self._retriever = retriever
        self._by = by

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._items(self._retriever.retrieve(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._items(await self._retriever.aretrieve(query_bundle))

    def _items(self, found: list[NodeWithScore]) -> list[NodeWithScore]:
        best: dict[str, NodeWithScore] = {}
        for result in found:
            item = item_of(result.node, self._by)
            if item not in best:
                text = TextNode(id_=item, text=result.node.get_content(), metadata=dict(result.node.metadata))
                best[item] = NodeWithScore(node=text, score=result.score)
        return list(best.values())
