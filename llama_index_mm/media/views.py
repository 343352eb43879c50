"""Pictures of a mesh from six sides, by ray casting: no window, no graphics card."""

from typing import Any

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


def render_views(mesh: Mesh, *, size: int = VIEW_SIZE) -> list[Image.Image]:
    """Render a mesh from six sides: every 60 degrees around the up axis, from 25 degrees above.

    Vertices are scaled so that the mesh fits the frame; the shade is Lambert's, lit from the camera's upper left.
    Which of y and z is up is guessed by `up_axis`.

    Args:
        mesh: what to render.
        size: width and height of a view in pixels.

    Raises:
        DecodeError: the mesh has no extent.
        MissingExtraError: Open3D is not installed.
    """
    o3d: Any = require("open3d", extra="mesh")
    vertices = _centred(mesh)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    up = np.eye(3, dtype=np.float32)[up_axis(mesh)]
    side = np.roll(up, 1)
    other = np.cross(up, side)
    distance = 1.0 / np.sin(np.radians(_FIELD_OF_VIEW / 2))
    views = []
    for step in range(VIEWS):
        angle = 2 * np.pi * step / VIEWS + np.pi / 6
        flat = np.cos(angle) * side + np.sin(angle) * other
        rise = np.radians(_ELEVATION)
        eye = distance * (np.cos(rise) * flat + np.sin(rise) * up)
        # Open3D counts rows upwards: with "up" as given, pictures come out turned by 180 degrees.
        rays = scene.create_rays_pinhole(
            fov_deg=_FIELD_OF_VIEW, center=[0, 0, 0], eye=eye.tolist(), up=(-up).tolist(), width_px=size, height_px=size
        )
        hit = scene.cast_rays(rays, nthreads=1)
        views.append(_shade(hit["t_hit"].numpy(), hit["primitive_normals"].numpy(), eye, up))
    return views


def up_axis(mesh: Mesh) -> int:
    """Guess which axis points up: 1 (y) or 2 (z).

    Things stand on a wide base and are alike from left and right, not from above and below: of the two usual axes, the
    one along which the surface's area is spread least evenly about the middle is taken; y where neither stands out.
    """
    corners = mesh.vertices[mesh.faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not areas.sum() > 0:
        return 1
    centres = corners.mean(1)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    middle = (low + high) / 2
    half = np.maximum((high - low) / 2, 1e-12)
    offset = np.abs(((centres - middle) * areas[:, None]).sum(0) / areas.sum()) / half
    return 2 if offset[2] > offset[1] + 0.05 else 1


def _centred(mesh: Mesh) -> NDArray[np.float32]:
    """Vertices moved to the origin and scaled into the unit sphere."""
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    moved = mesh.vertices - (low + high) / 2
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
    facing = np.where((normals @ view)[..., None] < 0, -normals, normals)
    grey = 70 + 150 * np.clip(facing @ light, 0, 1)
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
