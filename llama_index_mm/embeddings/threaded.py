"""The async half of a LlamaIndex embedding that runs in this process."""

import asyncio

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding

__all__ = ["ThreadedEmbedding"]


class ThreadedEmbedding(BaseEmbedding):
    """Runs the sync methods of a subclass in a thread, so that its async twins never block the event loop."""

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
