import struct

import numpy as np
import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import MediaLimits, Mesh, MeshFacts, load_mesh

pytest.importorskip("open3d")

CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
TRIANGLES = [(side[0], *pair) for side in SIDES for pair in (side[1:3], side[2:4])]
CUBE = MeshFacts(vertices=8, faces=12, size=(1.0, 1.0, 1.0), closed=True)
POINTS = "".join("v {} {} {}\n".format(*point) for point in CORNERS)


def lines(rows):
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def counted(faces):
    return [(len(face), *face) for face in faces]


def off(points, faces):
    return f"OFF\n# a comment\n{len(points)} {len(faces)} 0\n" + lines(points) + lines(counted(faces))


def ply(points, faces):
    head = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n" + lines(("property", "float", axis) for axis in "xyz")
    head += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    return head + lines(points) + lines(counted(faces))


def stl(points, faces):
    def facet(face):
        return "facet normal 0 0 0\nouter loop\n" + lines(("vertex", *points[at]) for at in face) + "endloop\nendfacet\n"

    return "solid cube\n" + "".join(facet(face) for face in faces) + "endsolid cube\n"


def binary_stl(points, faces):
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *(x for at in face for x in points[at]), 0) for face in faces)
    return b"\0" * 80 + struct.pack("<I", len(faces)) + body


def obj(faces, extra=""):
    return POINTS + extra + "".join("f " + " ".join(map(str, face)) + "\n" for face in faces)


def from_one(faces):
    return [[at + 1 for at in face] for face in faces]


NORMALS = "".join("vn {} {} {}\n".format(*row) for row in [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)])
WITH_NORMALS = [[f"{at + 1}//{number}" for at in face] for number, face in enumerate(SIDES, 1)]
CUBES = {
    "quads.obj": obj(from_one(SIDES)),
    "triangles.obj": obj(from_one(TRIANGLES)),
    "mixed.obj": obj(from_one([*TRIANGLES[:2], *SIDES[1:]])),
    "from-the-end.obj": obj([[at - 8 for at in face] for face in SIDES]),
    "normals.obj": obj(WITH_NORMALS, NORMALS),
    "groups.obj": obj(from_one(SIDES[:3])) + "o second\n" + "".join("f {} {} {} {}\n".format(*f) for f in from_one(SIDES[3:])),
    "lost-material.obj": "mtllib gone.mtl\n" + obj(from_one(SIDES), "usemtl wood\n"),
    "line.obj": obj(from_one(SIDES)) + "l 1 8\n",
    "triangles.off": off(CORNERS, TRIANGLES),
    "quads.off": off(CORNERS, SIDES),
    "triangles.ply": ply(CORNERS, TRIANGLES),
    "quads.ply": ply(CORNERS, SIDES),
    "stray-vertex.ply": ply([*CORNERS, (50, 50, 50)], SIDES),
    "text.stl": stl(CORNERS, TRIANGLES),
    "binary.stl": binary_stl(CORNERS, TRIANGLES),
}


@pytest.mark.parametrize("name", CUBES)
def test_unit_cube_of_every_format(make, name):
    data = CUBES[name]
    mesh = load_mesh(make.bytes(name, data if isinstance(data, bytes) else data.encode()))
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int64)
    assert mesh.facts() == CUBE
    assert sorted(map(tuple, mesh.vertices.tolist())) == sorted(CORNERS)
    sides = mesh.vertices[mesh.faces]
    volume = np.linalg.det(sides - 0.5).sum() / 6
    assert abs(volume) == pytest.approx(1)  # every corner is where it belongs, and all faces wind alike


def test_facts_read_as_one_line(make):
    mesh = load_mesh(make.obj("box.obj", np.multiply(CORNERS, (2, 0.5, 1234.5))))
    assert str(mesh.facts()) == "3D model, 8 vertices, 12 faces, size 2 x 0.5 x 1.23e+03 (file units), closed surface"


def test_one_side_missing_is_open(make):
    facts = load_mesh(make.obj("open.obj", faces=SIDES[:-1])).facts()
    assert facts == MeshFacts(8, 10, (1.0, 1.0, 1.0), closed=False)
    assert str(facts).endswith("open surface")


def test_edge_of_three_faces_is_not_closed():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3], [0, 1, 4]])
    assert not Mesh(vertices, faces).facts().closed
    assert Mesh(vertices, faces[:4]).facts() == MeshFacts(5, 4, (1.0, 1.0, 1.0), closed=True)


CORNER = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
BROKEN = {
    "empty.obj": ("", "is empty"),
    "comment.obj": ("# nothing\n", "0 faces; at least one face is needed"),
    "points.obj": (POINTS, "0 faces; at least one face is needed"),
    "points.off": (off(CORNER, []), "0 faces; at least one face is needed"),
    "past.obj": (obj([(1, 2, 99)]), "at least one face is needed"),
    "zero.obj": (obj([(0, 1, 2)]), "at least one face is needed"),
    "past.off": (off(CORNER, [(0, 1, 7)]), "point past its 3 vertices"),
    "past.ply": (ply(CORNER, [(0, 1, 9)]), "point past its 3 vertices"),
    "before.ply": (ply(CORNER, [(0, 1, -1)]), "point past its 3 vertices"),
    "nan.obj": ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "nan.ply": (ply([("nan", 0, 0), *CORNER[1:]], [(0, 1, 2)]), "not finite"),
    "huge.ply": (ply([("1e39", 0, 0), *CORNER[1:]], [(0, 1, 2)]), "at least one face|not finite"),
    "half.ply": (ply(CORNERS, SIDES)[:-40], "breaks off: it states 6 faces"),
    "half.off": (off(CORNERS, SIDES)[:-40], "breaks off: it states 6 faces"),
    "half.stl": (stl(CORNERS, TRIANGLES)[:400], "at least one face is needed"),
    **{
        f"letter{end}": ("Dear all, this is a text.\n", "at least one")
        for end in (".obj", ".off", ".ply", ".stl", ".glb", ".gltf")
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(make, name):
    text, reason = BROKEN[name]
    with pytest.raises(DecodeError, match=rf"^{name}.*{reason}"):
        load_mesh(make.text(name, text))


def test_too_many_faces(make):
    with pytest.raises(DecodeError, match="12 faces; at most 11"):
        load_mesh(make.obj("cube.obj"), limits=MediaLimits(faces=11))


def test_missing_file(tmp_path):
    with pytest.raises(DecodeError, match="is missing"):
        load_mesh(tmp_path / "gone.obj")
