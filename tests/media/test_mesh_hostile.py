"""Files that lie, break off, or reach for what isn't theirs: refused with a reason, at little cost."""

import json
import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from mesh_files import (
    CORNERS,
    CUBES,
    SIDES,
    beside,
    binary_stl,
    from_one,
    glb,
    gltf,
    obj,
    off,
    ply,
    ply_head,
    tree_of,
)

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import MediaLimits, load_mesh

MANY = 4_000_000_000
SOME = 19_000_000  # within the limit on faces
MIB = 1 << 20


def changed(**parts):
    """The cube as GLB, some of whose lists' first entries were changed: accessors=..., or indices=... for the second."""
    tree, blob = tree_of()
    for key, change in parts.items():
        entry = tree["accessors"][1] if key == "indices" else tree[key][0]
        entry.update(change)
    return glb(tree, blob)


def sparse(count=1, at=9, items=None):
    """One vertex replaced; with ``items``, of that many that are zero otherwise."""
    tree, blob = tree_of()
    part = {"count": count, "indices": {"bufferView": 2, "componentType": 5125}, "values": {"bufferView": 0}}
    tree["accessors"][0]["sparse"] = part
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(blob), "byteLength": 4})
    tree["buffers"][0]["byteLength"] += 4
    if items is not None:
        tree["accessors"][0]["count"] = items
        del tree["accessors"][0]["bufferView"]
    return glb(tree, blob + np.array([at], "<u4").tobytes())


def instances(number, faces):
    """Many nodes that all show one mesh, whose triangles are counted, but small: an index takes a byte."""
    data = tree_of(corners=[0, 1, 2] * faces, kind="<u1", nodes=[{"mesh": 0}] * number)
    return glb(*data)


def nodes(*children, roots=(0,)):
    return glb(*tree_of(nodes=[{"mesh": 0, "children": list(inner)} for inner in children], roots=list(roots)))


def listed(count, kind="uint"):
    head = ply_head("binary_little_endian", 8, 2).replace(b"list uchar", b"list " + kind.encode())
    return head + ply(order="binary_little_endian", faces=[])[len(ply_head("binary_little_endian", 8, 0)) :] + count


def ascii_list(count):
    return ply(faces=[]).replace(b"face 0", b"face 2") + f"{count} 0 1 2\n3 0 1 2\n".encode()


def states(kind, vertices, faces):
    return ply_head(kind, vertices, faces) + b"0 0 0\n" * 40


