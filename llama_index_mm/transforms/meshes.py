"""Views and facts of meshes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode

from llama_index_mm.embeddings.base import fingerprint
from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.media.decode import RenderedMesh
from llama_index_mm.nodes import MeshMedia
from llama_index_mm.transforms.base import MediaTransform
from llama_index_mm.transforms.derive import derived

__all__ = ["DescribeMeshes"]


class DescribeMeshes(MediaTransform):
    """Render six views of every mesh and write its facts into its text. Nodes of other modalities pass through.

    What a pipeline caches points to files that were kept, so the place where they are kept is part of the cache key: another
    store, or a new one in the same folder, gets views of its own.

    Args:
        keep: takes the bytes of a file and its ending, keeps them and gives the path; as `MediaStore.media_path` does.
        fingerprint: of the place, if ``keep`` is no method of a store; see `MediaTransform`.
    """

    def __init__(self, keep: Callable[[bytes, str], Path], **options: Any) -> None:
        super().__init__(keep, own=_place(keep), **options)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "DescribeMeshes"

    def _transform(self, node: BaseNode, loaded: Loaded) -> list[BaseNode]:
        return [self._describe(node, loaded.mesh(node))] if isinstance(node, MeshMedia) else [node]

    def _describe(self, node: MeshMedia, mesh: RenderedMesh) -> BaseNode:
        facts = mesh.facts
        text = node.text if node.text != node.title else f"{node.title}. {facts}."
        return derived(
            node,
            part="0",
            text=text,
            views=str(self._tool(mesh.sheet, ".png").resolve()),
            vertices=facts.vertices,
            faces=facts.faces,
            closed=facts.closed,
            size_x=round(facts.size[0], 6),
            size_y=round(facts.size[1], 6),
            size_z=round(facts.size[2], 6),
        )


def _place(keep: Callable[[bytes, str], Path]) -> str:
    """What tells one folder of views from another; "" if ``keep`` does not say where it is."""
    owner = getattr(keep, "__self__", None)
    folder = getattr(owner, "folder", None)
    return fingerprint("views", getattr(owner, "identity", ""), Path(folder).resolve()) if folder else ""
