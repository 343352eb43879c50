import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("open3d") is None:
    pytest.skip("needs Open3D", allow_module_level=True)

from llama_index_mm.alignment import distorted, procedural_mesh
from llama_index_mm.alignment.shapes import decimated
from llama_index_mm.errors import AlignmentError
from llama_index_mm.media import Mesh
from llama_index_mm.media.primitives import box, cushion, join, ring, tube, turned


def same(one, other):
    return one.vertices.tobytes() == other.vertices.tobytes() and one.faces.tobytes() == other.faces.tobytes()


def test_numbers_make_the_shape():
    assert same(procedural_mesh(5, 1), procedural_mesh(5, 1))
    others = [procedural_mesh(5, 2), procedural_mesh(6, 1), procedural_mesh(5, 1, seed=1)]
    assert not any(same(procedural_mesh(5, 1), other) for other in others)
    with pytest.raises(AlignmentError, match="at least 0, got -1, 0 and 0"):
        procedural_mesh(-1)


def test_executions_of_a_recipe_have_the_same_parts():
    for recipe in range(8):
        whole = {len(procedural_mesh(recipe, execution).faces) for execution in range(4)}
        most = max(whole)
        assert all(count == most or count <= 0.81 * most for count in whole)  # some are thinned out


def test_shapes_are_sound():
    for recipe in range(40):
        mesh = procedural_mesh(recipe)
        assert mesh.vertices.dtype == np.float32
        assert np.isfinite(mesh.vertices).all()
        assert 0 <= mesh.faces.min() < mesh.faces.max() < len(mesh.vertices)


def test_up_is_another_axis():
    assert same(procedural_mesh(3, up="any"), procedural_mesh(3))
    turned_up = []
    for recipe in range(12):
        one, other = procedural_mesh(recipe, up="y"), procedural_mesh(recipe, up="z")
        x, y, z = one.vertices.T
        turned_up.append(np.array_equal(other.vertices, np.stack([x, -z, y], 1)))
    assert sum(turned_up) >= 3  # the others are thinned out or have their vertices moved, along other axes


def test_distorted_keeps_what_it_was_given():
    mesh = procedural_mesh(2)
    kept = Mesh(mesh.vertices.copy(), mesh.faces.copy())
    copies = [distorted(mesh, np.random.default_rng(seed)) for seed in range(12)]
    assert same(mesh, kept)
    assert same(copies[3], distorted(mesh, np.random.default_rng(3)))
    thinned = [len(copy.faces) < len(mesh.faces) for copy in copies]
    assert 0 < sum(thinned) < 12
    for copy in copies:  # stretched by some 15 % along each axis
        assert 0.5 < np.ptp(copy.vertices[:, 1]) / np.ptp(mesh.vertices[:, 1]) < 2


def test_distorted_turns_about_the_axis_that_points_up():
    tall = Mesh(*box((0, 0, 0), (1, 20, 1)))
    tall = Mesh(tall.vertices.astype(np.float32), tall.faces)
    for seed in range(8):
        heights = np.ptp(distorted(tall, np.random.default_rng(seed)).vertices, axis=0)
        assert heights[1] > 4 * max(heights[0], heights[2])
        heights = np.ptp(
            distorted(Mesh(tall.vertices[:, [0, 2, 1]], tall.faces), np.random.default_rng(seed), up="z").vertices, axis=0
        )
        assert heights[2] > 4 * max(heights[0], heights[1])


def test_decimated_has_so_many_faces():
    mesh = procedural_mesh(1)
    assert len(decimated(mesh, 0.5).faces) == pytest.approx(0.5 * len(mesh.faces), rel=0.1)


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (box((1, 2, 3), (1, 2, 3)), 6.0),
        (turned([(0, 0), (1, 0), (1, 2), (0, 2)]), 32 / 2 * np.sin(2 * np.pi / 32) * 2),
        (ring([(1, 0), (2, 0), (2, 1), (1, 1)]), 32 / 2 * np.sin(2 * np.pi / 32) * 3),
        (tube([(0, 0, 0), (0, 1, 0), (0, 2, 0)], 1.0), 16 / 2 * np.sin(2 * np.pi / 16) * 2),
        (join(box((0, 0, 0), (1, 1, 1)), box((5, 0, 0), (2, 1, 1))), 3.0),
    ],
)
def test_primitives_hold_their_volume_with_faces_outwards(solid, volume):
    vertices, faces = solid
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(volume)
    assert Mesh(vertices.astype(np.float32), faces).facts().closed


def test_cushion_is_a_rounded_box():
    vertices, faces = cushion((0, 1, 0), (2, 1, 3), radius=0.2)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    core = np.array([1.6, 0.6, 2.6])
    sides = 2 * 0.2 * (core.prod() / core).sum()
    whole = core.prod() + sides + np.pi * 0.2**2 * core.sum() + 4 / 3 * np.pi * 0.2**3
    assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(whole, rel=0.01)
    np.testing.assert_allclose(np.ptp(vertices, axis=0), [2, 1, 3])
    bulging, _ = cushion((0, 1, 0), (2, 1, 3), radius=0.2, bulge=0.1)
    np.testing.assert_allclose(np.ptp(bulging, axis=0), [2, 1.2, 3])
