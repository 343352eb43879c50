import importlib.util
import json

import numpy as np
import pytest

if importlib.util.find_spec("torch_geometric") is None:
    pytest.skip("needs torch-geometric", allow_module_level=True)

import torch
from llama_index.core.vector_stores.types import VectorStoreQuery
from safetensors.torch import load_file, save_file

from llama_index_mm.demo.shapes import SHAPES, write_obj
from llama_index_mm.embeddings import mesh_graph
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig, MeshGCNEncoder
from llama_index_mm.embeddings.mesh_graph import FEATURES, surface_graph, vertex_graph
from llama_index_mm.embeddings.payloads import Loaded, file_payload
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import Mesh, digest_file, load_mesh
from llama_index_mm.media.decode import RenderedMesh, decode_file
from llama_index_mm.nodes import ImageMedia, MeshMedia
from llama_index_mm.presets import Preset
from llama_index_mm.retrieval import MediaQuery

GRAPHS = ["surface", "vertices"]


def network(graph="surface", up="y", *, seed=0):
    torch.manual_seed(seed)
    return MeshGCN(MeshGCNConfig(graph=graph, up=up, width=16, layers=2, dimension=24))


def shape(name):
    vertices, faces = SHAPES[name]()
    return Mesh(vertices.astype(np.float32), faces)


def permuted(mesh, seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(mesh.vertices))
    faces = np.argsort(order)[rng.permutation(mesh.faces)]
    turns = rng.integers(3, size=len(faces))[:, None]
    return Mesh(mesh.vertices[order], np.take_along_axis(faces, (np.arange(3) + turns) % 3, axis=1))


