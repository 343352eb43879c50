"""A mesh network trained in small: the same bytes each time, also after a kill; and a card that tells the truth."""

import importlib.util
import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

if importlib.util.find_spec("torch_geometric") is None or importlib.util.find_spec("open3d") is None:
    pytest.skip("needs torch-geometric and Open3D", allow_module_level=True)

import torch

from llama_index_mm.alignment import PretrainCard, PretrainOptions, pretrain_gcn, similarity_distillation
from llama_index_mm.alignment.checkpoint import read_checkpoint, write_checkpoint
from llama_index_mm.alignment.graphs import kept_graphs, kept_vectors
from llama_index_mm.alignment.shapes import procedural_mesh
from llama_index_mm.demo.shapes import SHAPES, write_obj
from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig, MeshGCNEncoder
from llama_index_mm.embeddings.mesh_graph import surface_graph
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.errors import AlignmentError, ModelError
from llama_index_mm.media import Mesh, digest_file
from llama_index_mm.testing import HashingEncoder

TINY = PretrainOptions(steps=40, recipes=12, executions=2, batch=8, held_out=8, rate=1e-2)
SMALL = MeshGCNConfig(width=16, layers=2, dimension=24)
FILES = ["card.json", "config.json", "model.safetensors"]
# What is passed: folder, options as JSON, config as JSON.
CHILD = """
import json, sys
from llama_index_mm.alignment import PretrainOptions, pretrain_gcn
from llama_index_mm.embeddings.mesh_gcn import MeshGCNConfig
options, config = PretrainOptions(**json.loads(sys.argv[2])), MeshGCNConfig(**json.loads(sys.argv[3]))
pretrain_gcn(sys.argv[1], options=options, config=config, checkpoint_steps=1)
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "network"
    return folder, pretrain_gcn(folder, options=TINY, config=SMALL)


@pytest.fixture(scope="module")
def furniture(tmp_path_factory):
    """Files of nine meshes, of one of them twice, of one without a surface, and one that is broken."""
    folder = tmp_path_factory.mktemp("meshes")
    for name, make in SHAPES.items():
        write_obj(folder / f"{name}.obj", *make())
    (folder / "again.obj").write_bytes((folder / "mug.obj").read_bytes())
    (folder / "line.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    (folder / "broken.obj").write_text("v 0 0 0\n")
    return sorted(folder.iterdir())


def test_loss_falls_and_folder_holds_three_files(trained):
    folder, card = trained
    assert sorted(contents(folder)) == FILES
    assert len(card.curve) == 20
    assert card.loss_last < 0.8 * card.loss_first
    assert card.loss_first == pytest.approx(np.mean(card.curve[:10]))
    assert card.loss_last == pytest.approx(np.mean(card.curve[10:]))


def test_card_is_true(trained):
    folder, card = trained
    assert PretrainCard.load(folder / "card.json") == card
    assert (card.options, card.config) == (TINY, vars(SMALL))
    assert card.weights_digest == digest_file(folder / "model.safetensors")
    encoder = MeshGCNEncoder(folder)
    assert card.fingerprint == encoder.fingerprint
    assert card.parameters == sum(parameter.numel() for parameter in encoder.network.parameters())
    assert card.versions["torch"] == torch.__version__
    assert (card.meshes, card.meshes_found, card.meshes_digest, card.started_from, card.licence) == (
        0,
        None,
        "",
        "",
        "Apache-2.0",
    )
    torch.manual_seed(TINY.seed)
    for network, told in ((encoder, card.recipes_found.after), (MeshGCNEncoder(MeshGCN(SMALL)), card.recipes_found.before)):
        first, second = (
            network.encode([procedural_mesh(recipe, execution) for recipe in range(12, 20)]) for execution in (0, 1)
        )
        assert told == np.mean((second @ first.T).argmax(1) == np.arange(8))
    assert (card.recipes_found.count, card.recipes_found.chance) == (8, 1 / 8)
    assert "40 steps on 2 executions of 12 recipes" in str(card)


def test_killed_run_goes_on_to_the_same_bytes(trained, tmp_path):
    folder, card = trained
    told = [json.dumps(vars(TINY)), json.dumps(vars(SMALL))]
    child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "killed", *told])
    checkpoint = tmp_path / "killed" / "work" / "checkpoint.safetensors"
    end = time.monotonic() + 120
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    losses = read_checkpoint(checkpoint, card.run)[0]["losses"]
    assert 0 < len(losses) < 40
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    assert pretrain_gcn(tmp_path / "killed", options=TINY, config=SMALL) == card
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert contents(tmp_path / "killed") == contents(folder)


def test_folder_that_is_done_is_left_as_it_is(trained):
    folder, card = trained
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pretrain_gcn(folder, options=TINY, config=SMALL) == card
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(AlignmentError, match="another run"):
        pretrain_gcn(folder, options=replace(TINY, seed=1), config=SMALL)


@pytest.fixture(scope="module")
def on_furniture(trained, furniture, tmp_path_factory):
    """Trained on meshes as well, from weights that are there, towards views."""
    folder = tmp_path_factory.mktemp("own") / "network"
    views = ViewsEncoder(HashingEncoder("image"))
    options = replace(TINY, steps=3, recipes=4)
    return folder, pretrain_gcn(folder, furniture, options=options, start=trained[0], views=views), options, views


def test_meshes_of_the_users(on_furniture, trained, furniture):
    folder, card, options, views = on_furniture
    assert (card.meshes, card.left_out, card.meshes_found.count, card.meshes_found.chance) == (7, 2, 2, 0.5)
    assert len(card.meshes_digest) == 16
    assert (card.started_from, card.views_fingerprint) == (trained[1].fingerprint, views.fingerprint)
    assert card.licence == ""
    assert card.fingerprint == MeshGCNEncoder(folder).fingerprint != trained[1].fingerprint
    # The order of files does not matter.
    assert pretrain_gcn(folder, furniture[::-1], options=options, start=trained[0], views=views) == card
    with pytest.raises(AlignmentError, match="other meshes"):
        pretrain_gcn(folder, furniture[:4], options=options, start=trained[0], views=views)


def test_what_is_left_out_is_told(furniture, tmp_path, caplog):
    chosen = [path for path in furniture if path.stem in ("line", "broken", "table")]
    with caplog.at_level(logging.WARNING), pytest.raises(AlignmentError, match="0 recipes and 1 meshes"):
        pretrain_gcn(tmp_path, chosen, options=replace(TINY, recipes=0), config=SMALL)
    assert "broken.obj" in caplog.text
    assert "has no surface" in caplog.text


@pytest.mark.parametrize("loss", ["margin", "sigmoid"])
def test_every_loss_and_all_directions(loss, tmp_path):
    options = replace(TINY, loss=loss, steps=1, recipes=2, batch=2, held_out=2)
    card = pretrain_gcn(tmp_path, options=options, config=replace(SMALL, up="any"))
    assert card.loss_first == card.loss_last > 0


def test_errors(trained, tmp_path):
    for wrong in ({"steps": 0}, {"executions": 1}, {"batch": 1}, {"temperature": 0}, {"own": 0}, {"loss": "none"}):
        with pytest.raises(AlignmentError, match=f"Expected .*{next(iter(wrong))}"):
            PretrainOptions(**wrong)
    with pytest.raises(AlignmentError, match="encoder of views, got one of image"):
        pretrain_gcn(tmp_path, views=HashingEncoder("image"))
    with pytest.raises(AlignmentError, match="Expected the config of the network"):
        pretrain_gcn(tmp_path, start=trained[0], config=MeshGCNConfig())
    with pytest.raises(ModelError, match="can't be read"):
        pretrain_gcn(tmp_path, start=tmp_path / "nothing")
    (tmp_path / "card.json").write_text('{"version": 7}')
    with pytest.raises(ModelError, match="version 7, expected 1"):
        pretrain_gcn(tmp_path)


def test_distillation_by_hand():
    teacher = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
    # Similarities 0, 0.6; 0, 0.8; 0.6, 0.8, over 0.5; the vectors are all alike, so each of two others gets one half.
    alike = torch.ones(3, 1)
    assert similarity_distillation(alike, teacher, temperature=0.5).item() == pytest.approx(np.log(2))
    shares = [1 / (1 + np.exp(-gap / 0.5)) for gap in (0.6, 0.8, 0.2)]
    entropy = np.mean([-share * np.log(share) - (1 - share) * np.log(1 - share) for share in shares])
    assert similarity_distillation(teacher, teacher, temperature=0.5).item() == pytest.approx(entropy)
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.5], [0.3, 1], [1, 1]]), dim=1).requires_grad_()
    loss = similarity_distillation(vectors, teacher)
    loss.backward()
    assert torch.isfinite(vectors.grad).all()
    assert similarity_distillation(vectors - 0.01 * vectors.grad, teacher) < loss
    with pytest.raises(AlignmentError, match="got 3, 2"):
        similarity_distillation(teacher, teacher[:2])


def test_graphs_are_made_once(tmp_path):
    made = []
    some = [surface_graph(procedural_mesh(recipe)) for recipe in range(4)]

    def make(number):
        made.append(number)
        return None if number == 3 else some[number % 4]

    first = kept_graphs(tmp_path, "run", 70, make, name="shapes")
    assert made == list(range(70))
    (tmp_path / "shapes-000064.safetensors").unlink()
    second = kept_graphs(tmp_path, "run", 70, make, name="shapes")
    assert made == [*range(70), *range(64, 70)]
    assert [one is None for one in second] == [number == 3 for number in range(70)]
    for one, other in zip(first, second, strict=True):
        for name in ("features", "weights", "edges", "strengths") if one is not None else ():
            assert getattr(one, name).dtype == getattr(other, name).dtype
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    with pytest.raises(AlignmentError, match="of a run on other data"):
        kept_graphs(tmp_path, "other", 70, make, name="shapes")
    (tmp_path / "shapes-000000.safetensors").write_bytes(b"broken")
    with pytest.raises(AlignmentError, match="can't be read"):
        kept_graphs(tmp_path, "run", 70, make, name="shapes")


def test_vectors_are_made_once(tmp_path):
    wanted = np.arange(200, dtype=np.float32).reshape(100, 2)
    calls = []

    def make(numbers):
        calls.append(numbers)
        return wanted[numbers.start : numbers.stop]

    for _ in range(2):
        np.testing.assert_array_equal(kept_vectors(tmp_path, "run", 100, make, name="views"), wanted)
    assert calls == [range(64), range(64, 100)]


def test_checkpoint_is_put_in_place_at_once(tmp_path):
    assert read_checkpoint(tmp_path / "at" / "one", "run") is None
    write_checkpoint(tmp_path / "at" / "one", "run", {"a": torch.arange(3)}, {"losses": [0.1]})
    told, tensors = read_checkpoint(tmp_path / "at" / "one", "run")
    assert told == {"losses": [0.1]}
    assert torch.equal(tensors["a"], torch.arange(3))
    assert [path.name for path in (tmp_path / "at").iterdir()] == ["one"]


def test_meshes_in_memory_are_taken(tmp_path):
    vertices, faces = SHAPES["chair"]()
    chair = Mesh(vertices.astype(np.float32), faces)
    options = replace(TINY, steps=1, recipes=2, batch=2, held_out=2)
    assert pretrain_gcn(tmp_path, [chair, chair], options=options, config=SMALL).meshes == 1
    whole = contents(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"changed")  # then it is trained again
    pretrain_gcn(tmp_path, [chair], options=options, config=SMALL)
    assert contents(tmp_path) == whole
