import hashlib

import numpy as np
import pytest

from llama_index_mm.demo.shapes import SHAPES, write_obj

SIZES = {  # width (x), height (y), depth (z) in metres
    "bed": (1.7, 1.0, 2.08),
    "bookshelf": (0.9, 1.8, 0.3),
    "chair": (0.44, 0.9, 0.44),
    "lamp": (0.46, 1.6, 0.46),
    "mug": (0.115, 0.095, 0.08),
    "sofa": (1.8, 0.83, 0.88),
    "stool": (0.39, 0.68, 0.39),
    "table": (1.5, 0.75, 0.85),
    "vase": (0.17, 0.3, 0.17),
}

every_shape = pytest.mark.parametrize("name", sorted(SHAPES))


def crossings(vertices, faces, origin, direction):
    """Signed distances at which the line through ``origin`` pierces the triangles, sorted."""
    direction = np.asarray(direction, float)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normal = np.cross(direction, c - a)
    scale = np.einsum("ij,ij->i", b - a, normal)
    scale = np.where(np.abs(scale) < 1e-15, np.nan, scale)
    offset = np.asarray(origin, float) - a
    u = np.einsum("ij,ij->i", offset, normal) / scale
    other = np.cross(offset, b - a)
    v = other @ direction / scale
    inside = (u >= 0) & (v >= 0) & (u + v <= 1)
    return np.sort((np.einsum("ij,ij->i", c - a, other) / scale)[inside])


def parts(vertices, faces):
    """The part number of each face: faces that share a vertex are of one part."""
    label = np.arange(len(vertices))
    while True:
        least = label.copy()
        for corner in range(3):
            np.minimum.at(least, faces[:, corner], label[faces].min(1))
        if np.array_equal(least, label):
            return label[faces[:, 0]]
        label = least


