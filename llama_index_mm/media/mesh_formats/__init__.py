"""One reader a mesh format, over NumPy: from bytes to vertices and triangles, nothing taken on trust.

Each reader checks what a file states against what it holds before memory is taken for it, and opens no other file but the
buffers of a glTF in its own folder: materials and textures are passed over. Its errors are `DecodeError` without the
file's name, which `load_mesh` puts before them.
"""

from llama_index_mm.media.mesh_formats.gltf import read_glb, read_gltf
from llama_index_mm.media.mesh_formats.obj import read_obj
from llama_index_mm.media.mesh_formats.off import read_off
from llama_index_mm.media.mesh_formats.ply import read_ply
from llama_index_mm.media.mesh_formats.polygons import Geometry, Reader
from llama_index_mm.media.mesh_formats.stl import read_stl

__all__ = ["READERS", "Geometry", "Reader"]

READERS: dict[str, Reader] = {
    ".glb": read_glb,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".off": read_off,
    ".ply": read_ply,
    ".stl": read_stl,
}
