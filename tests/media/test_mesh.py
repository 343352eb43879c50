import numpy as np
import pytest
from mesh_files import CORNERS, CUBES, POINTS, SIDES, TRIANGLES, binary_stl, obj, off, ply, stl

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import MediaLimits, Mesh, MeshFacts, load_mesh

CUBE = MeshFacts(vertices=8, faces=12, size=(1.0, 1.0, 1.0), closed=True)


@pytest.mark.parametrize("name", CUBES)
def test_unit_cube_of_every_format(make, name):
    mesh = load_mesh(make.bytes(name, CUBES[name]))
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int64)
    assert mesh.facts() == CUBE
    assert sorted(map(tuple, mesh.vertices.tolist())) == sorted(CORNERS)
    sides = mesh.vertices[mesh.faces]
    volume = np.linalg.det(sides - 0.5).sum() / 6
    assert abs(volume) == pytest.approx(1)  # every corner is where it belongs, and all faces wind alike


def test_facts_read_as_one_line(make):
    mesh = load_mesh(make.obj("box.obj", np.multiply(CORNERS, (2, 0.5, 1234.5))))
    assert str(mesh.facts()) == "3D model, vertices: 8, faces: 12, size: 2 x 0.5 x 1.23e+03 (file units), surface: closed"


def test_one_side_missing_is_open(make):
    facts = load_mesh(make.obj("open.obj", faces=SIDES[:-1])).facts()
    assert facts == MeshFacts(8, 10, (1.0, 1.0, 1.0), closed=False)
    assert str(facts).endswith("surface: open")


def test_edge_of_three_faces_is_not_closed():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3], [0, 1, 4]])
    assert not Mesh(vertices, faces).facts().closed
    assert Mesh(vertices, faces[:4]).facts() == MeshFacts(5, 4, (1.0, 1.0, 1.0), closed=True)


def test_vertices_in_one_place_become_one_in_the_order_of_the_file(make):
    text = "v 2 0 0\nv 0 0 0\nv 0 3 0\nv 2 0 0\nv -0 0 -0\nv 9 9 9\nv 0 0 4\nf 1 2 3\nf 4 5 7\n"
    mesh = load_mesh(make.text("twice.obj", text))
    np.testing.assert_array_equal(mesh.vertices, np.array([[2, 0, 0], [0, 0, 0], [0, 3, 0], [0, 0, 4]], np.float32))
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 1, 3]])


def test_three_faces_on_one_edge_and_a_face_given_twice(make):
    fan = "v 0 0 0\nv 0 0 1\nv 1 0 0\nv 0 1 0\nv -1 -1 0\nf 1 2 3\nf 1 2 4\nf 1 2 5\nf 3 2 1\n"
    assert load_mesh(make.text("fan.obj", fan)).facts() == MeshFacts(5, 4, (2.0, 2.0, 1.0), closed=False)


def test_faces_without_extent_are_dropped(make):
    cube = obj([[at + 1 for at in face] for face in SIDES], "v 0 0 0\n")
    points = load_mesh(make.bytes("cube.obj", cube + b"f 1 1 2\nf 1 9 3\nf 3 3 3\n"))
    assert points.facts() == CUBE
    line = load_mesh(make.text("line.obj", "v 0 0 0\nv 1 0 0\nv 3 0 0\nv 0 1 0\nf 1 2 3\nf 1 3 4\n"))
    assert line.facts() == MeshFacts(4, 2, (3.0, 1.0, 0.0), closed=False)  # three places, though on a line


def test_only_faces_without_extent(make):
    with pytest.raises(DecodeError, match=r"^flat\.obj has no face with three corners in different places, among 2\.$"):
        load_mesh(make.bytes("flat.obj", obj([(1, 1, 2), (3, 4, 4)])))


@pytest.mark.parametrize("factor", [1e30, 1e-30, 3e38])
@pytest.mark.parametrize("write", [ply, off, stl])
def test_huge_and_tiny(make, write, factor):
    points = np.multiply(CORNERS, factor).tolist()
    facts = load_mesh(make.bytes(f"cube.{write.__name__}", write(points, TRIANGLES))).facts()
    assert (facts.vertices, facts.faces, facts.closed) == (8, 12, True)
    assert facts.size == (float(np.float32(factor)),) * 3


def test_extent_beyond_32_bits_is_measured():
    vertices = np.array([[-3e38, 0, 0], [3e38, 0, 0], [0, 1, 0]], np.float32)
    assert Mesh(vertices, np.array([[0, 1, 2]])).facts().size == pytest.approx((6e38, 1, 0))