FORMS = ("ascii", "binary_little_endian", "binary_big_endian")
BOMBS = {
    **{f"vertices-{kind}.ply": (states(kind, MANY, 1), "states 4,000,000,000 vertices, but holds fewer") for kind in FORMS},
    **{f"faces-{kind}.ply": (states(kind, 3, MANY), "has 4,000,000,000 faces; at most 20,000,000") for kind in FORMS},
    **{f"some-{kind}.ply": (states(kind, 3, SOME), "states 19,000,000 faces, but holds fewer") for kind in FORMS},
    "overflow.ply": (states("ascii", 10**17, 10**7), "states 100,000,000,000,000,000 vertices, but holds fewer"),
    "digits.ply": (states("ascii", "9" * 5000, 1), "a line that makes no sense"),
    "list.ply": (listed(np.array([MANY], "<u4").tobytes() + b"\0" * 99), "a face of 4,000,000,000 corners|states 2 faces"),
    "negative-list.ply": (listed(b"\xff" * 99, "char"), "a list of -1 items"),
    "endless-list.ply": (ascii_list("inf"), "a list of inf items"),
    "fraction-of-list.ply": (ascii_list("2.5"), "a list of 2.5 items"),
    "long-list.ply": (ascii_list(MANY), "states 2 faces, but holds fewer"),
    "no-end.ply": (ply_head("ascii", 1, 1)[:-11] + b"comment x\n" * 10**6, "header that begins with 'ply' and ends"),
    "count.stl": (binary_stl(stated=2**32 - 1), "has 4,294,967,295 faces; at most"),
    "some.stl": (binary_stl(stated=SOME), "states 19,000,000 faces, which take 950,000,084 bytes, but has 684"),
    "vertices.off": (off().replace(b"8 6 0", b"4000000000 6 0"), "states 4,000,000,000 vertices, but holds 14"),
    "faces.off": (off().replace(b"8 6 0", b"8 4000000000 0"), "has 4,000,000,000 faces; at most"),
    "some.off": (off().replace(b"8 6 0", b"8 19000000 0"), "states 19,000,000 faces, but holds 6"),
    "digits.off": (off().replace(b"8 6 0", b"9" * 5000 + b" 6 0"), "without its numbers of vertices and faces"),
    "corners.off": (off().replace(b"4 0 1 3 2", b"4000000000 0 1 3 2"), "states 6 faces, but holds 0"),
    "minus.off": (off().replace(b"4 0 1 3 2", b"-4 0 1 3 2"), "states 6 faces, but holds 0"),
    "digits.obj": (obj([(1, 2, "9" * 5000)]), "point past its 8 vertices|no number"),
    "minus-digits.obj": (obj([(1, 2, "-" + "9" * 30)]), "point past its 8 vertices|no number"),
    "indices.glb": (changed(indices={"count": MANY}), "has 1,333,333,333 faces; at most"),
    "some-indices.glb": (changed(indices={"count": SOME}), "accessor 1 states 19,000,000 items, more than its 144 bytes"),
    "positions.glb": (changed(accessors={"count": MANY}), "accessor 0 states 4,000,000,000 items, more than its 96 bytes"),
    "far.glb": (changed(accessors={"byteOffset": 2**52}), "accessor 0 states 8 items, more than its 96 bytes"),
    "before.glb": (changed(accessors={"byteOffset": -4}), "'byteOffset' is -4, not a whole number"),
    "fraction.glb": (changed(accessors={"count": 7.5}), "'count' is 7.5, not a whole number"),
    "no-count.glb": (changed(accessors={"count": None}), "'count' is None, not a whole number"),
    "view.glb": (changed(bufferViews={"byteLength": MANY}), "buffer view 0 ends at byte 4,000,000,000 of a buffer of 240"),
    "view-far.glb": (changed(bufferViews={"byteOffset": 200}), "buffer view 0 ends at byte 296 of a buffer of 240"),
    "stride.glb": (changed(bufferViews={"byteStride": 4}), "accessor 0 states 8 items"),
    "wide.glb": (changed(bufferViews={"byteStride": 2**40}), "accessor 0 states 8 items"),
    "buffer.glb": (changed(buffers={"byteLength": MANY}), "buffer 0 states 4,000,000,000 bytes, but holds 240"),
    "type.glb": (changed(accessors={"componentType": 5130}), "accessor 0 holds VEC3 of type 5130"),
    "shape.glb": (changed(accessors={"type": "MAT4"}), "accessor 0 holds MAT4 of type 5126"),
    "float-indices.glb": (changed(indices={"componentType": 5126}), "accessor 1 holds SCALAR of type 5126"),
    "no-view.glb": (changed(accessors={"bufferView": None}), "points to None of its 2 bufferViews"),
    "past.glb": (glb(*tree_of(corners=[0, 1, 8])), "point past its 8 vertices"),
    "nan.glb": (glb(*tree_of([(0, 0, np.nan), *CORNERS[1:]])), "not finite"),
    "infinite.glb": (glb(*tree_of([(0, 0, -np.inf), *CORNERS[1:]])), "not finite"),
    "sparse-count.glb": (sparse(count=MANY), "the sparse part of accessor 0 states 4,000,000,000 items, more than its 4"),
    "sparse-past.glb": (sparse(at=8), "points to 8 of 8 items"),
    "blank.glb": (sparse(at=1, items=MANY), "has 4,000,000,000 items in accessor 0, but no data for them"),
    "all-in-one-place.glb": (sparse(at=0, items=8), "three corners in different places"),
    "cycle.glb": (nodes([1], [2], [0]), "node 0 has two parents, or is its own ancestor"),
    "own-child.glb": (nodes([0]), "node 0 has two parents, or is its own ancestor"),
    "diamonds.glb": (nodes(*([at + 1, at + 1] for at in range(60)), []), r"node \d+ has two parents"),
    "twice.glb": (nodes([], roots=(0, 0)), "node 0 has two parents"),
    "instances.glb": (instances(3000, 10_000), "has 30,000,000 faces; at most 20,000,000"),
    "nested.gltf": (b'{"asset":' + b"[" * MIB, "nested too deep"),
    "nested.glb": (glb({"a": 0}, b"").replace(b'{"a": 0}', b"[" * 8), "JSON part"),
    "digits.gltf": (b'{"asset":{"version":"2.0"},"scene":' + b"9" * 10_000 + b"}", "JSON part that can't be read"),
    "nan.gltf": (gltf(*tree_of()).replace(b'"count": 8', b'"count": NaN'), "NaN is no number of JSON"),
    "list.gltf": (b"[]", "its JSON part is no object"),
    "utf-16.gltf": (gltf(*tree_of()).decode().encode("utf-16"), "JSON part that can't be read"),
    "letters.gltf": (gltf(*tree_of()).replace(b"base64,", b"base64,????"), "data URI in buffer 0 that can't be decoded"),
    "plain.gltf": (gltf(*tree_of()).replace(b";base64,", b","), "not base64"),
    "short.gltf": (gltf(tree_of()[0], tree_of()[1][:-3]), "buffer 0 states 240 bytes, but holds 237"),
    "version.glb": (CUBES["binary.glb"].replace(b"glTF\2", b"glTF\1", 1), "GLB of version 1; only version 2"),
    "chunk.glb": (CUBES["binary.glb"][:12] + b"\xff" * 4 + CUBES["binary.glb"][16:], "chunk of 4,294,967,295 bytes goes past"),
    "no-json.glb": (CUBES["binary.glb"].replace(b"JSON", b"JSOM", 1), "has no JSON chunk"),
    "no-binary.glb": (CUBES["binary.glb"].replace(b"BIN\0", b"BON\0", 1), "neither a URI nor a binary chunk"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_lies_are_refused_before_they_cost(make, name):
    data, reason = BOMBS[name]
    path = make.bytes(name, data)
    tracemalloc.start()
    begun = time.perf_counter()
    try:
        with pytest.raises(DecodeError, match=rf"^{name} .*({reason})"):
            load_mesh(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB + 10 * len(data)
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begun < 5


def test_a_face_of_ten_million_corners(make):
    path = make.bytes("round.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf " + b"1 2 3 " * 3_333_334)
    with pytest.raises(DecodeError, match=r"has a face of 10,000,002 corners; at most 65,536 are taken\. Triangulate it\."):
        load_mesh(path)


def test_ten_thousand_instances_within_the_limit(make):
    tree, blob = tree_of(nodes=[{"mesh": 0, "translation": [2 * at, 0, 0]} for at in range(10_000)])
    assert len(load_mesh(make.bytes("row.glb", glb(tree, blob))).faces) == 120_000


def test_many_parts_of_one_large_buffer_take_what_they_use(make):
    """A hundred nodes of one triangle each, whose vertices are a million: kept whole they would take 2.4 GB."""
    points = np.zeros((MIB, 3), "<f4")
    points[: len(CORNERS)] = CORNERS
    moved = [{"mesh": 0, "translation": [at, 0, 0]} for at in range(100)]
    path = make.bytes("parts.glb", glb(*tree_of(points, [0, 1, 2], nodes=moved)))
    tracemalloc.start()
    try:
        mesh = load_mesh(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    finally:
        tracemalloc.stop()
    assert len(mesh.faces) == 100


def test_a_deep_chain_of_nodes_is_no_matter(make):
    chain = [{"children": [at + 1]} for at in range(20_000)] + [{"mesh": 0}]
    assert len(load_mesh(make.bytes("chain.glb", glb(*tree_of(nodes=chain, roots=[0])))).faces) == 12


def test_json_counts_without_its_data(make):
    tree, blob = tree_of()
    path = make.bytes("cube.gltf", gltf(tree, blob + b"\0" * 10_000))
    assert len(load_mesh(path, limits=MediaLimits(characters=2000)).faces) == 12
    with pytest.raises(DecodeError, match=r"JSON part of \d+ bytes; at most 300 are taken"):
        load_mesh(path, limits=MediaLimits(characters=300))


def test_bytes_of_the_file_and_of_its_buffers_are_bounded(make):
    tree, blob = tree_of()
    path = beside(make, "cube.gltf", tree, blob + b"\0" * 10_000)
    assert len(load_mesh(path, limits=MediaLimits(file_bytes=2000)).faces) == 12  # no more than it states is read
    tree["buffers"][0]["byteLength"] = 9000
    with pytest.raises(DecodeError, match=r"takes 9,000 bytes from 'data.bin'; 2,000 may still be read"):
        load_mesh(beside(make, "cube.gltf", tree, blob + b"\0" * 10_000), limits=MediaLimits(file_bytes=2000))
    with pytest.raises(DecodeError, match="at most 100 are read"):
        load_mesh(path, limits=MediaLimits(file_bytes=100))


# OBJ has no number of its lines, and a text of STL solids may end after each of them.
TELLING = sorted(name for name in CUBES if not name.endswith(".obj") and name != "two-solids.stl")


@pytest.mark.parametrize("name", TELLING)
def test_files_that_break_off_are_never_given_in_part(make, name):
    data = CUBES[name]
    whole = load_mesh(make.bytes(name, data))
    refused = 0
    for size in np.unique(np.linspace(1, len(data) - 1, 60, dtype=int)):
        try:
            mesh = load_mesh(make.bytes(name, data[:size]))
        except DecodeError:
            refused += 1
        else:
            np.testing.assert_array_equal(mesh.faces, whole.faces)
            np.testing.assert_array_equal(mesh.vertices, whole.vertices)
    assert refused >= 50  # what is left over can miss a line's end, or the colour of the last face


@pytest.mark.parametrize("name", ["quads.obj", "normals.obj"])
def test_an_obj_that_breaks_off_within_a_face(make, name):
    data = CUBES[name]
    last = data.rstrip().rindex(b"f ")
    with pytest.raises(DecodeError, match="Is it complete"):
        load_mesh(make.bytes(name, data[: last + len(b"f 1 2")]))


WATCH = """
import sys, json
from llama_index_mm.errors import DecodeError
from llama_index_mm.media import load_mesh
load_mesh(sys.argv[1])
seen = []
sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event in ("open", "socket.connect", "socket.getaddrinfo",
    "subprocess.Popen", "os.system", "os.listdir", "glob.glob") else None)
out = {}
for path in sys.argv[1:]:
    seen.clear()
    try:
        result = len(load_mesh(path).faces)
    except DecodeError as error:
        result = str(error)
    out[path] = (result, list(seen))
print(json.dumps(out))
"""


def watched(paths):
    """Faces or the error of each file, and all that was opened for it. Pipes without a writer would block who opens them."""
    command = [sys.executable, "-c", WATCH, *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    results = json.loads(done.stdout)
    # Opening a handle that is open already is no opening of a file.
    return [(result, [name for name in opened if not name.isdecimal()]) for result, opened in map(results.get, map(str, paths))]


@pytest.fixture
def folder(make, tmp_path):
    """A folder beside which lies what must not be opened; within, links that lead there."""
    inside = tmp_path / "own"
    inside.mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(inside / "pipe")
    make.bytes("secret.bin", tree_of()[1])
    make.text("secret.mtl", "newmtl a\n")
    make.bytes("own/data.bin", tree_of()[1])
    make.bytes("own-not/data.bin", tree_of()[1])
    (inside / "link").symlink_to(tmp_path / "secret.bin")
    (inside / "link-to-pipe").symlink_to(tmp_path / "pipe")
    (inside / "up").symlink_to(tmp_path)
    (inside / "zero").symlink_to("/dev/zero")
    (inside / "round").symlink_to(inside / "round")
    return inside


def test_obj_and_ply_open_nothing_else(make, folder):
    names = ["../pipe", "pipe", str(folder.parent / "pipe"), "up/pipe", "link-to-pipe", "../secret.mtl", "data.bin"]
    statements = ["mtllib {}", "usemtl {}", "maplib {}", "usemap {}", "call {}", "csh cat {}", "shadow_obj {}", "trace_obj {}"]
    paths = []
    for number, name in enumerate(names):
        head = "".join(statement.format(name) + "\n" for statement in statements)
        data = head.encode() + obj(from_one(SIDES), head)
        paths.append(make.bytes(f"own/{number}.obj", data.replace(b"call", b"call \\\n", 1)))
        texture = f"comment TextureFile {name}\nelement vertex".encode()
        paths.append(make.bytes(f"own/{number}.ply", ply().replace(b"element vertex", texture)))
    for path, (result, opened) in zip(paths, watched(paths), strict=True):
        assert (result, opened) == (12, [str(path)])


OUTSIDE = {
    "../secret.bin": "outside of its folder",
    "..%2Fsecret.bin": "outside of its folder",
    "%2e%2e/secret.bin": "outside of its folder",
    "x/../../secret.bin": "outside of its folder",
    "../own-not/data.bin": "outside of its folder",
    "../pipe": "outside of its folder",
    "up/secret.bin": "outside of its folder",
    "link": "outside of its folder",
    "link-to-pipe": "outside of its folder",
    "zero": "outside of its folder",
    "/dev/zero": "only files in its own folder",
    "/etc/passwd": "only files in its own folder",
    "%2Fetc%2Fpasswd": "only files in its own folder",
    "//host/share": "only files in its own folder",
    "\\\\host\\share": "only files in its own folder",
    "..\\secret.bin": "only files in its own folder",
    "C:\\data.bin": "only files in its own folder",
    "C:data.bin": "only files in its own folder",
    "file:///etc/passwd": "only files in its own folder",
    "FILE:data.bin": "only files in its own folder",
    "http://127.0.0.1:9/x": "only files in its own folder",
    "https://localhost/x": "only files in its own folder",
    "s3://bucket/x": "only files in its own folder",
    "data%00.bin": "only files in its own folder",
    "data.bin%00.png": "only files in its own folder",
    "pipe": "no regular file|can't be read",
    ".": "can't be read|no regular file",
    "": "can't be read|no regular file",
    "gone.bin": "can't be read: No such file",
    "round": "can't be read|can't be read as a mesh",
    "a" * 5000: "can't be read",
    "%FF.bin": "can't be read as a mesh",
}


def test_gltf_opens_no_file_outside_of_its_folder(make, folder):
    tree, _ = tree_of()
    paths = []
    for number, uri in enumerate(OUTSIDE):
        tree["buffers"][0]["uri"] = uri
        paths.append(make.text(f"own/{number}.gltf", json.dumps(tree)))
    paths.append(make.bytes("own/inline.glb", glb({**tree, "buffers": [{"byteLength": 240, "uri": "../pipe"}]}, b"")))
    reasons = [*OUTSIDE.values(), "outside of its folder"]
    inside = {str(folder / name) for name in (".", "pipe", "gone.bin", "round", "a" * 5000)} | {str(folder)}
    first = make.bytes("own/first.ply", ply())
    for path, reason, (result, opened) in zip(paths, reasons, watched([first, *paths])[1:], strict=True):
        assert isinstance(result, str), (path.read_text(), result)
        assert any(part in result for part in reason.split("|")), result
        assert set(opened) - {str(path)} <= inside


def test_gltf_opens_no_textures_and_no_buffers_it_has_no_use_for(make, folder):
    tree, blob = tree_of()
    uris = [*OUTSIDE, "data.bin", "data:image/png;base64,AAAA"]
    tree["images"] = [{"uri": uri} for uri in uris] + [{"bufferView": 99}]
    tree["textures"] = [{"source": at} for at in range(len(uris))]
    tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    tree["meshes"][0]["primitives"][0]["material"] = 0
    tree["shaders"] = [{"uri": "../pipe"}]
    tree["buffers"] += [{"byteLength": 9, "uri": uri} for uri in uris]
    path = make.bytes("own/textured.glb", glb(tree, blob))
    assert watched([path]) == [(12, [str(path)])]


def test_a_link_to_a_gltf_is_read_with_the_files_beside_the_link(make, folder):
    tree, _ = tree_of()
    tree["buffers"][0]["uri"] = "data.bin"
    target = make.text("elsewhere/cube.gltf", json.dumps(tree))
    (folder / "linked.gltf").symlink_to(target)
    assert len(load_mesh(folder / "linked.gltf").faces) == 12
    with pytest.raises(DecodeError, match="can't be read: No such file"):
        load_mesh(target)
