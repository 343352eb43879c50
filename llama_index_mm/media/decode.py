"""One file to all that encoders and LLMs need of it, and that as bytes, so that it can cross from one process to another."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.audio import Waveform, load_audio
from llama_index_mm.media.files import Modality
from llama_index_mm.media.image import PICTURE_SIDE, Picture, image_bytes, load_picture
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.mesh import Mesh, MeshFacts, load_mesh
from llama_index_mm.media.pages import Page, read_pages
from llama_index_mm.media.views import contact_sheet, render_views

__all__ = ["Content", "Pages", "RenderedMesh", "decode_file", "pack", "unpack"]


@dataclass(frozen=True)
class RenderedMesh:
    """A mesh, and how it is seen.

    Attributes:
        mesh: vertices and faces.
        facts: counts and measures.
        views: six RGB pictures, as `render_views` gives them.
        sheet: the six views in one picture, as PNG.
    """

    mesh: Mesh
    facts: MeshFacts
    views: Sequence[Image.Image]
    sheet: bytes


@dataclass(frozen=True)
class Pages:
    """The text of a file with pages.

    Attributes:
        pages: in order.
    """

    pages: tuple[Page, ...]


Content = Picture | Waveform | RenderedMesh | Pages
"""What a file holds, decoded."""


def decode_file(path: Path | str, modality: Modality, limits: MediaLimits = LIMITS) -> Content:
    """Decode a file as far as that goes without a model.

    Pictures are scaled down to `PICTURE_SIDE` pixels, recordings are mono at 16 kHz, meshes are rendered from six sides, and
    of texts with pages the text is taken out.

    Raises:
        DecodeError: the file can't be decoded, or is beyond the limits.
        MissingExtraError: what decodes such files is not installed.
    """
    if modality == "image":
        return load_picture(path, longest=PICTURE_SIDE, limits=limits)
    if modality == "audio":
        return load_audio(path, limits=limits)
    if modality == "text":
        return Pages(tuple(read_pages(Path(path), limits=limits)))
    mesh = load_mesh(path, limits=limits)
    views = render_views(mesh)
    return RenderedMesh(mesh, mesh.facts(), views, image_bytes(contact_sheet(views).convert("L"), kind="PNG"))


def pack(content: Content) -> tuple[dict[str, Any], list[bytes | memoryview]]:
    """Take content apart into what JSON can hold, and bytes."""
    if isinstance(content, Picture):
        size, pixels = _pixels(content.image)
        facts = {"width": content.width, "height": content.height, "frames": content.frames}
        return {"kind": "picture", "size": size, **facts}, [pixels]
    if isinstance(content, Waveform):
        return {"kind": "sound", "rate": content.rate}, [np.ascontiguousarray(content.samples, dtype=np.float32).data.cast("B")]
    if isinstance(content, Pages):
        texts = json.dumps([asdict(page) for page in content.pages]).encode()
        return {"kind": "pages"}, [texts]
    sizes, views = zip(*map(_pixels, content.views), strict=True)
    vertices = np.ascontiguousarray(content.mesh.vertices, dtype=np.float32)
    faces = np.ascontiguousarray(content.mesh.faces, dtype=np.int32)  # limits leave no mesh with more vertices than that holds
    geometry = [vertices.data.cast("B"), faces.data.cast("B")]
    return {"kind": "mesh", "facts": asdict(content.facts), "sizes": sizes}, [content.sheet, *geometry, *views]


def unpack(head: dict[str, Any], blobs: Sequence[bytes | bytearray]) -> Content:
    """Undo `pack`."""
    kind = head["kind"]
    if kind == "picture":
        return Picture(_image(head["size"], blobs[0]), head["width"], head["height"], head["frames"])
    if kind == "sound":
        return Waveform(np.frombuffer(blobs[0], dtype=np.float32), head["rate"])
    if kind == "pages":
        return Pages(tuple(Page(**page) for page in json.loads(blobs[0])))
    if kind != "mesh":
        raise DecodeError(f"Expected decoded content of a kind that is known, got {kind!r}.")
    facts = MeshFacts(**{**head["facts"], "size": tuple(head["facts"]["size"])})
    vertices = np.frombuffer(blobs[1], dtype=np.float32).reshape(-1, 3)
    faces = np.frombuffer(blobs[2], dtype=np.int32).reshape(-1, 3).astype(np.int64)
    views = [_image(size, blob) for size, blob in zip(head["sizes"], blobs[3:], strict=True)]
    return RenderedMesh(Mesh(vertices, faces), facts, views, bytes(blobs[0]))


def _pixels(image: Image.Image) -> tuple[tuple[int, int], bytes]:
    return image.size, image.tobytes()


def _image(size: Sequence[int], pixels: bytes | bytearray) -> Image.Image:
    return Image.frombytes("RGB", (size[0], size[1]), bytes(pixels))
