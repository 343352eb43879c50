"""Meshes of furniture and tableware, made from numbers alone: boxes, tubes and turned profiles.

Every shape stands on the floor (y = 0) with its middle over the origin; y is up, the front looks along +z, and lengths
are metres. A shape is one or more closed surfaces whose faces look outwards; where parts meet they run into each other.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SHAPES", "bed", "bookshelf", "chair", "lamp", "mug", "sofa", "stool", "table", "vase", "write_obj"]

Vertices = NDArray[np.float64]
"""Points, (v, 3), metres."""
Faces = NDArray[np.int64]
"""Triangles as rows of three vertex numbers, (f, 3), counter-clockwise when seen from outside."""
Mesh = tuple[Vertices, Faces]

_AROUND = 32  # corners of a circle


def _join(*parts: Mesh) -> Mesh:
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


def _capped(rings: NDArray[np.float64], first: ArrayLike, last: ArrayLike) -> Mesh:
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


def _box(middle: ArrayLike, size: ArrayLike) -> Mesh:
    """A box with edges along the axes: its middle (x, y, z) and its full size (x, y, z)."""
    corners = np.array([[x, y, z] for y in (-0.5, 0.5) for x, z in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
    bottom, top = [[0, 1, 2], [0, 2, 3]], [[4, 6, 5], [4, 7, 6]]
    return corners * np.asarray(size, float) + middle, np.concatenate([_grid_faces(2, 4), bottom, top]).astype(np.int64)


def _turned(profile: ArrayLike) -> Mesh:
    """A body turned on a lathe about the y axis.

    ``profile`` are (radius, y) points from the lower end of the outside to its upper end; first and last have radius 0.
    """
    outline = np.asarray(profile, float)
    angle = np.arange(_AROUND) * 2 * np.pi / _AROUND
    radius, y = outline[1:-1, :1], outline[1:-1, 1:]
    rings = np.stack([radius * np.cos(angle), y + 0 * angle, radius * np.sin(angle)], -1)
    return _capped(rings, [0, outline[0, 1], 0], [0, outline[-1, 1], 0])


def _ring(section: ArrayLike) -> Mesh:
    """A ring about the y axis: ``section`` are the (radius, y) corners of its cut, counter-clockwise, radii above 0."""
    outline = np.asarray(section, float)
    angle = np.arange(_AROUND) * 2 * np.pi / _AROUND
    radius, y = outline[:, :1], outline[:, 1:]
    vertices = np.stack([radius * np.cos(angle), y + 0 * angle, radius * np.sin(angle)], -1).reshape(-1, 3)
    return vertices, _grid_faces(len(outline) + 1, _AROUND) % len(vertices)


def _circle(radius: float, corners: int = 16) -> NDArray[np.float64]:
    """Corners of a circle about the origin, counter-clockwise, (corners, 2)."""
    angle = np.arange(corners) * 2 * np.pi / corners
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _tube(path: ArrayLike, radii: ArrayLike, *, corners: int = 16) -> Mesh:
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
    circle = width * _circle(1.0, corners)
    rings = points[:, None] + circle[..., :1] * np.cross(along, side)[:, None] + circle[..., 1:] * side
    return _capped(rings, points[0], points[-1])


def _cushion(middle: ArrayLike, size: ArrayLike, *, radius: float, bulge: float = 0.0) -> Mesh:
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


def _legs(x: float, z: float, height: float, width: float) -> Mesh:
    """Four square legs that stand on the floor at (±x, ±z)."""
    return _join(
        *(_box((sx * x, height / 2, sz * z), (width, height, width)) for sx in (-1, 1) for sz in (-1, 1)),
    )


def chair() -> Mesh:
    """A wooden dining chair, 0.9 m high: four legs with rails between, a square seat, and a back with three slats."""
    seat = _box((0, 0.45, 0), (0.44, 0.035, 0.44))
    front_legs = [_box((x, 0.217, 0.195), (0.04, 0.434, 0.04)) for x in (-0.195, 0.195)]
    posts = [_box((x, 0.45, -0.195), (0.04, 0.9, 0.04)) for x in (-0.195, 0.195)]
    slats = [_box((0, y, -0.195), (0.36, 0.06, 0.018)) for y in (0.62, 0.74, 0.86)]
    side_rails = [_box((x, 0.2, 0), (0.022, 0.03, 0.36)) for x in (-0.195, 0.195)]
    cross_rail = _box((0, 0.2, 0), (0.38, 0.03, 0.022))
    return _join(seat, *front_legs, *posts, *slats, *side_rails, cross_rail)


def table() -> Mesh:
    """A dining table, 1.5 x 0.85 m and 0.75 m high: a top on four square legs with an apron between them."""
    top = _box((0, 0.733, 0), (1.5, 0.034, 0.85))
    long_aprons = [_box((0, 0.668, z), (1.28, 0.1, 0.022)) for z in (-0.35, 0.35)]
    short_aprons = [_box((x, 0.668, 0), (0.022, 0.1, 0.66)) for x in (-0.67, 0.67)]
    return _join(top, _legs(0.67, 0.35, 0.72, 0.07), *long_aprons, *short_aprons)


def stool() -> Mesh:
    """A bar stool, 0.68 m high: a thick round seat on four spread legs, with a ring to rest the feet on."""
    seat = _turned([(0, 0.63), (0.15, 0.63), (0.17, 0.645), (0.17, 0.67), (0.155, 0.68), (0, 0.68)])
    turns = np.arange(4) * np.pi / 2 + np.pi / 4
    legs = []
    for x, z in zip(np.cos(turns), np.sin(turns), strict=True):
        legs.append(_tube([(0.22 * x, 0.0, 0.22 * z), (0.12 * x, 0.64, 0.12 * z)], [0.014, 0.018]))
    footrest = _ring(_circle(0.01) + np.array([0.185, 0.22]))
    return _join(seat, *_flattened(legs), footrest)


def _flattened(legs: list[Mesh]) -> list[Mesh]:
    """The same legs, with what reaches below the floor pushed up to it, so that leaning legs stand flat."""
    return [(np.maximum(vertices, [-np.inf, 0.0, -np.inf]), faces) for vertices, faces in legs]


def bookshelf() -> Mesh:
    """A bookshelf, 0.9 m wide and 1.8 m high: two sides, a back, six boards, and rows of books on four of them."""
    sides = [_box((x, 0.9, 0), (0.025, 1.8, 0.3)) for x in (-0.4375, 0.4375)]
    back = _box((0, 0.9, -0.145), (0.87, 1.79, 0.01))
    levels = [0.05, 0.4, 0.745, 1.09, 1.435, 1.7875]
    boards = [_box((0, y, 0), (0.87, 0.025, 0.29)) for y in levels]
    rng = np.random.default_rng(7)
    rows = [_books(level + 0.0125, count, rng) for level, count in zip(levels[:4], (17, 9, 15, 12), strict=True)]
    return _join(*sides, back, *boards, *rows)


def _books(floor: float, count: int, rng: np.random.Generator) -> Mesh:
    """A row of ``count`` books on a board whose upper side is at ``floor``, from the left end of the shelf on."""
    books = []
    left = -0.42
    for thick, tall, deep in zip(
        rng.uniform(0.022, 0.048, count), rng.uniform(0.19, 0.29, count), rng.uniform(0.14, 0.2, count), strict=True
    ):
        books.append(_box((left + thick / 2, floor + tall / 2, 0.11 - deep / 2), (thick, tall, deep)))
        left += thick + 0.002
    return _join(*books)


def bed() -> Mesh:
    """A double bed for a mattress of 1.6 x 2 m, 1 m high at its head (-z): frame, mattress, two pillows, a blanket."""
    rails = [_box((x, 0.28, 0), (0.04, 0.18, 2.02)) for x in (-0.83, 0.83)]
    head = _box((0, 0.5, -1.02), (1.7, 1.0, 0.04))
    foot = _box((0, 0.28, 1.02), (1.7, 0.3, 0.04))
    slats = _box((0, 0.29, 0), (1.64, 0.04, 2.0))
    mattress = _cushion((0, 0.41, 0), (1.6, 0.22, 2.0), radius=0.05)
    blanket = _cushion((0, 0.44, 0.28), (1.66, 0.22, 1.42), radius=0.07)
    pillows = [_cushion((x, 0.575, -0.74), (0.68, 0.09, 0.44), radius=0.04, bulge=0.05) for x in (-0.39, 0.39)]
    return _join(rails[0], rails[1], head, foot, slats, _legs(0.8, 0.98, 0.3, 0.07), mattress, blanket, *pillows)


def sofa() -> Mesh:
    """A sofa for two, 1.8 m wide and 0.83 m high: base on short feet, arms, a back, two seat and two back cushions."""
    base = _cushion((0, 0.23, 0.01), (1.7, 0.22, 0.8), radius=0.02)
    back = _cushion((0, 0.47, -0.35), (1.7, 0.72, 0.18), radius=0.06)
    arms = [_cushion((x, 0.37, 0), (0.2, 0.5, 0.88), radius=0.07) for x in (-0.8, 0.8)]
    seats = [_cushion((x, 0.41, 0.09), (0.695, 0.16, 0.7), radius=0.05, bulge=0.015) for x in (-0.35, 0.35)]
    rests = [_cushion((x, 0.65, -0.19), (0.685, 0.36, 0.17), radius=0.07) for x in (-0.35, 0.35)]
    return _join(_legs(0.78, 0.34, 0.15, 0.05), base, back, *arms, *seats, *rests)


def lamp() -> Mesh:
    """A floor lamp, 1.6 m high: a round foot, a thin pole, and an open shade that narrows upwards, with its bulb."""
    foot = _turned([(0, 0), (0.15, 0), (0.15, 0.02), (0.13, 0.032), (0.02, 0.045), (0, 0.045)])
    pole = _tube([(0, 0.03, 0), (0, 1.37, 0)], 0.011)
    socket = _turned([(0, 1.35), (0.022, 1.35), (0.022, 1.41), (0, 1.41)])
    angle = np.linspace(-1.2, np.pi / 2, 9)
    bulb = _turned([(0, 1.40), *np.stack([0.036 * np.cos(angle[:-1]), 1.45 + 0.036 * np.sin(angle[:-1])], 1), (0, 1.486)])
    shade = _ring([(0.23, 1.3), (0.14, 1.6), (0.135, 1.6), (0.225, 1.3)])
    spokes = [_tube([(-0.165, 1.5, 0), (0.165, 1.5, 0)], 0.003), _tube([(0, 1.5, -0.165), (0, 1.5, 0.165)], 0.003)]
    return _join(foot, pole, socket, bulb, shade, *spokes)


def mug() -> Mesh:
    """A mug, 0.095 m high and 0.08 m wide, hollow and open at the top, with a round handle on its +x side."""
    wall = [
        (0, 0), (0.034, 0), (0.038, 0.004), (0.04, 0.012), (0.04, 0.093), (0.0385, 0.095), (0.037, 0.093),
        (0.036, 0.014), (0.033, 0.008), (0, 0.007),
    ]  # fmt: skip
    turn = np.linspace(-np.pi / 2, np.pi / 2, 17)
    arc = np.stack([0.0385 + 0.031 * np.cos(turn), 0.05 + 0.028 * np.sin(turn), 0 * turn], 1)
    return _join(_turned(wall), _tube(arc, 0.0055))


def vase() -> Mesh:
    """A flower vase, 0.3 m high, hollow: a wide belly, a narrow neck and a flared rim."""
    y = np.linspace(0, 0.3, 25)
    outer = np.interp(y, *_smooth([(0, 0.045), (0.1, 0.085), (0.21, 0.034), (0.25, 0.03), (0.3, 0.056)]))
    outside = np.stack([outer, y], 1)
    inside = np.stack([outer - 0.005, y], 1)[:1:-1]
    inside[0, 0] += 0.001
    return _turned([(0, 0), *outside, *inside, (0, 0.02)])


def _smooth(points: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fine points (x, y) of a curve through ``points`` that is level at each of them."""
    x, y = np.asarray(points, float).T
    share = np.linspace(0, 1, 20, endpoint=False)
    ease = share**2 * (3 - 2 * share)
    fine_x = x[:-1, None] + np.diff(x)[:, None] * share
    fine_y = y[:-1, None] + np.diff(y)[:, None] * ease
    return np.append(fine_x.ravel(), x[-1]), np.append(fine_y.ravel(), y[-1])


SHAPES: dict[str, Callable[[], Mesh]] = {
    "bed": bed,
    "bookshelf": bookshelf,
    "chair": chair,
    "lamp": lamp,
    "mug": mug,
    "sofa": sofa,
    "stool": stool,
    "table": table,
    "vase": vase,
}
"""Every shape of this module, by its name."""


def write_obj(path: str | Path, vertices: ArrayLike, faces: ArrayLike) -> None:
    """Write a mesh as Wavefront OBJ text; the same mesh gives the same bytes.

    Args:
        path: the file to write.
        vertices: (v, 3) points in metres; they are stored to the micrometre.
        faces: (f, 3) vertex numbers, from 0.
    """
    points = (f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in np.asarray(vertices, float).round(6) + 0.0)  # no -0
    corners = (f"f {a} {b} {c}" for a, b, c in np.asarray(faces) + 1)
    Path(path).write_bytes("\n".join(["# metres, y is up", *points, *corners, ""]).encode("ascii"))
