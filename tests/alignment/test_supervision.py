"""Pairs of all kinds, through real media: labels, paired items, rendered views of a mesh."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs torch and safetensors", allow_module_level=True)

from llama_index.core.schema import TextNode
from planted import Given, rotated

from llama_index_mm.alignment import Aligner, Pair, labelled, paired, with_views
from llama_index_mm.alignment.pairs import digest_of
from llama_index_mm.demo.shapes import SHAPES
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.views import ViewsEncoder
from llama_index_mm.media import Mesh, render_views
from llama_index_mm.readers.media import document_of
from llama_index_mm.testing import HashingEncoder


def shapes():
    """Shapes of the demo, each stretched in five ways."""
    rng = np.random.default_rng(0)
    for make in SHAPES.values():
        vertices, faces = make()
        for _ in range(5):
            yield Mesh((vertices * np.exp(rng.normal(0, 0.1, 3))).astype(np.float32), faces)


def test_a_mesh_network_learns_from_views_without_any_label():
    pytest.importorskip("torch_geometric")
    pytest.importorskip("open3d")
    import torch

    from llama_index_mm.embeddings.mesh_gcn import MeshGCN, MeshGCNConfig, MeshGCNEncoder

    torch.manual_seed(0)
    source = MeshGCNEncoder(MeshGCN(MeshGCNConfig(width=16, layers=2, dimension=24)))
    views = ViewsEncoder(HashingEncoder("image"))
    space = EmbeddingSpace("picture", {"image": views.images, "mesh": views})
    meshes = list(shapes())
    pairs = with_views(meshes)
    np.testing.assert_array_equal(np.asarray(pairs[3].target[1]), np.asarray(render_views(meshes[3])[1]))
    encoder = Aligner(source, space, part="mesh", held_out=0.3).fit(pairs, epochs=20)
    assert (encoder.payload, encoder.dimension, encoder.card.target) == ("mesh", 32, "picture:mesh")
    similar = encoder.card.geometry.alignment
    assert similar < 0.5 * encoder.card.geometry_before.alignment or similar < 0.1
    assert encoder.card.after["new_to_space"]["MRR"].low > encoder.card.chance["new_to_space"]


def test_thermal_pictures_join_photos_by_pairs():
    """A simulation: what a thermal camera would see is taken from the photo's own colours."""
    rng = np.random.default_rng(0)
    from PIL import Image

    photos = [Image.new("RGB", (8, 8), tuple(int(c) for c in rng.integers(0, 256, 3))) for _ in range(60)]
    heat = [photo.convert("L").convert("RGB") for photo in photos]
    encoder = Aligner(HashingEncoder("image"), HashingEncoder("image")).fit(paired(heat, photos), epochs=0)
    grey = {digest_of(one) for one in heat}
    assert encoder.card.items == len(grey)
    assert encoder.encode(heat[:3]).shape == (3, 32)


def test_nodes_are_taken_by_what_they_hold(make):
    red, blue = (document_of(make.picture(f"{name}.png", name)) for name in ("red", "blue"))
    again = document_of(make.picture("again.png", "red"))
    assert digest_of(red) == digest_of(again) != digest_of(blue)
    assert digest_of(TextNode(text="a")) == digest_of(TextNode(text="a")) != digest_of(TextNode(text="b"))
    made = Aligner(HashingEncoder("image"), HashingEncoder("text")).encode(labelled([red, blue, again], ["red", "blue", "red"]))
    paths = [node.path for node in (red, blue)]
    by_path = Aligner(HashingEncoder("image"), HashingEncoder("text")).encode(labelled(paths, ["red", "blue"]))
    np.testing.assert_array_equal(made.features, by_path.features)
    assert len(made.features) == 2


def test_keys_join_what_is_said_in_other_words():
    words = HashingEncoder("text", 8)
    items = list(rotated(4, 8)[0])
    pairs = [
        Pair(items[0], "a cat", key="cat"),
        Pair(items[1], "a kitten", key="cat"),
        Pair(items[2], "a dog", key="dog"),
        Pair(items[3], "a cat", key="dog"),  # the same words under another key are another target
    ]
    made = Aligner(Given(8), words).encode(pairs)
    assert made.together(np.arange(4), np.arange(4)).astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]


async def test_async_gives_the_same_and_release_reaches_the_model():
    source, target = rotated(60, 8)

    class Holding(Given):
        released = 0

        def release(self):
            self.released += 1

    holding = Holding(8, "a")
    encoder = Aligner(holding, Given(8, "b")).fit(paired(list(source), list(target)), epochs=0)
    np.testing.assert_array_equal(await encoder.aencode(list(source)), encoder.encode(list(source)))
    encoder.release()
    assert holding.released == 1
    assert encoder.encode([]).shape == (0, 8)