def volumes(vertices, faces):
    """Six signed volumes below each face; their sum over a closed part is six times its volume."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c))


def test_every_shape_has_an_expected_size():
    assert set(SIZES) == set(SHAPES)


@every_shape
def test_arrays_have_documented_types_and_use_every_vertex(name):
    vertices, faces = SHAPES[name]()
    assert vertices.dtype == np.float64
    assert vertices.ndim == 2
    assert vertices.shape[1] == 3
    assert np.isfinite(vertices).all()
    assert faces.dtype == np.int64
    assert faces.shape[1] == 3
    assert np.array_equal(np.unique(faces), np.arange(len(vertices)))


@every_shape
def test_size_is_in_metres_and_it_stands_on_the_floor(name):
    vertices, _ = SHAPES[name]()
    low, high = vertices.min(0), vertices.max(0)
    assert high - low == pytest.approx(SIZES[name], abs=0.002)
    assert low[1] == pytest.approx(0.0, abs=1e-9)
    if name != "mug":  # its handle is on one side
        assert (low + high)[[0, 2]] == pytest.approx([0, 0], abs=0.002)


@every_shape
def test_surface_is_closed_and_each_edge_has_two_faces_of_one_orientation(name):
    _, faces = SHAPES[name]()
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 1).all()
    assert {tuple(edge) for edge in directed} == {tuple(edge) for edge in directed[:, ::-1]}


@every_shape
def test_no_face_is_degenerate(name):
    vertices, faces = SHAPES[name]()
    rounded = vertices.round(6)  # as write_obj stores them
    a, b, c = (rounded[faces[:, corner]] for corner in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() / 2 > 1e-8
    assert len(np.unique(np.sort(faces, 1), axis=0)) == len(faces)


@every_shape
def test_every_part_looks_outwards(name):
    vertices, faces = SHAPES[name]()
    part = parts(vertices, faces)
    below = volumes(vertices, faces)
    for number in np.unique(part):
        assert below[part == number].sum() > 0


@every_shape
def test_shapes_are_deterministic_and_fresh(name):
    first, second = SHAPES[name](), SHAPES[name]()
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    first[0][:] = 0
    assert SHAPES[name]()[0].any()


def test_no_two_shapes_are_the_same():
    digests = {hashlib.sha256(shape()[0].tobytes()).hexdigest() for shape in SHAPES.values()}
    assert len(digests) == len(SHAPES)


@pytest.mark.parametrize(("name", "height"), [("chair", 0.4675), ("stool", 0.68), ("table", 0.75), ("sofa", 0.505)])
def test_what_is_sat_on_or_eaten_from_has_a_top_at_its_height(name, height):
    vertices, faces = SHAPES[name]()
    x, z = (0.33, 0.11) if name == "sofa" else (0.013, 0.007)
    assert crossings(vertices, faces, (x, 0, z), (0, 1, 0)).max() == pytest.approx(height, abs=0.01)


@pytest.mark.parametrize("name", ["bed", "chair", "sofa", "stool", "table"])
def test_legs_lift_it_off_the_floor(name):
    vertices, faces = SHAPES[name]()
    assert crossings(vertices, faces, (0.013, 0, 0.047), (0, 1, 0)).min() > 0.1


@pytest.mark.parametrize(("name", "floor"), [("mug", 0.007), ("vase", 0.02)])
def test_vessels_are_open_at_the_top_with_a_floor_inside(name, floor):
    vertices, faces = SHAPES[name]()
    through = crossings(vertices, faces, (0.003, 0, 0.002), (0, 1, 0))
    assert len(through) == 2
    assert through == pytest.approx([0, floor], abs=0.004)


def test_mug_has_a_handle_to_put_a_finger_through():
    vertices, faces = SHAPES["mug"]()
    assert len(crossings(vertices, faces, (0.052, 0.051, 0), (0, 0, 1))) == 0
    assert len(crossings(vertices, faces, (0, 0.051, 0.0001), (1, 0, 0))) == 6  # two walls and the handle


def test_the_back_of_the_chair_is_at_its_rear():
    vertices, _ = SHAPES["chair"]()
    assert vertices[vertices[:, 1] > 0.6, 2].max() < -0.15


def test_bookshelf_carries_books_on_four_boards_of_five():
    vertices, faces = SHAPES["bookshelf"]()
    count = len(np.unique(parts(vertices, faces)))
    assert count == 2 + 1 + 6 + 17 + 9 + 15 + 12
    assert len(crossings(vertices, faces, (-0.41, 1.55, 0.1), (1, 0, 0))) == 4  # nothing but the sides


def test_lamp_shade_is_open_and_narrows_upwards():
    vertices, faces = SHAPES["lamp"]()
    assert len(crossings(vertices, faces, (0.1, 0, 0.05), (0, 1, 0))) == 2  # only the foot is pierced
    widths = [np.ptp(crossings(vertices, faces, (0.0, y, 0.001), (1, 0, 0.0))) for y in (1.31, 1.45, 1.59)]
    assert widths[0] > widths[1] > widths[2] > 0.27


@every_shape
def test_write_obj_stores_the_mesh_to_the_micrometre(name, tmp_path):
    vertices, faces = SHAPES[name]()
    path = tmp_path / f"{name}.obj"
    write_obj(path, vertices, faces)
    lines = [line.split() for line in path.read_text("ascii").splitlines()]
    assert np.array([line[1:] for line in lines if line[0] == "v"], float) == pytest.approx(vertices, abs=5.1e-7)
    assert np.array_equal(np.array([line[1:] for line in lines if line[0] == "f"], int) - 1, faces)
    assert {line[0] for line in lines} == {"#", "v", "f"}
    assert " -0.000000" not in path.read_text("ascii")


def test_write_obj_of_plain_lists_has_known_bytes(tmp_path):
    path = tmp_path / "triangle.obj"
    write_obj(str(path), [[0, 0, 0], [1, 0, -0.0], [0, 0.5, 0]], [[0, 1, 2]])
    assert path.read_bytes() == (
        b"# metres, y is up\nv 0.000000 0.000000 0.000000\nv 1.000000 0.000000 0.000000\n"
        b"v 0.000000 0.500000 0.000000\nf 1 2 3\n"
    )
