"""Meshes written by hand, in every format: by default a cube of edge 1 out of six squares."""

import base64
import json
import struct

import numpy as np

CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
TRIANGLES = [(side[0], *pair) for side in SIDES for pair in (side[1:3], side[2:4])]
MIXED = [*TRIANGLES[:2], *SIDES[1:]]
POINTS = "".join("v {} {} {}\n".format(*point) for point in CORNERS)
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


def lines(rows):
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def counted(faces):
    return [(len(face), *face) for face in faces]


def from_one(faces):
    return [[at + 1 for at in face] for face in faces]


def off(points=CORNERS, faces=SIDES, head="OFF\n# a comment\n"):
    return (f"{head}{len(points)} {len(faces)} 0\n" + lines(points) + lines(counted(faces))).encode()


def obj(faces, extra=""):
    return (POINTS + extra + "".join("f " + " ".join(map(str, face)) + "\n" for face in faces)).encode()


def ply_head(order, vertices, faces, extra=""):
    head = f"ply\nformat {order} 1.0\nelement vertex {vertices}\n" + lines(("property", "float", axis) for axis in "xyz")
    return (head + f"element face {faces}\nproperty list uchar int vertex_indices\n{extra}end_header\n").encode()


def ply(points=CORNERS, faces=SIDES, order="ascii"):
    head = ply_head(order, len(points), len(faces))
    if order == "ascii":
        return head + (lines(points) + lines(counted(faces))).encode()
    mark = ORDERS[order]
    return (
        head
        + b"".join(struct.pack(mark + "3f", *point) for point in points)
        + b"".join(struct.pack(f"{mark}B{len(face)}i", len(face), *face) for face in faces)
    )


def stl(points=CORNERS, faces=TRIANGLES):
    def facet(face):
        return "facet normal 0 0 0\nouter loop\n" + lines(("vertex", *points[at]) for at in face) + "endloop\nendfacet\n"

    return ("solid cube\n" + "".join(facet(face) for face in faces) + "endsolid cube\n").encode()


def binary_stl(points=CORNERS, faces=TRIANGLES, stated=None):
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *(x for at in face for x in points[at]), 0) for face in faces)
    return b"\0" * 80 + struct.pack("<I", len(faces) if stated is None else stated) + body


