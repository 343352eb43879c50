"""Meshes by their views: every view is a picture, and the mesh is the mean of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.base import Encoder, Payload, fingerprint
from llama_index_mm.embeddings.events import Events
from llama_index_mm.media.views import VIEWS

__all__ = ["ViewsEncoder"]


class ViewsEncoder(Encoder):
    """Mean of the picture vectors of a mesh's views, scaled to unit length (multi-view pooling, Su et al. 2015).

    Args:
        images: encoder of pictures; the mesh lands in its space.
    """

    payload: Payload = "views"
    batch_size = 4
    events: Events = "none"

    def __init__(self, images: Encoder) -> None:
        self.images = images
        self.dimension = images.dimension
        self.fingerprint = fingerprint("views", VIEWS, images.fingerprint)

    def release(self) -> None:
        """Free the memory of the picture encoder's model."""
        self.images.release()

    def _encode(self, items: Sequence[list[Image.Image]], *, query: bool) -> NDArray[Any]:
        every = self.images.encode([view for views in items for view in views], query=query)
        ends = np.cumsum([len(views) for views in items])
        return np.stack([part.mean(0) for part in np.split(every, ends[:-1])])
