"""What the transforms of this package share: typed input, an honest cache key, and pickling that loses nothing."""

import asyncio
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, PrivateAttr
from llama_index.core.schema import BaseNode, TransformComponent

from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.errors import ModelError
from llama_index_mm.nodes import retype

__all__ = ["MediaTransform"]


class MediaTransform(TransformComponent):
    """Base of the transforms of media nodes.

    LlamaIndex's pipelines cache by the text and metadata of the nodes that go in and by the fields of the transform. A model is
    no field, so its ``fingerprint`` is: pipelines with different models never share an entry. Nodes that come out of a cache
    as plain `Node` get their media class back before they are worked on.

    Args:
        tool: the model, or whatever else the transform works with and can't write down; None for none.
        own: what tells one tool from another; default is its attribute ``fingerprint``.
        fingerprint: the same, for tools that have none of their own. For those a random one is made if none is given, which no
            other transform shares.

    Raises:
        ModelError: the fingerprint is not that of the tool.
    """

    fingerprint: str = ""
    _tool: Any = PrivateAttr(default=None)

    def __init__(self, tool: Any = None, *, own: str | None = None, fingerprint: str = "", **options: Any) -> None:
        own = str(getattr(tool, "fingerprint", "")) if own is None else own
        options["fingerprint"] = _identify(type(self).__name__, tool, own, fingerprint)
        super().__init__(**options)
        self._tool = tool

    def __getstate__(self) -> dict[str, Any]:
        """Everything; LlamaIndex's own way leaves out what can't be pickled, and workers would run without the tool."""
        return BaseModel.__getstate__(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Everything; LlamaIndex's own way makes the transform anew, without the tool."""
        BaseModel.__setstate__(self, state)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Transform nodes; those of other modalities pass through.

        Args:
            nodes: to transform.
            **kwargs: ``loaded``, a `Loaded` with what of their media is decoded already.

        Raises:
            DecodeError: a media file can't be decoded.
        """
        return self._transform_all([retype(node) for node in nodes], kwargs.get("loaded") or Loaded())

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Like calling it, off the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _transform_all(self, nodes: Sequence[BaseNode], loaded: Loaded) -> list[BaseNode]:
        """What becomes of nodes, with their media classes."""
        return [out for node in nodes for out in self._transform(node, loaded)]

    @abstractmethod
    def _transform(self, node: BaseNode, loaded: Loaded) -> list[BaseNode]:
        """What becomes of one node, with its media class."""


def _identify(name: str, tool: Any, own: str, told: str) -> str:
    """The fingerprint of a tool."""
    if tool is None:
        if told:
            raise ModelError(
                f"This {name} was made with {told!r}, which can't be written down with it. Give it that again; "
                f"for example {name}.from_dict(data, <argument>=...)."
            )
        return ""
    if own and told and own != told:
        raise ModelError(f"Expected a tool of fingerprint {told!r} for {name}, got {own!r}. Give that one, or no fingerprint.")
    return own or told or uuid.uuid4().hex
