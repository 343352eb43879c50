"""What is read against what is in the file, and against trimesh where it reads the file right."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mesh_files import CORNERS, CUBES, SIDES, TRIANGLES, beside, binary_stl, glb, gltf, off, ply, stl, tree_of

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import load_mesh
from llama_index_mm.media.mesh_formats import polygons

TURN = [0, 0, np.sqrt(0.5), np.sqrt(0.5)]  # a quarter turn around z


def sides(vertices, faces):
    """Triangles as a sorted list of their corners' places: what a mesh is, whatever the order of its vertices."""
    corners = np.asarray(vertices, np.float64)[np.asarray(faces)].round(4) + 0.0
    return sorted(tuple(sorted(map(tuple, triangle))) for triangle in corners.tolist())


def area(mesh):
    a, b, c = mesh.vertices.astype(np.float64)[mesh.faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def by_trimesh(path):
    trimesh = pytest.importorskip("trimesh")
    read = trimesh.load_scene(path, process=False, skip_materials=True).to_mesh()
    return sides(read.vertices, read.faces)


# trimesh takes no tabs, no comments behind numbers and no lone carriage returns in OBJ files, no GLB by another name, and no
# binary PLY whose faces differ in their corners.
NOT_OF_TRIMESH = {"tabs.obj", "commented.obj", "old-mac.obj", "glb-by-name.gltf"}
NOT_OF_TRIMESH |= {f"mixed-binary_{end}_endian.ply" for end in ("big", "little")}


@pytest.mark.parametrize("name", sorted(CUBES.keys() - NOT_OF_TRIMESH))
def test_as_trimesh_reads_it(make, name):
    path = make.bytes(name, CUBES[name])
    mesh = load_mesh(path)
    assert sides(mesh.vertices, mesh.faces) == by_trimesh(path)


def ball(count=20):
    """A sphere out of quads and, at its poles, triangles; ``(vertices, faces)``."""
    across, up = np.meshgrid(np.arange(count) / count * 2 * np.pi, np.arange(1, count) / count * np.pi)
    points = np.stack([np.sin(up) * np.cos(across), np.cos(up), np.sin(up) * np.sin(across)], -1).reshape(-1, 3)
    points = np.concatenate([points, [[0, 1, 0], [0, -1, 0]]]).astype(np.float32)
    faces = [
        (row * count + at, row * count + (at + 1) % count, (row + 1) * count + (at + 1) % count, (row + 1) * count + at)
        for row in range(count - 2)
        for at in range(count)
    ]
    last = (count - 2) * count
    faces += [(len(points) - 2, (at + 1) % count, at) for at in range(count)]
    faces += [(len(points) - 1, last + at, last + (at + 1) % count) for at in range(count)]
    return points, faces


@pytest.mark.parametrize("kind", ["ply", "stl", "stl_ascii", "off", "obj", "glb", "gltf"])
def test_what_trimesh_writes(make, kind):
    trimesh = pytest.importorskip("trimesh")
    whole = trimesh.creation.icosphere(subdivisions=3).apply_transform(trimesh.transformations.rotation_matrix(1, [1, 2, 3]))
    scene = trimesh.Scene([whole])
    scene.add_geometry(trimesh.creation.torus(2, 0.5), transform=trimesh.transformations.translation_matrix([3, 0, 1]))
    suffix = kind.removesuffix("_ascii")
    if suffix in ("glb", "gltf"):
        written, mesh = scene.export(file_type=kind), scene.to_mesh()
        for name, data in (written if isinstance(written, dict) else {"model.glb": written}).items():
            path = make.bytes(name, data)
        path = path.parent / f"model.{kind}"
    else:
        mesh = scene.to_mesh()
        written = mesh.export(file_type=kind)
        path = make.bytes(f"model.{suffix}", written.encode() if isinstance(written, str) else written)
    read = load_mesh(path)
    assert read.facts().closed
    assert len(read.faces) == len(mesh.faces)
    # Not to the last digit, as text formats round: every triangle's centre is where it was.
    found = np.sort(read.vertices[read.faces].mean(1).round(3) + 0.0, axis=0)
    np.testing.assert_allclose(found, np.sort(mesh.triangles_center.round(3) + 0.0, axis=0), atol=2e-3)
    assert area(read) == pytest.approx(mesh.area, rel=1e-4)


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_quads_and_triangles_mixed(make, order):
    points, faces = ball()
    one = load_mesh(make.bytes("ball.off", off(points.tolist(), faces)))
    two = load_mesh(make.bytes("ball.ply", ply(points.tolist(), faces, order)))
    assert one.facts().closed
    assert len(one.faces) == sum(len(face) - 2 for face in faces)
    assert sides(one.vertices, one.faces) == sides(two.vertices, two.faces)


def written(faces, points):
    return "".join("v {} {} {}\n".format(*point) for point in points) + "".join(
        "f " + " ".join(str(at + 1) for at in face) + "\n" for face in faces
    )


LETTERS = {
    "arrow": ([(0, 0), (2, -1), (1, 0), (2, 1)], 1.0),
    "L": ([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], 3.0),
    "E": ([(0, 0), (3, 0), (3, 1), (1, 1), (1, 2), (3, 2), (3, 3), (1, 3), (1, 4), (3, 4), (3, 5), (0, 5)], 11.0),
    "comb": ([(0, -1), *((x / 2, x % 2 * 3) for x in range(40)), (19.5, -1)], 19.5 + 0.5 * 3 * 19.5),
    "slit": ([(0, 0), (4, 0), (4, 4), (0, 4), (0, 3), (3, 3), (3, 1), (0, 1)], 10.0),
    "straight": ([(0, 0), (1, 0), (2, 0), (2, 2), (1, 2), (0, 2)], 4.0),
}


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("begin", range(6))
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_hollow_polygons_keep_their_outline(make, letter, begin, axes):
    flat, expected = LETTERS[letter]
    points = np.array([(x, y, 0.5) for x, y in [*flat[begin:], *flat[:begin]]])[:, axes]
    for order in (points, points[::-1]):
        mesh = load_mesh(make.text("letter.obj", written([range(len(points))], order.tolist())))
        assert len(mesh.faces) == len(points) - 2
        assert area(mesh) == pytest.approx(expected, rel=1e-5)
        a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
        normals = np.cross(b - a, c - a) @ np.eye(3)[axes.index(2)]
        assert (normals > -1e-6).all() or (normals < 1e-6).all()  # none is turned over


@pytest.mark.parametrize("block", [1, 4, 7, 64])
def test_polygons_are_cut_in_blocks(make, monkeypatch, block):
    points, faces = ball()
    path = make.bytes("ball.off", off(points.tolist(), faces))
    whole = load_mesh(path)
    monkeypatch.setattr(polygons, "_BLOCK", block)
    mesh = load_mesh(path)
    np.testing.assert_array_equal(mesh.faces, whole.faces)
    np.testing.assert_array_equal(mesh.vertices, whole.vertices)


def test_round_polygon_of_many_corners(make):
    angles = 2 * np.pi * np.arange(5000) / 5000
    points = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    mesh = load_mesh(make.text("disc.obj", written([range(5000)], points.tolist())))
    assert len(mesh.faces) == 4998
    assert area(mesh) == pytest.approx(np.pi, rel=1e-4)


def test_corners_count_back_from_where_they_stand(make):
    first = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\n"
    second = "v 5 0 0\nv 6 0 0\nv 5 1 0\nf -3//1 4//1 -1//1\nf 1/2/3 5/2/3 -4\n"
    mesh = load_mesh(make.text("back.obj", first.replace("f -3 -2 -1", "f -3 -2 \\\n-1") + second.replace("4//1", "-2//1")))
    corner = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
    moved = [(5, 0, 0), (6, 0, 0), (5, 1, 0)]
    assert sides(mesh.vertices, mesh.faces) == sides([*corner, *moved], [(0, 1, 2), (3, 4, 5), (0, 4, 2)])


def test_ply_with_everything_around(make):
    """Other elements before, between and after; other properties before and after, also lists."""
    head = (
        "ply\nformat binary_big_endian 1.0\ncomment made by hand\nobj_info nothing\nelement camera 2\nproperty double f\n"
        "property list uchar short l\nelement vertex 8\nproperty uchar red\nproperty double z\nproperty float x\n"
        "property short y\nelement empty 4000000000\nelement face 6\nproperty uchar flag\n"
        "property list ushort uint vertex_index\nproperty list uchar float texcoord\nproperty double weight\n"
        "element edge 1\nproperty int vertex1\nproperty int vertex2\nend_header\n"
    )
    body = np.array([1.5], ">f8").tobytes() + b"\x02" + b"\0" * 4 + np.array([2.5], ">f8").tobytes() + b"\0"
    for x, y, z in CORNERS:
        body += b"\x09" + np.array([z], ">f8").tobytes() + np.array([x], ">f4").tobytes() + np.array([y], ">i2").tobytes()
    for number, side in enumerate(SIDES):
        body += b"\x01" + np.array([4], ">u2").tobytes() + np.array(side, ">u4").tobytes()
        body += bytes([number]) + np.zeros(number, ">f4").tobytes() + np.zeros(1, ">f8").tobytes()
    mesh = load_mesh(make.bytes("all.ply", head.encode() + body + np.zeros(2, ">i4").tobytes()))
    cube = load_mesh(make.bytes("cube.ply", CUBES["quads.ply"]))
    assert sides(mesh.vertices, mesh.faces) == sides(cube.vertices, cube.faces)


def test_stl_with_bytes_behind(make):
    assert len(load_mesh(make.bytes("longer.stl", binary_stl() + b"made by hand")).faces) == 12


def test_stl_whose_name_holds_its_words(make):
    named = stl().replace(b"solid cube", b"solid vertex 1 2 3 facet endfacet")
    assert load_mesh(make.bytes("named.stl", named)).facts().closed


MOVED = ({"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]})
NESTED = ({"children": [1, 2], "scale": [2, 2, 2]}, {"mesh": 0, "translation": [5, 0, 0]}, {"children": [3]}, {"mesh": 0})
BY_MATRIX = ({"mesh": 0, "matrix": [0, 2, 0, 0, -3, 0, 0, 0, 0, 0, 4, 0, 7, 8, 9, 1]},)
TURNED = ({"mesh": 0, "rotation": TURN, "translation": [1, 2, 3], "scale": [1, 2, 3]},)
PLACES = {
    "moved": (MOVED, None, [np.eye(3), np.eye(3)], [(0, 0, 0), (5, 0, 0)]),
    "nested": (NESTED, [0], [2 * np.eye(3)] * 2, [(10, 0, 0), (0, 0, 0)]),
    "matrix": (BY_MATRIX, None, [np.array([[0, -3, 0], [2, 0, 0], [0, 0, 4]])], [(7, 8, 9)]),
    "turned": (TURNED, None, [np.array([[0, -2, 0], [1, 0, 0], [0, 0, 3]])], [(1, 2, 3)]),
    "unused": ((*MOVED[1:], {"mesh": 0}), [0], [np.eye(3)], [(5, 0, 0)]),
}


@pytest.mark.parametrize("case", PLACES)
def test_nodes_put_meshes_in_their_places(make, case):
    nodes, roots, turns, moves = PLACES[case]
    data = glb(*tree_of(nodes=nodes, roots=roots))
    mesh = load_mesh(path := make.bytes("scene.glb", data))
    expected = [
        side
        for turn, move in zip(turns, moves, strict=True)
        for side in sides(np.array(CORNERS) @ turn.T + np.array(move), TRIANGLES)
    ]
    assert sides(mesh.vertices, mesh.faces) == sorted(expected) == by_trimesh(path)


@pytest.mark.parametrize("scale", [(1, 1, -1), (-1, 1, 1), (2, 3, 4)])
def test_mirrored_nodes_keep_the_outside_outside(make, scale):
    mesh = load_mesh(make.bytes("mirror.glb", glb(*tree_of(nodes=({"mesh": 0, "scale": scale},)))))
    plain = load_mesh(make.bytes("plain.glb", CUBES["binary.glb"]))
    volumes = [np.linalg.det(part.vertices[part.faces] - part.vertices.mean(0)).sum() / 6 for part in (mesh, plain)]
    assert volumes[0] == pytest.approx(volumes[1] * abs(np.prod(scale)))


def parts():
    """Two meshes, one of two primitives that share their vertices, and lines and points that are no surface."""
    tree, blob = tree_of(nodes=({"mesh": 0}, {"mesh": 1, "translation": [3, 0, 0]}))
    attributes = {"POSITION": 0}
    first = {"bufferView": 1, "componentType": 5125, "count": 18, "type": "SCALAR"}
    tree["accessors"] += [first, {**first, "byteOffset": 72}]
    halves = [{"attributes": attributes, "indices": at} for at in (2, 3)]
    nothing = [{"attributes": attributes, "mode": mode} for mode in (0, 1, 2, 3)]
    tree["meshes"].append({"primitives": [*halves, *nothing, {"attributes": {"NORMAL": 0}}]})
    return tree, blob


def test_all_meshes_and_primitives(make):
    mesh = load_mesh(make.bytes("parts.gltf", gltf(*parts())))
    expected = sides(CORNERS, TRIANGLES) + sides(np.add(CORNERS, (3, 0, 0)), TRIANGLES)
    assert sides(mesh.vertices, mesh.faces) == sorted(expected)


STRIP = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 2, 0), (1, 2, 1)]
BENT = {
    5: [(0, 1, 2), (1, 3, 2), (2, 3, 4), (3, 5, 4)],
    6: [(1, 2, 0), (2, 3, 0), (3, 4, 0), (4, 5, 0)],
    4: [(0, 1, 2), (3, 4, 5)],
}


@pytest.mark.parametrize("mode", BENT)
@pytest.mark.parametrize("indexed", [True, False])
def test_strips_and_fans(make, mode, indexed):
    data = glb(*tree_of(STRIP, list(range(6)) if indexed else None, mode=mode))
    mesh = load_mesh(make.bytes("strip.glb", data))
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], np.array(STRIP, np.float32)[BENT[mode]])


