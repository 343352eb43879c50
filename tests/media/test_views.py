import numpy as np
import pytest
from PIL import Image

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import Mesh, contact_sheet, load_mesh, render_views, split_sheet
from llama_index_mm.media.views import VIEW_SIZE, VIEWS

pytest.importorskip("open3d")

SIZE = 64


def cone(up: str = "y", *, sides: int = 24) -> Mesh:
    """A cone that stands on its disc and points up along an axis."""
    angles = 2 * np.pi * np.arange(sides) / sides
    rim = np.stack([np.cos(angles), np.zeros(sides), np.sin(angles)], 1)
    vertices = np.concatenate([rim, [[0, 2, 0], [0, 0, 0]]])
    if up == "z":
        vertices = vertices[:, [2, 0, 1]]
    around = np.arange(sides)
    after = (around + 1) % sides
    tip, middle = np.full(sides, sides), np.full(sides, sides + 1)
    faces = np.concatenate([np.stack([after, around, tip], 1), np.stack([around, after, middle], 1)])
    return Mesh(vertices.astype(np.float32), faces.astype(np.int64))


def table(up: str = "y") -> Mesh:
    """A disc on a stalk: the wide part is above."""
    turned = cone(up)
    flipped = turned.vertices.copy()
    flipped[:, "xyz".index(up)] *= -1
    return Mesh(flipped, turned.faces)


def shadow(view: Image.Image) -> np.ndarray:
    """Where the mesh is."""
    return np.asarray(view.convert("L")) < 250


def same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@pytest.mark.parametrize("up", ["y", "z"])
def test_a_cone_stands_on_its_disc(up):
    for view in render_views(cone(up), up=up, size=SIZE):
        rows = shadow(view).sum(1)
        assert rows[SIZE // 2 :].sum() > 1.5 * rows[: SIZE // 2].sum()
        filled = np.flatnonzero(rows)
        assert rows[filled[0]] < rows[filled[-1] - 3]  # the tip is above


@pytest.mark.parametrize("up", ["y", "z"])
def test_what_is_wide_above_shows_so(up):
    for view in render_views(table(up), up=up, size=SIZE):
        rows = shadow(view).sum(1)
        assert rows[: SIZE // 2].sum() > 1.5 * rows[SIZE // 2 :].sum()


@pytest.mark.parametrize("step", range(VIEWS))
def test_left_and_right_are_not_swapped(step):
    """A thin arm to the camera's right moves the cone, which weighs more, to the left of the picture."""
    angle = np.radians(30 + 60 * step)
    eye = np.array([np.sin(angle), 0, np.cos(angle)])
    right = np.cross(-eye, [0, 1, 0])
    body = cone()
    arm = np.stack([0 * right, 5 * right, 5 * right + [0, 0.2, 0]])
    mesh = Mesh(np.concatenate([body.vertices, arm]).astype(np.float32), np.concatenate([body.faces, [[26, 27, 28]]]))
    columns = np.nonzero(shadow(render_views(mesh, size=SIZE)[step]))[1]
    assert columns.mean() < SIZE / 2 - 3


def test_y_points_up_unless_told(make):
    same(render_views(cone(), size=SIZE), render_views(cone(), up="y", size=SIZE))
    same(render_views(cone("z"), up="z", size=SIZE), render_views(cone("y"), up="y", size=SIZE))


def test_number_size_and_mode():
    views = render_views(cone())
    assert [(view.size, view.mode) for view in views] == [((VIEW_SIZE, VIEW_SIZE), "RGB")] * VIEWS


def test_the_mesh_fits_the_frame(make):
    for view in render_views(load_mesh(make.obj("cube.obj")), size=SIZE):
        found = shadow(view)
        assert found.mean() > 0.1
        assert [edge.any() for edge in (found[0], found[-1], found[:, 0], found[:, -1])] == [False] * 4


def test_deterministic():
    same(render_views(cone(), size=SIZE), render_views(cone(), size=SIZE))


@pytest.mark.parametrize("factor", [0.001953125, 2.0, 1024.0])
@pytest.mark.parametrize("move", [(0, 0, 0), (4, -8, 16)])
def test_scale_and_place_do_not_matter(factor, move):
    mesh = cone()
    other = Mesh((mesh.vertices + np.float32(move)) * np.float32(factor), mesh.faces)
    for one, two in zip(render_views(mesh, size=SIZE), render_views(other, size=SIZE), strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).mean() < 0.5


@pytest.mark.parametrize("power", [-100, 100, 125])
def test_huge_and_tiny_meshes_look_the_same(power):
    mesh = cone()
    scaled = Mesh(mesh.vertices * np.float32(2.0**power), mesh.faces)
    same(render_views(mesh, size=SIZE), render_views(scaled, size=SIZE))


def test_stray_vertex_does_not_shrink_the_mesh(make):
    cube = make.obj("cube.obj")
    stray = make.text("stray.obj", cube.read_text() + "v 99 99 99\n")
    same(render_views(load_mesh(cube), size=SIZE), render_views(load_mesh(stray), size=SIZE))


def test_winding_does_not_matter():
    mesh = cone()
    same(render_views(mesh, size=SIZE), render_views(Mesh(mesh.vertices, mesh.faces[:, ::-1].copy()), size=SIZE))


def test_no_extent():
    with pytest.raises(DecodeError, match="one point"):
        render_views(Mesh(np.ones((3, 3), np.float32), np.array([[0, 1, 2]])))


def test_flat_mesh_renders():
    square = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2], [0, 2, 3]]))
    assert any(shadow(view).any() for view in render_views(square, size=SIZE))


def test_sheet_round_trip():
    views = render_views(table(), size=SIZE)
    sheet = contact_sheet(views)
    assert sheet.size == (3 * SIZE, 2 * SIZE)
    same(split_sheet(sheet), views)