def tree_of(points=CORNERS, corners=TRIANGLES, *, mode=4, kind="<u4", nodes=({"mesh": 0},), roots=None):
    """A glTF as a dict, and its buffer. ``corners`` None is for no indices."""
    positions = np.array(points, "<f4").tobytes()
    indices = b"" if corners is None else np.array(corners, kind).tobytes()
    primitive = {"attributes": {"POSITION": 0}, "mode": mode}
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes))) if roots is None else roots}],
        "nodes": [dict(node) for node in nodes],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(positions)}],
        "buffers": [{"byteLength": len(positions) + len(indices)}],
    }
    if corners is not None:
        primitive["indices"] = 1
        number = {"<u1": 5121, "<u2": 5123, "<u4": 5125}[kind]
        count = np.array(corners).size
        tree["accessors"].append({"bufferView": 1, "componentType": number, "count": count, "type": "SCALAR"})
        tree["bufferViews"].append({"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices)})
    return tree, positions + indices


def gltf(tree, blob):
    """The buffer as a data URI."""
    uri = "data:application/octet-stream;base64," + base64.b64encode(blob).decode()
    return json.dumps({**tree, "buffers": [{**tree["buffers"][0], "uri": uri}]}).encode()


def glb(tree, blob):
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def beside(make, name, tree, blob, uri="data.bin"):
    """The buffer in a file of its own."""
    make.bytes("data.bin", blob)
    return make.text(name, json.dumps({**tree, "buffers": [{**tree["buffers"][0], "uri": uri}]}))


NORMALS = "".join("vn {} {} {}\n".format(*row) for row in [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)])
WITH_NORMALS = [[f"{at + 1}//{number}" for at in face] for number, face in enumerate(SIDES, 1)]
# One file of the unit cube for each way of writing it.
CUBES = {
    "quads.obj": obj(from_one(SIDES)),
    "triangles.obj": obj(from_one(TRIANGLES)),
    "mixed.obj": obj(from_one(MIXED)),
    "from-the-end.obj": obj([[at - 8 for at in face] for face in SIDES]),
    "normals.obj": obj(WITH_NORMALS, NORMALS),
    "textures.obj": obj(
        [[f"{at + 1}/1/{number}" for at in face] for number, face in enumerate(SIDES, 1)], NORMALS + "vt 0 0\n"
    ),
    "groups.obj": obj(from_one(SIDES[:3]), "g first\n") + b"o second\ng a b\ns off\n" + obj(from_one(SIDES[3:]))[len(POINTS) :],
    "lost-material.obj": b"mtllib gone.mtl\n" + obj(from_one(SIDES), "usemtl wood\n"),
    "line.obj": obj(from_one(SIDES)) + b"l 1 8\np 1\n",
    "windows.obj": obj(from_one(SIDES)).replace(b"\n", b"\r\n"),
    "old-mac.obj": obj(from_one(SIDES)).replace(b"\n", b"\r"),
    "tabs.obj": obj(from_one(SIDES)).replace(b" ", b"\t"),
    "continued.obj": obj(from_one(SIDES)).replace(b"f 1 2", b"f 1 \\\n 2").replace(b"v 1 1 ", b"v 1 \\\n1 "),
    "continued-windows.obj": obj(from_one(SIDES)).replace(b"f 1 2", b"f 1 \\\n 2").replace(b"\n", b"\r\n"),
    "coloured.obj": obj(from_one(SIDES)).replace(b"\nv", b" 0.5 0.5 0.5\nv"),
    "commented.obj": b"# made by hand\n\n" + obj(from_one(SIDES)).replace(b"\nf", b" # side\n  f"),
    "triangles.off": off(CORNERS, TRIANGLES),
    "quads.off": off(),
    "mixed.off": off(faces=MIXED),
    "glued.off": off(head="OFF"),
    "colours.off": off([(*point, 255, 0, 0, 255) for point in CORNERS], head="COFF\n"),
    "normals.off": off([(*point, 0, 0.5, 1) for point in CORNERS], head="NOFF\n"),
    "all.off": off([(*point, 0, 0, 1, 1, 0, 0, 1, 0, 0) for point in CORNERS], head="STCNOFF # all of it\n\n"),
    "face-colours.off": off().replace(b" 1 5 7 3\n", b" 1 5 7 3 0.5 0.5 1\n"),
    "comments.off": off().replace(b"\n", b" # why\n\n# because\n"),
    "triangles.ply": ply(CORNERS, TRIANGLES),
    "quads.ply": ply(),
    "mixed.ply": ply(faces=MIXED),
    "stray-vertex.ply": ply([*CORNERS, (50, 50, 50)]),
    "windows.ply": ply().replace(b"\n", b"\r\n"),
    **{f"triangles-{order}.ply": ply(faces=TRIANGLES, order=order) for order in ORDERS},
    **{f"quads-{order}.ply": ply(order=order) for order in ORDERS},
    **{f"mixed-{order}.ply": ply(faces=MIXED, order=order) for order in ORDERS},
    "text.stl": stl(),
    "upper-case.stl": stl().upper(),
    "windows.stl": stl().replace(b"\n", b"\r\n"),
    "two-solids.stl": stl(faces=TRIANGLES[:5]) + stl(faces=TRIANGLES[5:]),
    "binary.stl": binary_stl(),
    "binary-that-begins-solid.stl": b"solid facet " + binary_stl()[12:],
    "text.gltf": gltf(*tree_of()),
    "bytes.gltf": gltf(*tree_of(kind="<u1")),
    "bare.gltf": gltf(*tree_of([CORNERS[at] for face in TRIANGLES for at in face], None)),
    "binary.glb": glb(*tree_of()),
    "shorts.glb": glb(*tree_of(kind="<u2")),
    "glb-by-name.gltf": glb(*tree_of()),
}
