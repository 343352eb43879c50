"""Meshes of furniture and tableware, made from numbers alone: boxes, tubes and turned profiles.

Every shape stands on the floor (y = 0) with its middle over the origin; y is up, the front looks along +z, and lengths
are metres. A shape is one or more closed surfaces whose faces look outwards; where parts meet they run into each other.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_mm.media.primitives import Solid as Mesh
from llama_index_mm.media.primitives import box, circle, cushion, join, ring, tube, turned

__all__ = ["SHAPES", "bed", "bookshelf", "chair", "lamp", "mug", "sofa", "stool", "table", "vase", "write_obj"]


def _legs(x: float, z: float, height: float, width: float) -> Mesh:
    """Four square legs that stand on the floor at (±x, ±z)."""
    return join(
        *(box((sx * x, height / 2, sz * z), (width, height, width)) for sx in (-1, 1) for sz in (-1, 1)),
    )


def chair() -> Mesh:
    """A wooden dining chair, 0.9 m high: four legs with rails between, a square seat, and a back with three slats."""
    seat = box((0, 0.45, 0), (0.44, 0.035, 0.44))
    front_legs = [box((x, 0.217, 0.195), (0.04, 0.434, 0.04)) for x in (-0.195, 0.195)]
    posts = [box((x, 0.45, -0.195), (0.04, 0.9, 0.04)) for x in (-0.195, 0.195)]
    slats = [box((0, y, -0.195), (0.36, 0.06, 0.018)) for y in (0.62, 0.74, 0.86)]
    side_rails = [box((x, 0.2, 0), (0.022, 0.03, 0.36)) for x in (-0.195, 0.195)]
    cross_rail = box((0, 0.2, 0), (0.38, 0.03, 0.022))
    return join(seat, *front_legs, *posts, *slats, *side_rails, cross_rail)


def table() -> Mesh:
    """A dining table, 1.5 x 0.85 m and 0.75 m high: a top on four square legs with an apron between them."""
    top = box((0, 0.733, 0), (1.5, 0.034, 0.85))
    long_aprons = [box((0, 0.668, z), (1.28, 0.1, 0.022)) for z in (-0.35, 0.35)]
    short_aprons = [box((x, 0.668, 0), (0.022, 0.1, 0.66)) for x in (-0.67, 0.67)]
    return join(top, _legs(0.67, 0.35, 0.72, 0.07), *long_aprons, *short_aprons)


def stool() -> Mesh:
    """A bar stool, 0.68 m high: a thick round seat on four spread legs, with a ring to rest the feet on."""
    seat = turned([(0, 0.63), (0.15, 0.63), (0.17, 0.645), (0.17, 0.67), (0.155, 0.68), (0, 0.68)])
    turns = np.arange(4) * np.pi / 2 + np.pi / 4
    legs = []
    for x, z in zip(np.cos(turns), np.sin(turns), strict=True):
        legs.append(tube([(0.22 * x, 0.0, 0.22 * z), (0.12 * x, 0.64, 0.12 * z)], [0.014, 0.018]))
    footrest = ring(circle(0.01) + np.array([0.185, 0.22]))
    return join(seat, *_flattened(legs), footrest)


def _flattened(legs: list[Mesh]) -> list[Mesh]:
    """The same legs, with what reaches below the floor pushed up to it, so that leaning legs stand flat."""
    return [(np.maximum(vertices, [-np.inf, 0.0, -np.inf]), faces) for vertices, faces in legs]


def bookshelf() -> Mesh:
    """A bookshelf, 0.9 m wide and 1.8 m high: two sides, a back, six boards, and rows of books on four of them."""
    sides = [box((x, 0.9, 0), (0.025, 1.8, 0.3)) for x in (-0.4375, 0.4375)]
    back = box((0, 0.9, -0.145), (0.87, 1.79, 0.01))
    levels = [0.05, 0.4, 0.745, 1.09, 1.435, 1.7875]
    boards = [box((0, y, 0), (0.87, 0.025, 0.29)) for y in levels]
    rng = np.random.default_rng(7)
    rows = [_books(level + 0.0125, count, rng) for level, count in zip(levels[:4], (17, 9, 15, 12), strict=True)]
    return join(*sides, back, *boards, *rows)


def _books(floor: float, count: int, rng: np.random.Generator) -> Mesh:
    """A row of ``count`` books on a board whose upper side is at ``floor``, from the left end of the shelf on."""
    books = []
    left = -0.42
    for thick, tall, deep in zip(
        rng.uniform(0.022, 0.048, count), rng.uniform(0.19, 0.29, count), rng.uniform(0.14, 0.2, count), strict=True
    ):
        books.append(box((left + thick / 2, floor + tall / 2, 0.11 - deep / 2), (thick, tall, deep)))
        left += thick + 0.002
    return join(*books)


def bed() -> Mesh:
    """A double bed for a mattress of 1.6 x 2 m, 1 m high at its head (-z): frame, mattress, two pillows, a blanket."""
    rails = [box((x, 0.28, 0), (0.04, 0.18, 2.02)) for x in (-0.83, 0.83)]
    head = box((0, 0.5, -1.02), (1.7, 1.0, 0.04))
    foot = box((0, 0.28, 1.02), (1.7, 0.3, 0.04))
    slats = box((0, 0.29, 0), (1.64, 0.04, 2.0))
    mattress = cushion((0, 0.41, 0), (1.6, 0.22, 2.0), radius=0.05)
    blanket = cushion((0, 0.44, 0.28), (1.66, 0.22, 1.42), radius=0.07)
    pillows = [cushion((x, 0.575, -0.74), (0.68, 0.09, 0.44), radius=0.04, bulge=0.05) for x in (-0.39, 0.39)]
    return join(rails[0], rails[1], head, foot, slats, _legs(0.8, 0.98, 0.3, 0.07), mattress, blanket, *pillows)


def sofa() -> Mesh:
    """A sofa for two, 1.8 m wide and 0.83 m high: base on short feet, arms, a back, two seat and two back cushions."""
    base = cushion((0, 0.23, 0.01), (1.7, 0.22, 0.8), radius=0.02)
    back = cushion((0, 0.47, -0.35), (1.7, 0.72, 0.18), radius=0.06)
    arms = [cushion((x, 0.37, 0), (0.2, 0.5, 0.88), radius=0.07) for x in (-0.8, 0.8)]
    seats = [cushion((x, 0.41, 0.09), (0.695, 0.16, 0.7), radius=0.05, bulge=0.015) for x in (-0.35, 0.35)]
    rests = [cushion((x, 0.65, -0.19), (0.685, 0.36, 0.17), radius=0.07) for x in (-0.35, 0.35)]
    return join(_legs(0.78, 0.34, 0.15, 0.05), base, back, *arms, *seats, *rests)


def lamp() -> Mesh:
    """A floor lamp, 1.6 m high: a round foot, a thin pole, and an open shade that narrows upwards, with its bulb."""
    foot = turned([(0, 0), (0.15, 0), (0.15, 0.02), (0.13, 0.032), (0.02, 0.045), (0, 0.045)])
    pole = tube([(0, 0.03, 0), (0, 1.37, 0)], 0.011)
    socket = turned([(0, 1.35), (0.022, 1.35), (0.022, 1.41), (0, 1.41)])
    angle = np.linspace(-1.2, np.pi / 2, 9)
    bulb = turned([(0, 1.40), *np.stack([0.036 * np.cos(angle[:-1]), 1.45 + 0.036 * np.sin(angle[:-1])], 1), (0, 1.486)])
    shade = ring([(0.23, 1.3), (0.14, 1.6), (0.135, 1.6), (0.225, 1.3)])
    spokes = [tube([(-0.165, 1.5, 0), (0.165, 1.5, 0)], 0.003), tube([(0, 1.5, -0.165), (0, 1.5, 0.165)], 0.003)]
    return join(foot, pole, socket, bulb, shade, *spokes)


def mug() -> Mesh:
    """A mug, 0.095 m high and 0.08 m wide, hollow and open at the top, with a round handle on its +x side."""
    wall = [
        (0, 0), (0.034, 0), (0.038, 0.004), (0.04, 0.012), (0.04, 0.093), (0.0385, 0.095), (0.037, 0.093),
        (0.036, 0.014), (0.033, 0.008), (0, 0.007),
    ]  # fmt: skip
    turn = np.linspace(-np.pi / 2, np.pi / 2, 17)
    arc = np.stack([0.0385 + 0.031 * np.cos(turn), 0.05 + 0.028 * np.sin(turn), 0 * turn], 1)
    return join(turned(wall), tube(arc, 0.0055))


def vase() -> Mesh:
    """A flower vase, 0.3 m high, hollow: a wide belly, a narrow neck and a flared rim."""
    y = np.linspace(0, 0.3, 25)
    outer = np.interp(y, *_smooth([(0, 0.045), (0.1, 0.085), (0.21, 0.034), (0.25, 0.03), (0.3, 0.056)]))
    outside = np.stack([outer, y], 1)
    inside = np.stack([outer - 0.005, y], 1)[:1:-1]
    inside[0, 0] += 0.001
    return turned([(0, 0), *outside, *inside, (0, 0.02)])


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