def test_interleaved_and_quantized(make):
    """Positions of 16 bits beside other numbers, as KHR_mesh_quantization has them."""
    tree, _ = tree_of()
    rows = np.zeros(8, [("position", "<i2", 3), ("pad", "<i2"), ("normal", "<i1", 4)])
    rows["position"] = np.array(CORNERS) * 32767
    indices = np.array(TRIANGLES, "<u4").tobytes()
    tree["extensionsRequired"] = tree["extensionsUsed"] = ["KHR_mesh_quantization", "KHR_materials_unlit"]
    tree["accessors"][0].update(componentType=5122, normalized=True, byteOffset=4)
    tree["bufferViews"] = [{"buffer": 0, "byteLength": 4 + 96, "byteStride": 12}]
    tree["bufferViews"].append({"buffer": 0, "byteOffset": 100, "byteLength": len(indices)})
    tree["buffers"] = [{"byteLength": 100 + len(indices)}]
    mesh = load_mesh(make.bytes("small.glb", glb(tree, b"\xff" * 4 + rows.tobytes() + indices)))
    assert sides(mesh.vertices, mesh.faces) == sides(CORNERS, TRIANGLES)


@pytest.mark.parametrize("blank", [True, False])
def test_sparse_accessors(make, blank):
    """Corner 7 moves to (4, 5, 6); with no buffer view at all, every other vertex is at the origin."""
    tree, blob = tree_of()
    tree["accessors"][0]["sparse"] = {
        "count": 3,
        "indices": {"bufferView": 2, "componentType": 5121},
        "values": {"bufferView": 3},
    }
    if blank:
        del tree["accessors"][0]["bufferView"]
    moved = np.array([[4, 5, 6], CORNERS[1], CORNERS[3]], "<f4").tobytes()
    tree["bufferViews"] += [
        {"buffer": 0, "byteOffset": len(blob), "byteLength": 3},
        {"buffer": 0, "byteOffset": len(blob) + 3, "byteLength": 36},
    ]
    tree["buffers"] = [{"byteLength": len(blob) + 39}]
    mesh = load_mesh(make.bytes("sparse.glb", glb(tree, blob + b"\x07\x01\x03" + moved)))
    points = np.zeros((8, 3)) if blank else np.array(CORNERS, float)
    points[[7, 1, 3]] = [(4, 5, 6), CORNERS[1], CORNERS[3]]
    used = [face for face in TRIANGLES if len({tuple(points[at]) for at in face}) == 3]
    assert sides(mesh.vertices, mesh.faces) == sides(points, used)


