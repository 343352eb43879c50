"""Views and facts of meshes."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, TransformComponent

from llama_index_mm.media import contact_sheet, image_bytes, load_mesh, render_views
from llama_index_mm.nodes import MeshMedia
from llama_index_mm.transforms.derive import derived

__all__ = ["DescribeMeshes"]


class DescribeMeshes(TransformComponent):
    """Render six views of every mesh and write its facts into its text. Nodes of other modalities pass through.

    Args:
        keep: takes the bytes of a file and its ending, keeps them and gives the path; as `MediaStore.media_path` does.
    """

    _keep: Any = PrivateAttr(default=None)

    def __init__(self, keep: Callable[[bytes, str], Path], **options: Any) -> None:
        super().__init__(**options)
        self._keep = keep

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "DescribeMeshes"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Describe every mesh.

        Raises:
            DecodeError: a mesh can't be read.
        """
        return [self._describe(node) if isinstance(node, MeshMedia) else node for node in nodes]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[BaseNode]:
        """Like calling it, off the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _describe(self, node: MeshMedia) -> BaseNode:
        mesh = load_mesh(node.path)
        facts = mesh.facts()
        sheet = image_bytes(contact_sheet(render_views(mesh)), kind="PNG")
        text = node.text if node.text != node.title else f"{node.title}. {facts}."
        return derived(
            node,
            part="0",
            text=text,
            views=str(self._keep(sheet, ".png").resolve()),
            vertices=facts.vertices,
            faces=facts.faces,
            closed=facts.closed,
            size_x=round(facts.size[0], 6),
            size_y=round(facts.size[1], 6),
            size_z=round(facts.size[2], 6),
        )
