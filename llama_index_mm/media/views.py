"""Pictures of a mesh from six sides, by ray casting: no window, no graphics card."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError
from llama_index_mm.media.mesh import Mesh

__all__ = ["VIEWS", "VIEW_SIZE", "contact_sheet", "render_views", "split_sheet"]

VIEWS = 6
VIEW_SIZE = 224  # pixels, width and height of one view
_COLUMNS = 3
_ELEVATION = 25.0  # degrees above the horizon
_FIELD_OF_VIEW = 40.0  # degrees
_BACKGROUND = 255


def render_views(mesh: Mesh, *, up: Literal["y", "z"] = "y", size: int = VIEW_SIZE) -> list[Image.Image]:
    """Render a mesh from six sides: every 60 degrees around the up axis, from 25 degrees above.

    Vertices are scaled so that the mesh fits the frame; the shade is Lambert's, lit from the camera's upper left.

    Args:
        mesh: what to render.
        up: the axis that points up: ``"y"``, as glTF and most OBJ files have it, or ``"z"``.
        size: width and height of a view in pixels.

    Raises:
        DecodeError: the mesh has no extent.
        MissingExtraError: Open3D is not installed.
    """
    o3d: Any = require("open3d", extra="mesh")
    vertices = _centred(mesh)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    top = np.eye(3, dtype=np.float32)["xyz".index(up)]
    side = np.roll(top, 1)
    other = np.cross(top, side)
    distance = 1.0 / np.sin(np.radians(_FIELD_OF_VIEW / 2))
    views = []
    for step in range(VIEWS):
        angle = 2 * np.pi * step / VIEWS + np.pi / 6
        flat = np.cos(angle) * side + np.sin(angle) * other
        rise = np.radians(_ELEVATION)
        eye = distance * (np.cos(rise) * flat + np.sin(rise) * top)
        # Open3D counts rows upwards: with "up" as given, pictures come out turned by 180 degrees.
        rays = scene.create_rays_pinhole(
            fov_deg=_FIELD_OF_VIEW, center=[0, 0, 0], eye=eye.tolist(), up=(-top).tolist(), width_px=size, height_px=size
        )
        hit = scene.cast_rays(rays, nthreads=1)
        views.append(_shade(hit["t_hit"].numpy(), hit["primitive_normals"].numpy(), eye, top))
    return views


def _centred(mesh: Mesh) -> NDArray[np.float32]:
    """Vertices moved to the origin and scaled into the unit sphere."""
    vertices = mesh.vertices.astype(np.float64)  # squares of what 32 bits can hold would leave them
    moved = vertices - (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.linalg.norm(moved, axis=1).max())
    if not radius > 0:
        raise DecodeError("All vertices of the mesh lie in one point; there is nothing to render.")
    return np.ascontiguousarray(moved / radius, dtype=np.float32)


def _shade(
    depth: NDArray[np.float32], normals: NDArray[np.float32], eye: NDArray[np.float64], up: NDArray[np.float32]
) -> Image.Image:
    """Lambert shading with a light from the camera's upper left; both sides of a face are lit."""
    view = eye / np.linalg.norm(eye)
    left = np.cross(view, up)
    light = view + 0.5 * up + 0.4 * left
    light /= np.linalg.norm(light)
    towards, lit = np.moveaxis(normals @ np.stack([view, light], axis=1).astype(np.float32), -1, 0)
    grey = 70 + 150 * np.clip(np.where(towards < 0, -lit, lit), 0, 1)
    pixels = np.where(np.isfinite(depth), grey, _BACKGROUND).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def contact_sheet(views: list[Image.Image]) -> Image.Image:
    """Put six views into one picture of three columns and two rows."""
    width, height = views[0].size
    rows = -(-len(views) // _COLUMNS)
    sheet = Image.new("RGB", (width * _COLUMNS, height * rows), (_BACKGROUND,) * 3)
    for place, view in enumerate(views):
        sheet.paste(view, ((place % _COLUMNS) * width, place // _COLUMNS * height))
    return sheet


def split_sheet(sheet: Image.Image) -> list[Image.Image]:
    """Take the six views out of a contact sheet again."""
    width, height = sheet.width // _COLUMNS, sheet.height // (VIEWS // _COLUMNS)
    return [
        sheet.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
        for row in range(VIEWS // _COLUMNS)
        for column in range(_COLUMNS)
    ]