@pytest.mark.parametrize("uri", ["data.bin", "./data.bin", "d%61ta.bin", "sub/../data.bin"])
def test_buffer_in_a_file_beside(make, uri):
    make.text("sub/other", "")
    mesh = load_mesh(beside(make, "cube.gltf", *tree_of(), uri))
    assert sides(mesh.vertices, mesh.faces) == sides(CORNERS, TRIANGLES)


def test_buffer_in_a_folder_below_with_a_strange_name(make):
    tree, blob = tree_of()
    make.bytes("parts/käse 100%.bin", blob)
    tree["buffers"][0]["uri"] = "parts/k%C3%A4se%20100%25.bin"
    mesh = load_mesh(make.text("cube.gltf", json.dumps(tree)))
    assert sides(mesh.vertices, mesh.faces) == sides(CORNERS, TRIANGLES)


def test_relative_path_of_the_file(make, monkeypatch):
    path = beside(make, "folder/cube.gltf", *tree_of(), "../data.bin")
    with pytest.raises(DecodeError, match="outside of its folder"):
        load_mesh(path)
    make.bytes("folder/data.bin", (path.parent.parent / "data.bin").read_bytes())
    path.write_text(path.read_text().replace("../", ""))
    monkeypatch.chdir(path.parent)
    assert len(load_mesh("cube.gltf").faces) == 12
    assert len(load_mesh(Path(os.curdir) / "cube.gltf").faces) == 12