CORNER = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
BROKEN = {
    "empty.obj": (b"", "is empty"),
    "comment.obj": (b"# nothing\n", "0 faces; at least one face is needed"),
    "points.obj": (POINTS.encode(), "0 faces; at least one face is needed"),
    "points.off": (off(CORNER, []), "0 faces; at least one face is needed"),
    "points.stl": (binary_stl(faces=[]), "0 faces; at least one face is needed"),
    "past.obj": (obj([(1, 2, 99)]), "point past its 8 vertices"),
    "before.obj": (obj([(1, 2, -9)]), "point past its 8 vertices"),
    "zero.obj": (obj([(0, 1, 2)]), "corner 0; OBJ counts from 1"),
    "two.obj": (obj([(1, 2, 3), (1, 2)]), "a face of 2 corners; at least 3"),
    "word.obj": (obj([(1, 2, 3), (1, "x", 3)]), "something that is no number"),
    "word-as-vertex.obj": (obj([(1, 2, 3)]).replace(b"v 0 1 1", b"v 0 one 1"), "something that is no number"),
    "short-vertex.obj": (obj([(1, 2, 3)]).replace(b"v 0 1 1", b"v 0 1"), "a vertex of 2 numbers; three are needed"),
    "past.off": (off(CORNER, [(0, 1, 7)]), "point past its 3 vertices"),
    "fraction.off": (off(CORNER, [(0, 1, 1.5)]), "no whole numbers"),
    "word.off": (off(CORNER, [(0, 1, "two")]), "something that is no number"),
    "four.off": (off(head="4OFF\n"), "four or more dimensions, or binary"),
    "binary.off": (off(head="OFF BINARY\n"), "four or more dimensions, or binary"),
    "countless.off": (b"OFF\nmany many\n", "without its numbers of vertices and faces"),
    "past.ply": (ply(CORNER, [(0, 1, 9)]), "point past its 3 vertices"),
    "before.ply": (ply(CORNER, [(0, 1, -1)]), "point past its 3 vertices"),
    "fraction.ply": (ply(CORNER, [(0, 1, 1.5)]), "no whole numbers"),
    "word.ply": (ply(CORNER, [(0, 1, "two")]), "something that is no number"),
    "listless.ply": (ply().replace(b"vertex_indices", b"other"), "without a list vertex_index or vertex_indices"),
    "flat.ply": (ply().replace(b"float z", b"float w"), "without x, y and z, but with x, y, w"),
    "lists.ply": (ply().replace(b"float z", b"float z\nproperty list uchar int a"), "vertices with lists"),
    "order.ply": (ply().replace(b"ascii", b"middle"), "a line that makes no sense: 'format middle 1.0'"),
    "type.ply": (ply().replace(b"float z", b"float128 z"), "a line that makes no sense: 'property float128 z'"),
    "negative.ply": (ply(CORNER, []).replace(b"face 0", b"face -1"), "a line that makes no sense: 'element face -1'"),
    "nan.obj": (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "nan.ply": (ply([("nan", 0, 0), *CORNER[1:]], [(0, 1, 2)]), "not finite"),
    "infinite.stl": (stl([("inf", 0, 0), *CORNER[1:]], [(0, 1, 2)]), "not finite"),
    "infinite-quad.off": (off([*CORNER, ("-inf", 0, 0)], [(0, 1, 2, 3)]), "not finite"),
    "huge.ply": (ply([("1e39", 0, 0), *CORNER[1:]], [(0, 1, 2)]), "not finite numbers of 32 bits"),
    "vanishing.obj": (b"v 0 0 0\nv 1e-50 0 0\nv 0 1e-50 0\nf 1 2 3\n", "three corners in different places"),
    "mesh.xyz": (b"0 0 0\n", "doesn't end in what meshes are read by: .glb .gltf .obj .off .ply .stl"),
    "letter.obj": (b"Dear all, this is a text.\n", "at least one"),
    "letter.off": (b"Dear all, this is a text.\n", "is no OFF"),
    "letter.ply": (b"Dear all, this is a text.\n", "is no PLY"),
    "letter.stl": (b"Dear all, this is a text.\n", "is no STL"),
    "letter.glb": (b"Dear all, this is a text.\n", "is no GLB"),
    "letter.gltf": (b"Dear all, this is a text.\n", "JSON part that can't be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(make, name):
    data, reason = BROKEN[name]
    with pytest.raises(DecodeError, match=rf"^{name}.*{reason}"):
        load_mesh(make.bytes(name, data))


@pytest.mark.parametrize("name", CUBES)
def test_too_many_faces(make, name):
    path = make.bytes(name, CUBES[name])
    with pytest.raises(DecodeError, match=rf"^{name} has (6|7|12) faces; at most \d+ are taken .*Decimate it\."):
        load_mesh(path, limits=MediaLimits(faces=5))
    assert load_mesh(path, limits=MediaLimits(faces=12)).facts() == CUBE
    with pytest.raises(DecodeError, match="has 12 faces; at most 11 are taken"):
        load_mesh(path, limits=MediaLimits(faces=11))


def test_missing_file(tmp_path):
    with pytest.raises(DecodeError, match="is missing"):
        load_mesh(tmp_path / "gone.obj")
