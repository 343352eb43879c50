"""Meshes in a page: made small, packed, within the budget, and turned by the one script that the policy knows."""

import base64
import hashlib
import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from llama_index.core.schema import NodeWithScore, TextNode
from test_html import HOSTILE, Page, data_of, picture

from llama_index_mm.display import Section, embed, results_page
from llama_index_mm.display.solid import MAX_FACES, pack, simplify
from llama_index_mm.display.viewer import SCRIPT, SCRIPT_SOURCE
from llama_index_mm.errors import DecodeError
from llama_index_mm.media import Mesh
from llama_index_mm.nodes import MeshMedia

DIGEST = "0" * 64


def grid(steps):
    """Faces of a grid of ``(steps + 1) ** 2`` points."""
    at = np.arange((steps + 1) ** 2).reshape(steps + 1, steps + 1)
    a, b, c, d = (part.ravel() for part in (at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]))
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def cube(steps):
    """A cube from -1 to 1 of six grids."""
    u, v = (one.ravel() for one in np.meshgrid(*[np.linspace(-1, 1, steps + 1)] * 2, indexing="ij"))
    places, faces = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            points = np.stack([np.full_like(u, side), u, v], axis=1)
            places.append(np.roll(points, axis, axis=1))
            faces.append(grid(steps) + (steps + 1) ** 2 * len(faces))
    return Mesh(np.concatenate(places).astype(np.float32), np.concatenate(faces))


def ball(steps):
    mesh = cube(steps)
    return Mesh(mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True), mesh.faces)


def unpacked(solid):
    whole = np.frombuffer(base64.b64decode(solid.data, validate=True), "<u2")
    assert len(whole) == 3 * (solid.vertices + solid.faces)
    return whole[: 3 * solid.vertices].reshape(-1, 3), whole[3 * solid.vertices :].reshape(-1, 3)


def turned(page):
    return [one for one in page.elements if "data-mesh" in one]


# -- simplify and pack --------------------------------------------------------------------------------------------------------


def test_a_small_mesh_stays_as_it_is():
    mesh = cube(10)
    assert simplify(mesh) is mesh
    assert simplify(mesh, len(mesh.faces)) is mesh


@pytest.mark.parametrize("most", [100, 2000, MAX_FACES])
def test_a_ball_stays_a_ball(most):
    small = simplify(ball(100), most)
    assert most / 5 < len(small.faces) <= most
    radii = np.linalg.norm(small.vertices * 2 - 1, axis=1)  # it is scaled into the unit cube
    np.testing.assert_allclose(radii, 1.0, atol=0.03 if most > 100 else 0.3)
    assert np.unique(small.faces).tolist() == list(range(len(small.vertices)))


def test_corners_and_edges_of_a_cube_stay_sharp():
    small = simplify(cube(60), 1000)
    assert len(small.faces) <= 1000
    for corner in np.ndindex(2, 2, 2):
        assert np.abs(small.vertices - corner).max(axis=1).min() < 1e-3
    inside = np.minimum(np.abs(small.vertices), np.abs(small.vertices - 1)).min(axis=1)
    assert inside.max() < 1e-3  # every vertex lies on a side


def test_specks_are_refused():
    corners = np.random.default_rng(0).random((9000, 1, 3)) + np.array([[0, 0, 0], [1e-6, 0, 0], [0, 1e-6, 0]])
    mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(27_000).reshape(-1, 3))
    with pytest.raises(DecodeError, match="9,000 faces that are all too small"):
        simplify(mesh, 10)


@settings(max_examples=40, deadline=None)
@given(
    points=npst.arrays(np.float32, (30, 3), elements=st.floats(-(2.0**120), 2.0**120, width=32)),
    faces=npst.arrays(np.int64, (60, 3), elements=st.integers(0, 29)),
    most=st.integers(1, 59),
)
def test_whatever_the_mesh(points, faces, most):
    faces = faces[[len({tuple(points[at]) for at in face}) == 3 for face in faces]]
    if not len(faces):
        return
    try:
        small = simplify(Mesh(points, faces), most)
    except DecodeError:
        return
    assert 0 < len(small.faces) <= max(most, len(faces) if len(faces) <= most else 0)
    assert np.isfinite(small.vertices).all()
    places, corners = unpacked(pack(small))
    assert corners.max() < len(places)
    assert places.max() == 65_535


def test_packed_places_are_exact_to_a_65535th():
    mesh = Mesh(np.array([[2, 0, 0], [-2, 1, 0], [0, 0, 0.5]], np.float32), np.array([[0, 1, 2]]))
    solid = pack(mesh)
    places, corners = unpacked(solid)
    assert places.tolist() == [[65535, 0, 0], [0, 16384, 0], [32768, 0, 8192]]
    assert corners.tolist() == [[0, 1, 2]]
    assert (solid.vertices, solid.faces) == (3, 1)


# -- in the page --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def chair(make):
    """A node with a sheet of views."""
    views = picture(make.path("views.png"), (672, 448))
    return MeshMedia.create(make.obj("chair.obj"), digest=DIGEST, text="a chair", views=str(views))