def test_the_scene_that_is_shown(make):
    tree, blob = tree_of(nodes=MOVED)
    tree["scenes"] = [{"nodes": [0]}, {"nodes": [1]}, {}]
    shown = {}
    for scene in (None, 0, 1, 2):
        tree.pop("scene", None)
        path = make.bytes("scene.glb", glb(tree if scene is None else {**tree, "scene": scene}, blob))
        shown[scene] = sides(*((mesh := load_mesh(path)).vertices, mesh.faces)) if scene != 2 else path
    assert shown[None] == shown[0] == sides(CORNERS, TRIANGLES)
    assert shown[1] == sides(np.add(CORNERS, (5, 0, 0)), TRIANGLES)
    with pytest.raises(DecodeError, match="at least one face is needed"):
        load_mesh(shown[2])


@pytest.mark.parametrize("missing", [("scenes", "scene"), ("scenes", "scene", "nodes")])
def test_without_scenes_and_nodes_all_is_shown(make, missing):
    tree, blob = tree_of(nodes=({"children": [1]}, {"mesh": 0}))
    for key in missing:
        del tree[key]
    mesh = load_mesh(make.bytes("bare.glb", glb(tree, blob)))
    assert sides(mesh.vertices, mesh.faces) == sides(CORNERS, TRIANGLES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"asset": {"version": "1.0"}}, "glTF of version 1.0; only version 2"),
        ({"asset": None}, "glTF of version None"),
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "needs glTF extensions .*: KHR_draco_mesh_compression"),
        ({"extensionsRequired": ["EXT_meshopt_compression"]}, "Save it without, uncompressed"),
        ({"scene": 7}, "points to 7 of its 1 scenes"),
        ({"scene": True}, "points to True of its 1 scenes"),
        ({"nodes": [{"mesh": 3}]}, "points to 3 of its 1 meshes"),
        ({"nodes": [{"mesh": "a"}]}, "'mesh' is a, not a whole number"),
        ({"nodes": [{"mesh": 0, "rotation": [0, 0, 0, 0]}]}, "quaternion of zeros"),
        ({"nodes": [{"mesh": 0, "scale": [1, 1]}]}, "the scale of a node is not 3 numbers"),
        ({"nodes": [{"mesh": 0, "matrix": ["1"] * 16}]}, "the matrix of a node is not 16 numbers"),
        ({"nodes": [{"mesh": 0, "scale": [1e300, 1, 1]}]}, "not finite"),
        ({"nodes": [{"mesh": 0, "translation": [10**400, 1, 1]}]}, "can't be read|not finite"),
        ({"meshes": [{"primitives": [{}]}]}, "a primitive without attributes"),
        ({"meshes": {}}, "'meshes' is no list"),
        ({"accessors": []}, "points to 1 of its 0 accessors"),
        ({"bufferViews": [7, 7]}, "points to 1 of its 2 bufferViews|points to 0"),
        ({"buffers": [{"byteLength": -1}]}, "'byteLength' is -1"),
    ],
)
def test_wrong_trees(make, change, reason):
    tree, blob = tree_of()
    with pytest.raises(DecodeError, match=rf"^wrong\.glb .*({reason})"):
        load_mesh(make.bytes("wrong.glb", glb({**tree, **change}, blob)))