def refined(mesh):
    """The same surface, each face cut into four."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    middles = (corners + np.roll(corners, -1, axis=1)) / 2
    a, b, c = np.moveaxis(corners, 1, 0)
    ab, bc, ca = np.moveaxis(middles, 1, 0)
    parts = np.concatenate([np.stack(one, 1) for one in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return Mesh(parts.reshape(-1, 3).astype(np.float32), np.arange(3 * len(parts)).reshape(-1, 3))


CHANGES = {
    "permuted": permuted,
    "larger": lambda mesh: Mesh(mesh.vertices * np.float32(1234.5), mesh.faces),
    "smaller": lambda mesh: Mesh(mesh.vertices * np.float32(3e-4), mesh.faces),
    "moved": lambda mesh: Mesh(mesh.vertices + np.float32([0.7, -0.3, 0.9]), mesh.faces),
    "with a vertex that no face uses": lambda mesh: Mesh(np.concatenate([mesh.vertices, np.float32([[50, 0, 0]])]), mesh.faces),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_vector_does_not_depend_on(graph, change):
    encoder = MeshGCNEncoder(network(graph))
    meshes = [shape(name) for name in ("chair", "mug", "bed", "vase")]
    wanted = encoder.encode(meshes)
    np.testing.assert_allclose(encoder.encode([CHANGES[change](mesh) for mesh in meshes]), wanted, atol=1e-5)
    apart = np.abs(wanted[:, None] - wanted[None]).max(2)[~np.eye(len(meshes), dtype=bool)]
    assert apart.min() > 1e-3  # the test can tell shapes apart


def test_surface_does_not_depend_on_how_it_is_cut_nor_on_its_sides():
    encoder = MeshGCNEncoder(network())
    for name in ("chair", "mug"):
        mesh = shape(name)
        first, cut, flipped = encoder.encode([mesh, refined(mesh), Mesh(mesh.vertices, mesh.faces[:, ::-1])])
        np.testing.assert_allclose(flipped, first, atol=1e-6)
        assert float(first @ cut) > 0.999


def test_any_up_axis_gives_one_vector():
    mesh = shape("chair")
    turned = [
        Mesh(mesh.vertices[:, [0, 2, 1]] * np.float32([1, -1, 1]), mesh.faces),  # y to z
        Mesh(mesh.vertices[:, [1, 2, 0]], mesh.faces),
        Mesh(mesh.vertices * np.float32([1, -1, -1]), mesh.faces),
    ]
    for graph, changes in (("surface", turned), ("vertices", [])):
        wanted, *got = MeshGCNEncoder(network(graph, up="any")).encode([mesh, *changes])
        for vector in got:
            np.testing.assert_allclose(vector, wanted, atol=1e-5)
    first, other = (MeshGCNEncoder(network(up=up)).encode([mesh])[0] for up in ("y", "z"))
    assert np.abs(first - other).max() > 1e-3
    upright = Mesh(mesh.vertices[:, [2, 0, 1]], mesh.faces)  # y to z, z to x
    np.testing.assert_allclose(MeshGCNEncoder(network(up="z")).encode([upright])[0], first, atol=1e-5)


@pytest.mark.parametrize("graph", GRAPHS)
def test_batch_never_changes_a_vector(graph):
    encoder = MeshGCNEncoder(network(graph))
    meshes = [shape(name) for name in ("chair", "lamp", "vase", "table", "mug")]
    one_by_one = np.concatenate([encoder.encode([mesh]) for mesh in meshes])
    assert (encoder.encode(meshes) == one_by_one).all()
    encoder.batch_size = 2
    assert (encoder.encode(meshes[::-1], query=True)[::-1] == one_by_one).all()
    np.testing.assert_allclose(np.linalg.norm(one_by_one, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("graph", GRAPHS)
def test_network_keeps_graphs_of_a_batch_apart(graph):
    """As training calls it: many graphs, several up directions each, as one."""
    net = network(graph, up="any").eval()
    graphs = [net.graph_of(shape(name)) for name in ("chair", "mug")]
    with torch.inference_mode():
        together = net(graphs)
        alone = torch.cat([net([graph]) for graph in graphs])
    assert together.shape == (12, 24)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_convolution_is_what_the_formula_says():
    """``h + relu(norm(D^-1/2 (A + I) D^-1/2 h W + b))`` with dense matrices, then the mean."""
    torch.manual_seed(0)
    net = MeshGCN(MeshGCNConfig(graph="vertices", width=8, layers=1, dimension=5)).eval()
    mesh = Mesh(np.float32([[0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 3]]), np.array([[0, 1, 2], [1, 3, 2]]))
    adjacency = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]).float()
    degree = adjacency.sum(1)
    dense = adjacency / (degree[:, None] * degree).sqrt()
    graph = vertex_graph(mesh)
    with torch.inference_mode():
        h = net.lift(torch.from_numpy(graph.features[0])).relu()
        convolved = dense @ (h @ net.convs[0].lin.weight.T) + net.convs[0].bias
        wanted = net.head((h + net.norms[0](convolved).relu()).mean(0))
        torch.testing.assert_close(net([graph])[0], wanted, atol=1e-6, rtol=1e-5)


def test_features_of_a_square():
    """A flat square of side 2: its radius of gyration is sqrt(2/3)."""
    square = Mesh(np.float32([[4, 5, 4], [6, 5, 4], [6, 5, 6], [4, 5, 6]]), np.array([[0, 2, 1], [0, 3, 2]]))
    side = np.sqrt(1.5)
    graph = vertex_graph(square)
    assert graph.features.shape == (1, 4, FEATURES["vertices"])
    wanted = np.float32([[-side, 0, -side], [side, 0, -side], [side, 0, side], [-side, 0, side]])
    np.testing.assert_allclose(graph.features[0, :, :3], wanted, atol=1e-6)
    np.testing.assert_allclose(graph.features[0, :, 3:6], [[0, 1, 0]] * 4, atol=1e-6)
    np.testing.assert_allclose(graph.features[0, :, 6], side * np.sqrt(2), atol=1e-6)
    graph = surface_graph(square)
    height, off, distance, weight, up, outward, around, slanted, flat = graph.features[0].T
    np.testing.assert_allclose(height, 0, atol=1e-6)
    np.testing.assert_allclose(off, distance, atol=1e-6)
    assert off.max() == pytest.approx(side * np.sqrt(2), abs=0.1)
    np.testing.assert_allclose([up, flat], 1, atol=1e-6)
    np.testing.assert_allclose([outward, around, slanted], 0, atol=1e-6)
    np.testing.assert_array_equal(weight, graph.weights)
    tall = surface_graph(square, up="z").features[0]
    np.testing.assert_allclose(tall[:, 4], 0, atol=1e-6)
    assert tall[:, 0].max() == pytest.approx(side, abs=0.1)


@pytest.mark.parametrize("graph", GRAPHS)
def test_saved_network_gives_the_same_vectors(tmp_path, graph):
    net = network(graph, up="z")
    folder = net.save(tmp_path / "new" / "model")
    meshes = [shape("stool"), shape("sofa")]
    first, second = MeshGCNEncoder(net), MeshGCNEncoder(folder)
    assert second.network.config == net.config
    assert first.fingerprint == second.fingerprint
    assert (first.encode(meshes) == second.encode(meshes)).all()


def test_fingerprint_tells_weights_and_preprocessing_apart():
    nets = [network(), network(seed=1), network("vertices"), network(up="z"), network(up="any")]
    assert len({MeshGCNEncoder(net).fingerprint for net in nets}) == len(nets)
    assert MeshGCNEncoder(network()).fingerprint == MeshGCNEncoder(network()).fingerprint


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def change_weights(change):
    def apply(folder):
        state = load_file(folder / "model.safetensors")
        save_file(change(state), folder / "model.safetensors")

    return apply


def change_config(**changes):
    def apply(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return apply


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json can't be read.*as MeshGCN\.save writes it"),
        (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json can't be read"),
        (lambda folder: (folder / "config.json").write_text('{"version": 1'), r"config\.json can't be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors can't be read.*as MeshGCN\.save"),
        (cut, r"model\.safetensors can't be read"),
        (change_weights(lambda state: {**state, "lift.bias": torch.zeros(3)}), r"does not fit config\.json.*lift\.bias"),
        (change_weights(lambda state: {name: state[name] for name in [*state][1:]}), "does not fit.*Missing key"),
        (change_weights(lambda state: {**state, "more": torch.zeros(3)}), "does not fit.*Unexpected key"),
        (change_weights(lambda state: {**state, "lift.bias": torch.full((16,), torch.nan)}), r"not finite, in lift\.bias"),
        (change_config(width=32), "does not fit"),
        (change_config(width=10**9), "width to be a whole number from 1 to 4096, got 1000000000"),
        (change_config(layers=True), "layers to be a whole number"),
        (change_config(graph="points"), "graph to be one of surface, vertices, got 'points'"),
        (change_config(up=["y"]), r"up to be one of y, z, any, got \['y'\]"),
        (change_config(colour="red"), "no config of a MeshGCN"),
        (change_config(version=99), "version 99; expected 'mesh_gcn', version 1"),
        (change_config(model_type="clip"), "of model 'clip'"),
    ],
)
def test_broken_files_are_told(tmp_path, harm, reason):
    folder = network().save(tmp_path)
    harm(folder)
    with pytest.raises(ModelError, match=reason):
        MeshGCN.load(folder)


def test_device_that_is_not_there():
    with pytest.raises(ModelError, match="'nowhere'"):
        MeshGCNEncoder(network(), device="nowhere")


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_is_no_surface(graph):
    encoder = MeshGCNEncoder(network(graph))
    line = Mesh(np.float32([[0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    point = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]))
    for mesh in (line, point):
        with pytest.raises(EncodeError, match="no area"):
            encoder.encode([mesh])
    for mesh in (Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)), Mesh(line.vertices * np.nan, line.faces)):
        with pytest.raises(EncodeError, match="faces and finite vertices"):
            encoder.encode([mesh])
    with pytest.raises(EncodeError, match="Expected meshes, got str"):
        encoder.encode(["chair.obj"])


def test_pieces_are_bounded_and_cover_every_face(monkeypatch):
    """Faces whose edges would ask for more pieces than there may be."""
    monkeypatch.setattr(mesh_graph, "_PIECES", 3000)
    monkeypatch.setattr(mesh_graph, "_CHUNK", 500)
    rng = np.random.default_rng(0)
    corners = rng.normal(size=(150, 3, 3)) * rng.choice([0.01, 1, 3], (150, 1, 1))
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    faces, shares, middles = (np.concatenate(part) for part in zip(*mesh_graph._pieces(corners, areas), strict=True))
    assert 1500 < len(faces) <= 3000
    np.testing.assert_allclose(np.bincount(faces, shares), areas)
    centres = np.stack([np.bincount(faces, shares * middles[:, axis]) for axis in range(3)], 1) / areas[:, None]
    np.testing.assert_allclose(centres, corners.mean(1), atol=1e-9)


def test_mesh_of_a_node_and_of_a_file(make):
    pytest.importorskip("open3d")
    path = make.obj("cube.obj")
    node = MeshMedia.create(path, digest=digest_file(path))
    content = decode_file(path, "mesh")
    assert isinstance(content, RenderedMesh)
    wanted = load_mesh(path)
    given = [file_payload(path, "mesh"), Loaded().payload(node, "mesh")]
    path.unlink()
    given.append(Loaded({node.digest: content}).payload(node, "mesh"))  # what was decoded is not read again
    for mesh in given:
        assert (mesh.vertices == wanted.vertices).all()
        assert (mesh.faces == wanted.faces).all()
    with pytest.raises(EncodeError, match="no mesh to encode"):
        Loaded().payload(ImageMedia.create(make.picture("red.png"), digest="0" * 64), "mesh")


@pytest.mark.parametrize("workers", [0, 1])
def test_index_finds_meshes_by_shape(tmp_path, workers):
    pytest.importorskip("open3d")
    folder = tmp_path / "shapes"
    folder.mkdir()
    for name in ("chair", "mug", "table", "vase"):
        write_obj(folder / f"{name}.obj", *SHAPES[name]())
    encoder = MeshGCNEncoder(network())
    preset = Preset("shapes", (EmbeddingSpace("shape", {"mesh": encoder}),))
    with MultiModalIndex.open(tmp_path / "index", preset=preset, create=True) as index:
        report = index.ingest(folder, num_workers=workers)
        assert (report.added, report.problems) == (4, [])
        store = index.vector_store("shape")
        for name in ("chair", "mug", "table", "vase"):
            asked = encoder.encode([CHANGES["larger"](permuted(shape(name)))], query=True)[0]
            found = store.query(VectorStoreQuery(query_embedding=asked.tolist(), similarity_top_k=2))
            assert found.nodes[0].metadata["file_name"] == f"{name}.obj"
            assert found.similarities[0] == pytest.approx(1, abs=1e-5)
            assert found.similarities[1] < found.similarities[0]
        retriever = index.as_retriever(similarity_top_k=2)
        for name in ("chair", "mug", "table", "vase"):
            found_nodes = retriever.retrieve(MediaQuery(mesh=folder / f"{name}.obj"))
            assert found_nodes[0].node.metadata["file_name"] == f"{name}.obj"
