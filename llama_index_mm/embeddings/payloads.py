"""From a node, or a part of a query, to what an encoder takes."""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from PIL import Image, ImageOps

from llama_index_mm.embeddings.base import Payload
from llama_index_mm.errors import EncodeError
from llama_index_mm.media import (
    LIMITS,
    SAMPLE_RATE,
    MediaLimits,
    Mesh,
    Waveform,
    load_audio,
    load_image,
    load_mesh,
    render_views,
    split_sheet,
    wav_bytes,
)
from llama_index_mm.media.decode import Content, RenderedMesh, decode_file
from llama_index_mm.media.image import PICTURE_SIDE, Picture
from llama_index_mm.nodes import AudioMedia, MediaNode, MeshMedia

__all__ = ["Loaded", "file_payload", "mesh_suffix", "part_payload"]

_TIFF_MODES = ("1", "L", "LA", "I", "I;16", "F", "P", "PA", "RGB", "RGBA", "CMYK")
_STL_HEAD, _STL_FACE = 84, 50  # bytes of a binary STL, and of each of its faces


class Loaded:
    """What media nodes hold, decoded once for all transforms and encoders.

    What was decoded beforehand is given; the rest is decoded when it is asked for. Of that, the last file is kept, as the spans
    of a recording ask for the same one.

    Args:
        contents: by the digest of the file.
        limits: on files that are decoded here.
    """

    def __init__(self, contents: Mapping[str, Content] | None = None, limits: MediaLimits = LIMITS) -> None:
        self._contents = dict(contents or {})
        self._limits = limits
        self._last: tuple[Path, Content] | None = None

    def content(self, node: MediaNode) -> Content:
        """What `decode_file` gives for the node's file.

        Raises:
            DecodeError: it can't be decoded.
        """
        if node.digest in self._contents:
            return self._contents[node.digest]
        if self._last is None or self._last[0] != node.path:
            self._last = (node.path, decode_file(node.path, node.modality, self._limits))
        return self._last[1]

    def picture(self, node: MediaNode) -> Picture:
        """The picture of a node."""
        picture: Picture = self._of(node, Picture)
        return picture

    def sound(self, node: AudioMedia) -> Waveform:
        """The sound of a recording, or of the span that the node is."""
        sound: Waveform = self._of(node, Waveform)
        return sound.cut(node.start, node.end)

    def mesh(self, node: MeshMedia) -> RenderedMesh:
        """The mesh of a node, rendered."""
        mesh: RenderedMesh = self._of(node, RenderedMesh)
        return mesh

    def payload(self, node: BaseNode, payload: Payload) -> Any:
        """What an encoder of this payload takes of a node.

        Returns:
            str, PIL image, `Waveform`, list of PIL images, or `Mesh`.

        Raises:
            DecodeError: the node's file can't be decoded.
            EncodeError: the node has nothing of this kind.
        """
        if payload == "text":
            text = node.get_content(metadata_mode=MetadataMode.EMBED).strip()
            if not text:
                raise EncodeError(f"Node {node.node_id} has no text to encode.")
            return text
        if payload == "audio" and isinstance(node, AudioMedia):
            return self.sound(node)
        if payload == "views" and isinstance(node, MeshMedia):
            if node.digest not in self._contents and node.views is not None and node.views.is_file():
                return split_sheet(load_image(node.views))
            return self.mesh(node).views
        if payload == "mesh" and isinstance(node, MeshMedia):
            return self.mesh(node).mesh
        if payload == "image" and isinstance(node, MediaNode):
            return self.picture(node).image
        raise EncodeError(f"Node {node.node_id} ({type(node).__name__}) has no {payload} to encode.")

    def _of(self, node: MediaNode, kind: type[Any]) -> Any:
        content = self.content(node)
        if not isinstance(content, kind):
            raise EncodeError(f"Node {node.node_id} ({type(node).__name__}) holds no {kind.__name__}.")
        return content


def file_payload(path: Path | str, payload: Payload) -> Any:
    """Load what an encoder of this payload takes from a file.

    Raises:
        DecodeError: the file can't be decoded.
    """
    if payload == "image":
        return load_image(path, longest=PICTURE_SIDE)
    if payload == "audio":
        return load_audio(path)
    if payload == "views":
        rendered: Any = decode_file(path, "mesh")
        views: list[Image.Image] = list(rendered.views)
        return views
    if payload == "mesh":
        return load_mesh(path)
    return Path(path).read_text(encoding="utf-8")


def part_payload(given: Any, payload: Payload) -> Any:
    """Make what an encoder of this payload takes, of whatever a query can be asked with.

    Args:
        given: a path, the bytes of a file, a PIL image, an array of pixels ``(height, width[, c])`` (uint8, or floats in
            [0, 1]), `Picture`, `Waveform` (of any rate), `Mesh`, or a node.
        payload: what is wanted.

    Raises:
        DecodeError: it can't be decoded.
        EncodeError: it is a node that has nothing of this kind.
    """
    if isinstance(given, BaseNode):
        return Loaded().payload(given, payload)
    if isinstance(given, Picture):
        given = given.image
    if isinstance(given, np.ndarray):
        eight = given if given.dtype == np.uint8 else np.rint(given * 255).astype(np.uint8)
        given = Image.fromarray(eight[..., 0] if eight.shape[2:] == (1,) else eight)
    if isinstance(given, Image.Image):
        return _pixels(given)
    if isinstance(given, Waveform):
        return given if given.rate == SAMPLE_RATE else load_audio(wav_bytes(given))
    if isinstance(given, bytes) and payload == "image":
        return load_image(given, longest=PICTURE_SIDE)
    if isinstance(given, bytes) and payload == "audio":
        return load_audio(given)
    if isinstance(given, bytes):
        given = _mesh_of(given)
    if isinstance(given, Mesh):
        return given if payload == "mesh" else render_views(given)
    return file_payload(given, payload)


def _pixels(image: Image.Image) -> Image.Image:
    """A picture in memory, made like one in a file: upright, RGB on white, at most `PICTURE_SIDE` pixels."""
    upright = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    (upright if upright.mode in _TIFF_MODES else upright.convert("RGBA")).save(buffer, format="TIFF")
    return load_image(buffer.getvalue(), longest=PICTURE_SIDE)


def mesh_suffix(data: bytes) -> str | None:
    """Tell by its content how the name of a mesh file should end; None if it is none."""
    head = data[:4096].lstrip()
    for beginning, suffix in ((b"glTF", ".glb"), (b"ply", ".ply"), (b"solid", ".stl")):
        if head.startswith(beginning):
            return suffix
    if head.startswith(b"{") and b'"asset"' in data:
        return ".gltf"
    if head.split(maxsplit=1)[:1] and head.split(maxsplit=1)[0] in (b"OFF", b"COFF", b"NOFF", b"CNOFF", b"STOFF"):
        return ".off"
    if len(data) > _STL_HEAD and len(data) == _STL_HEAD + _STL_FACE * int.from_bytes(data[80:84], "little"):
        return ".stl"
    return ".obj" if any(line.split(maxsplit=1)[:1] == [b"v"] for line in data.splitlines()) else None


def _mesh_of(data: bytes) -> Mesh:
    with tempfile.TemporaryDirectory(prefix="llama-index-mm-") as folder:
        path = Path(folder) / f"mesh given as bytes{mesh_suffix(data) or ''}"
        path.write_bytes(data)
        return load_mesh(path)