def text_of(*nodes, **options):
    return results_page([Section("q", [NodeWithScore(node=node, score=0.5) for node in nodes])], **options)


def policy_of(page):
    return next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")


def test_a_mesh_stands_behind_its_picture(chair):
    page = Page(text_of(chair))
    (box,) = turned(page)
    places, corners = unpacked(type("Told", (), {"data": box["data-mesh"], "vertices": int(box["data-vertices"]), "faces": 12}))
    assert sorted(map(tuple, places.tolist())) == [(x, y, z) for x in (0, 65535) for y in (0, 65535) for z in (0, 65535)]
    assert corners.shape == (12, 3)
    assert box["data-name"] == "chair.obj"
    assert "div" in page.one("img")["inside"]
    assert page.one("script")["text"] == SCRIPT


def test_the_policy_knows_the_script_by_its_digest(chair):
    page = Page(text_of(chair))
    digest = base64.b64encode(hashlib.sha256(page.one("script")["text"].encode()).digest()).decode()
    assert policy_of(page).endswith(f"; script-src 'sha256-{digest}'")
    assert f"'sha256-{digest}'" == SCRIPT_SOURCE
    assert "script-src 'unsafe" not in policy_of(page)


def test_no_script_without_a_mesh_or_where_it_is_not_wanted(chair):
    for text in (text_of(TextNode(text="x")), text_of(chair, interactive=False)):
        page = Page(text)
        assert not page.all("script")
        assert not turned(page)
        assert "script-src" not in policy_of(page)
        assert policy_of(page).startswith("default-src 'none';")


def test_the_script_takes_nothing_from_elsewhere():
    for never in (
        "</script",
        "<!--",
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "import",
    ):
        assert never not in SCRIPT
    assert not re.findall(r"https?:|fetch\(|XMLHttp|WebSocket|localStorage|cookie|postMessage", SCRIPT)
    assert len(SCRIPT) < 16_000


def test_meshes_count_into_the_budget(chair):
    whole = Page(text_of(chair))
    sheet, solid = len(whole.one("img")["src"]), len(turned(whole)[0]["data-mesh"])
    for budget, (pictures, solids) in {sheet + solid: (1, 1), sheet + solid - 1: (1, 0), sheet - 1: (0, 1), 10: (0, 0)}.items():
        page = Page(text_of(chair, max_bytes=budget))
        assert (len(page.all("img")), len(turned(page))) == (pictures, solids)
        used = sum(len(one.get("src", "")) + len(one.get("data-mesh", "")) for one in page.elements)
        assert used <= budget
        assert len(page.all("script")) == solids


def test_a_mesh_is_packed_once(chair, monkeypatch):
    calls = []
    read = embed.load_mesh
    monkeypatch.setattr(embed, "load_mesh", lambda path, **options: calls.append(path) or read(path, **options))
    assert len(turned(Page(text_of(chair, chair)))) == 2
    assert calls == [chair.path]


def test_it_turns_without_open3d(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    page = Page(text_of(MeshMedia.create(make.obj("cube.obj"), digest=DIGEST)))
    assert len(turned(page)) == 1
    assert "pip install 'llama-index-mm[mesh]'" in page.one("p", "notice")["text"]


def test_only_the_picture_where_the_file_is_gone_broken_or_too_large(chair, make, monkeypatch):
    views = chair.views
    for path in (make.path("gone.obj"), make.text("broken.obj", "f 1 2 3"), make.picture("picture.png")):
        page = Page(text_of(MeshMedia.create(path, digest=DIGEST, views=str(views))))
        assert (len(page.all("img")), len(turned(page)), len(page.all("script"))) == (1, 0, 0)
    monkeypatch.setattr(embed, "_TURNED", type(embed._TURNED)(faces=11))
    assert not turned(Page(text_of(chair)))


def test_names_can_not_leave_their_attribute(make):
    name = HOSTILE.replace("/", "").replace("\x00", "").replace("\ud800", "") + ".obj"
    node = MeshMedia.create(make.obj(name), digest=DIGEST, views=str(picture(make.path("views.png"), (60, 40))))
    page = Page(text_of(node))
    assert turned(page)[0]["data-name"] == name
    assert len(page.all("script")) == 1
    assert not [key for one in page.elements for key in one if key.startswith("on")]
    assert re.fullmatch("[A-Za-z0-9+/=]+", turned(page)[0]["data-mesh"])


def test_sheets_are_the_same_with_and_without_the_script(chair):
    still, moving = (Page(text_of(chair, interactive=wanted)).one("img")["src"] for wanted in (False, True))
    assert data_of(still, "image/jpeg") == data_of(moving, "image/jpeg")


def test_the_script_is_in_the_wheel():
    from importlib import resources

    assert resources.files("llama_index_mm.display").joinpath("viewer.js").is_file()
    assert json.dumps(SCRIPT)  # text, and no stray surrogate
