"""Boxes, tubes, cushions and turned bodies: meshes made from numbers alone, over NumPy.

Lengths are in any unit, y is up. A solid is a closed surface whose faces look outwards.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Faces", "Solid", "Vertices", "box", "circle", "cushion", "join", "ring", "tube", "turned"]

Vertices = NDArray[np.float64]
"""Points, (v, 3)."""
Faces = NDArray[np.int64]
"""Triangles as rows of three vertex numbers, (f, 3), counter-clockwise when seen from outside."""
Solid = tuple[Vertices, Faces]

_AROUND = 32  # corners of a circle


def join(*parts: Solid) -> Solid:
    """Several meshes as one, their vertices one after the other."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    vertices = np.concatenate([vertices for vertices, _ in parts])
    return vertices, np.concatenate([faces + start for (_, faces), start in zip(parts, starts, strict=False)])


def _grid_faces(rows: int, columns: int) -> Faces:
    """Two triangles for each cell of a grid of vertices, (2 * (rows - 1) * columns, 3); the columns close to a ring."""
    row, column = np.divmod(np.arange((rows - 1) * columns), columns)
    here, beside = row * columns + column, row * columns + (column + 1) % columns
    above, across = here + columns, beside + columns
    return np.concatenate([np.stack([here, above, across], 1), np.stack([here, across, beside], 1)]).astype(np.int64)


def _capped(rings: NDArray[np.float64], first: ArrayLike, last: ArrayLike) -> Solid:
    """A closed tube through rings of points, (rows, columns, 3), with the points ``first`` and ``last`` as its ends.

    Seen from ``last``, the points of each ring go round clockwise.
    """
    rows, columns = rings.shape[:2]
    vertices = np.concatenate([rings.reshape(-1, 3), [np.asarray(first, float), np.asarray(last, float)]])
    here = np.arange(columns)
    beside = (here + 1) % columns
    top = (rows - 1) * columns
    bottom_cap = np.stack([np.full(columns, rows * columns), here, beside], 1)
    top_cap = np.stack([np.full(columns, rows * columns + 1), beside + top, here + top], 1)
    return vertices, np.concatenate([_grid_faces(rows, columns), bottom_cap, top_cap]).astype(np.int64)


def box(middle: ArrayLike, size: ArrayLike) -> Solid:
    """A box with edges along the axes: its middle (x, y, z) and its full size (x, y, z)."""
    corners = np.array([[x, y, z] for y in (-0.5, 0.5) for x, z in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
    bottom, top = [[0, 1, 2], [0, 2, 3]], [[4, 6, 5], [4, 7, 6]]
    return corners * np.asarray(size, float) + middle, np.concatenate([_grid_faces(2, 4), bottom, top]).astype(np.int64)


def turned(profile: ArrayLike) -> Solid:
    """A body turned on a lathe about the y axis.

    ``profile`` are (radius, y) points from the lower end of the outside to its upper end; first and last have radius 0.
    """
    outline = np.asarray(profile, float)
    angle = np.arange(_AROUND) * 2 * np.pi / _AROUND
    radius, y = outline[1:-1, :1], outline[1:-1, 1:]
    rings = np.stack([radius * np.cos(angle), y + 0 * angle, radius * np.sin(angle)], -1)
    return _capped(rings, [0, outline[0, 1], 0], [0, outline[-1, 1], 0])


def ring(section: ArrayLike) -> Solid:
    """A ring about the y axis: ``section`` are the (radius, y) corners of its cut, counter-clockwise, radii above 0."""
    outline = np.asarray(section, float)
    angle = np.arange(_AROUND) * 2 * np.pi / _AROUND
    radius, y = outline[:, :1], outline[:, 1:]
    vertices = np.stack([radius * np.cos(angle), y + 0 * angle, radius * np.sin(angle)], -1).reshape(-1, 3)
    return vertices, _grid_faces(len(outline) + 1, _AROUND) % len(vertices)


def circle(radius: float, corners: int = 16) -> NDArray[np.float64]:
    """Corners of a circle about the origin, counter-clockwise, (corners, 2)."""
    angle = np.arange(corners) * 2 * np.pi / corners
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def tube(path: ArrayLike, radii: ArrayLike, *, corners: int = 16) -> Solid:
    """A round bar along a path that lies in one upright plane.

    ``path`` are (n, 3) points and ``radii`` its radius there, (n,) or one number. Its ends are flat.
    """
    points = np.asarray(path, float)
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    chord = points[len(points) // 2] - points[0]
    side = np.cross(chord, points[-1] - points[0])
    if np.linalg.norm(side) < 1e-9:  # a straight bar: any direction across it will do
        side = np.cross(chord, [0, 0, 1] if abs(chord[2]) < np.linalg.norm(chord) / 2 else [1, 0, 0])
    side /= np.linalg.norm(side)
    width = np.broadcast_to(np.asarray(radii, float), len(points))[:, None, None]
    outline = width * circle(1.0, corners)
    rings = points[:, None] + outline[..., :1] * np.cross(along, side)[:, None] + outline[..., 1:] * side
    return _capped(rings, points[0], points[-1])


def cushion(middle: ArrayLike, size: ArrayLike, *, radius: float, bulge: float = 0.0) -> Solid:
    """A box with rounded edges: its middle (x, y, z), its full size (x, y, z), and the ``radius`` of its edges.

    ``radius`` is less than half of the least size; ``bulge`` is what top and bottom stand out more in their middle.
    """
    half = np.asarray(size, float) / 2
    inner = half - radius
    curve = radius * np.tan(np.linspace(np.pi / 4, 0, 4))
    unit = np.linspace(-1, 1, 5)[1:-1]
    ticks = [np.concatenate([-core - curve, core * unit, core + curve[::-1]]) for core in inner]
    numbers, faces = _cube_faces(len(ticks[0]))
    points = np.stack([tick[number] for tick, number in zip(ticks, numbers.T, strict=True)], 1)
    core = np.clip(points, -inner, inner)
    offset = points - core
    points = core + radius * offset / np.linalg.norm(offset, axis=1, keepdims=True)
    dome = (1 - (points[:, 0] / half[0]) ** 2) * (1 - (points[:, 2] / half[2]) ** 2)
    points[:, 1] += bulge * dome * points[:, 1] / half[1]
    return points + middle, faces


def _cube_faces(ticks: int) -> tuple[NDArray[np.int64], Faces]:
    """The surface of a cube of ``ticks`` points along each edge: their places (v, 3), from 0 on, and the faces."""
    low, high = (grid.ravel() for grid in np.mgrid[: ticks - 1, : ticks - 1])
    corners = []
    for axis in range(3):
        for level in (0, ticks - 1):
            steps = ((0, 0), (1, 0), (1, 1), (0, 1)) if level else ((0, 0), (0, 1), (1, 1), (1, 0))
            square = [np.roll([np.full_like(low, level), low + a, high + b], axis, axis=0).T for a, b in steps]
            corners += [np.stack([square[k] for k in order], 1) for order in ((0, 1, 2), (0, 2, 3))]
    places, faces = np.unique(np.concatenate(corners).reshape(-1, 3), axis=0, return_inverse=True)
    return places.astype(np.int64), faces.reshape(-1, 3).astype(np.int64)
