import asyncio
import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")

import torch
import transformers
from tiny_models import DIMENSION, LIMIT, save_clip
from transformers import AutoTokenizer, CLIPModel

from llama_index_mm.embeddings.base import EmbeddingSpace, TextEncoder
from llama_index_mm.embeddings.clip import ClipEmbedding, ClipImageEncoder, ClipTextEncoder
from llama_index_mm.errors import DecodeError, ModelError

TEXTS = ["cat", "", "a cat on a sofa", "dog " * 40, "a", "dog dog cat", "the sea " * 9]
LONG = 2  # of them are longer than LIMIT


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module", params=[False, True], ids=["end-by-id", "end-by-largest"])
def folder(request, tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "model", legacy=request.param)


@pytest.fixture
def clip(folder):
    return ClipEmbedding(model_name=str(folder), device="cpu", embed_batch_size=3)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (32, 32), (200, 33), (7, 9), (64, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def direction(features) -> np.ndarray:
    vector = getattr(features, "pooler_output", features)[0].numpy()
    return vector / np.linalg.norm(vector)


@torch.inference_mode()
def reference_texts(folder: Path, texts) -> np.ndarray:
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    fed = [tokenizer(text, truncation=True, max_length=LIMIT, return_tensors="pt") for text in texts]
    return np.stack([direction(model.get_text_features(**one)) for one in fed])


@torch.inference_mode()
def reference_images(folder: Path, images) -> np.ndarray:
    model = CLIPModel.from_pretrained(folder).eval()
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = kind.from_pretrained(folder)
    return np.stack([direction(model.get_image_features(**processor(one, return_tensors="pt"))) for one in images])


def test_importing_the_module_does_not_import_torch():
    code = (
        "import sys; from llama_index_mm.embeddings import clip, hub, minilm, wav2vec2;"
        "from llama_index_mm.transforms import openai_whisper;"
        "assert not {'torch', 'transformers', 'whisper'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_texts_are_as_the_reference_computes_them_one_by_one(folder, size):
    clip = ClipEmbedding(model_name=str(folder), device="cpu", embed_batch_size=size)
    wanted = reference_texts(folder, TEXTS)
    got = clip.encode_texts(TEXTS)
    assert got.shape == (len(TEXTS), DIMENSION)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(clip.encode_texts(TEXTS[::-1])[::-1], wanted, atol=1e-5)
    np.testing.assert_allclose(clip.get_text_embedding_batch(TEXTS), wanted, atol=1e-5)
    assert np.abs(wanted[0] - wanted[2]).max() > 1e-2  # the test can tell texts apart


@pytest.mark.parametrize("size", [1, 2, 50])
def test_images_are_as_the_reference_computes_them_one_by_one(folder, pictures, size):
    clip = ClipEmbedding(model_name=str(folder), device="cpu", embed_batch_size=size)
    wanted = reference_images(folder, pictures)
    got = clip.encode_images(pictures)
    assert got.shape == (len(pictures), DIMENSION)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(clip.encode_images(pictures[::-1])[::-1], wanted, atol=1e-5)


def test_every_mode_of_picture_is_taken(clip, pictures):
    grey = pictures[0].convert("L")
    np.testing.assert_allclose(clip.encode_images([grey]), clip.encode_images([grey.convert("RGB")]), atol=1e-6)
    assert clip.encode_images([pictures[0].convert("RGBA")]).shape == (1, DIMENSION)


def test_image_embedding_from_path_and_bytes(clip, pictures, tmp_path):
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    wanted = clip.encode_images(pictures[:1])[0]
    np.testing.assert_allclose(clip.get_image_embedding(str(path)), wanted, atol=1e-5)
    np.testing.assert_allclose(clip.get_image_embedding(BytesIO(path.read_bytes())), wanted, atol=1e-5)
    batch = clip.get_image_embedding_batch([str(path)] * 4)
    np.testing.assert_allclose(batch, [wanted] * 4, atol=1e-5)
    with pytest.raises(DecodeError):
        clip.get_image_embedding(str(tmp_path / "missing.png"))


def test_long_texts_give_one_warning_for_a_batch(folder, caplog):
    clip = ClipEmbedding(model_name=str(folder), device="cpu", embed_batch_size=50)
    clip.encode_texts(TEXTS)
    warnings = [record.getMessage() for record in caplog.records if record.name == "llama_index_mm.embeddings.clip"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{LONG} of {len(TEXTS)} texts are longer than the model's {LIMIT} tokens")
    assert len(caplog.records) == 1  # transformers adds none of its own
    caplog.clear()
    clip.encode_texts(["cat"])
    assert not caplog.records


def test_nothing_to_encode(clip):
    assert clip.encode_texts([]).shape == (0, DIMENSION)
    assert clip.encode_images([]).shape == (0, DIMENSION)


async def test_async_gives_the_same(clip, pictures, tmp_path):
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    assert await clip.aget_text_embedding("cat") == clip.get_text_embedding("cat")
    assert await clip.aget_query_embedding("cat") == clip.get_query_embedding("cat")
    assert await clip.aget_image_embedding(str(path)) == clip.get_image_embedding(str(path))
    np.testing.assert_allclose(await clip.aget_text_embedding_batch(TEXTS), clip.get_text_embedding_batch(TEXTS), atol=1e-6)
    images = await clip.aget_image_embedding_batch([str(path)] * 4)
    np.testing.assert_allclose(images, clip.get_image_embedding_batch([str(path)] * 4), atol=1e-6)


async def test_async_leaves_the_loop_free(clip):
    await clip.aget_text_embedding("cat")
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await clip.aget_text_embedding("dog")
    ticking.cancel()
    assert ticks > 1


def test_many_threads_share_one_model(folder, monkeypatch):
    loads = []
    original = CLIPModel.from_pretrained.__func__

    def counting(cls, *given, **named):
        loads.append(1)
        return original(cls, *given, **named)

    clip = ClipEmbedding(model_name=str(folder), device="cpu")
    wanted = reference_texts(folder, TEXTS)
    monkeypatch.setattr(CLIPModel, "from_pretrained", classmethod(counting))
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(clip.get_text_embedding, TEXTS * 5))
    np.testing.assert_allclose(got, np.tile(wanted, (5, 1)), atol=1e-5)
    assert len(loads) == 1


def test_copies_and_pickles(clip):
    wanted = clip.get_text_embedding("cat")
    assert copy.deepcopy(clip).get_text_embedding("cat") == wanted
    restored = pickle.loads(pickle.dumps(clip))
    assert restored.get_text_embedding("cat") == wanted
    assert restored.embed_batch_size == clip.embed_batch_size


def test_encoders_share_a_space(clip, pictures):
    words, images = ClipTextEncoder(clip), ClipImageEncoder(clip)
    space = EmbeddingSpace("clip", {"text": words, "image": images})
    assert space.dimension == DIMENSION
    assert space.query_encoder("text") is words
    assert space.query_encoder("image") is images
    assert words.fingerprint != images.fingerprint
    np.testing.assert_array_equal(words.encode(TEXTS), clip.encode_texts(TEXTS))
    np.testing.assert_array_equal(images.encode(pictures, query=True), clip.encode_images(pictures))
    assert words.encode([]).shape == (0, DIMENSION)


def test_fingerprint_needs_no_weights_in_memory(clip, folder):
    encoder = ClipTextEncoder(clip)
    assert clip._parts is None
    again = ClipEmbedding(model_name=str(folder), device="cpu")
    assert ClipTextEncoder(again).fingerprint == encoder.fingerprint
    half = ClipEmbedding(model_name=str(folder), device="cpu", dtype="bfloat16")
    assert ClipTextEncoder(half).fingerprint != encoder.fingerprint
    assert TextEncoder(clip).fingerprint == clip.weights_fingerprint


def test_half_precision_gives_unit_float32(folder, pictures):
    clip = ClipEmbedding(model_name=str(folder), device="cpu", dtype="bfloat16")
    for got in (clip.encode_texts(TEXTS), clip.encode_images(pictures)):
        assert got.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert (clip.encode_texts(TEXTS) * reference_texts(folder, TEXTS)).sum(1).min() > 0.98


def test_unreachable_hub_names_the_preset_that_needs_none():
    clip = ClipEmbedding()
    assert clip.model_name == "openai/clip-vit-base-patch32"
    with pytest.raises(ModelError, match="offline"):
        clip.get_text_embedding("cat")
    with pytest.raises(ModelError, match="offline"):
        ClipTextEncoder(clip)


def test_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"'bert'.*offline"):
        ClipImageEncoder(ClipEmbedding(model_name=str(tmp_path)))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.json", "preprocessor_config.json"])
def test_missing_file(tmp_path, missing):
    folder = save_clip(tmp_path / "model")
    (folder / missing).unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(ModelError, match="offline"):
        ClipEmbedding(model_name=str(folder), device="cpu").get_text_embedding("cat")


def test_broken_weights(tmp_path):
    folder = save_clip(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="offline"):
        ClipEmbedding(model_name=str(folder), device="cpu").get_text_embedding("cat")
