import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from tokenizers import Tokenizer
from transformers import BertModel

from llama_index_mm import models
from llama_index_mm.embeddings.base import EmbeddingSpace, TextEncoder
from llama_index_mm.embeddings.minilm import MAX_TOKENS, MiniLMEmbedding
from llama_index_mm.errors import ModelError

TEXTS = ["cat", "", "A cat on a sofa.", "word " * 400, "The sea, the sea!", "short", "one more " * 50]

needs_weights = [
    pytest.mark.weights,
    pytest.mark.skipif(not models.is_present("minilm"), reason="weights missing: llama-index-mm models pull minilm"),
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("LLAMA_INDEX_MM_OFFLINE", "1")


@pytest.fixture(scope="module")
def minilm():
    return MiniLMEmbedding(device="cpu")


@pytest.fixture(scope="module")
@torch.inference_mode()
def reference() -> np.ndarray:
    """The texts through transformers, one by one."""
    folder = models.model_folder("minilm")
    model = BertModel.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    states = [model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(0).numpy() for text in TEXTS]
    return np.stack([state / np.linalg.norm(state) for state in states])


class TestRealWeights:
    pytestmark = needs_weights

    def test_meaning(self, minilm):
        cat, kitten, crash = minilm.get_text_embedding_batch(
            ["a cat on a sofa", "a kitten lying on the couch", "stock market crash"]
        )
        assert np.dot(cat, kitten) > 0.5 > np.dot(cat, crash) + 0.2

    @pytest.mark.parametrize("size", [1, 3])
    def test_ragged_batches_are_as_the_reference_computes_them_one_by_one(self, reference, size):
        minilm = MiniLMEmbedding(device="cpu", embed_batch_size=size)
        got = np.asarray(minilm.get_text_embedding_batch(TEXTS))
        assert got.shape == (len(TEXTS), 384)
        np.testing.assert_allclose(got, reference, atol=1e-5)
        np.testing.assert_allclose(minilm.get_text_embedding_batch(TEXTS[::-1])[::-1], reference, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)

    def test_long_texts_give_one_warning_for_a_batch(self, minilm, caplog):
        minilm.get_text_embedding_batch(TEXTS)
        assert [record.getMessage()[:40] for record in caplog.records] == ["1 of 7 texts are longer than the model's"]

    async def test_async_gives_the_same(self, minilm):
        assert await minilm.aget_text_embedding("cat") == minilm.get_text_embedding("cat")
        assert await minilm.aget_query_embedding("cat") == minilm.get_query_embedding("cat")
        got = await minilm.aget_text_embedding_batch(TEXTS)
        np.testing.assert_allclose(got, minilm.get_text_embedding_batch(TEXTS), atol=1e-6)

    def test_many_threads(self, reference):
        minilm = MiniLMEmbedding(device="cpu")
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(minilm.get_text_embedding, TEXTS))
        np.testing.assert_allclose(got, reference, atol=1e-5)

    def test_in_a_space(self, minilm):
        encoder = TextEncoder(minilm)
        space = EmbeddingSpace("text", {"text": encoder, "audio": encoder})
        assert space.dimension == 384
        assert encoder.fingerprint == minilm.weights_fingerprint
        np.testing.assert_allclose(encoder.encode(TEXTS, query=True), encoder.encode(TEXTS), atol=1e-5)

    @pytest.mark.parametrize("broken", ["tokenizer.json", "model.safetensors", "config.json"])
    def test_broken_file(self, tmp_path, monkeypatch, broken):
        folder = tmp_path / "models" / models.model_folder("minilm").name
        shutil.copytree(models.model_folder("minilm"), folder)
        (folder / broken).write_bytes((folder / broken).read_bytes()[:1000][:-300])
        monkeypatch.setenv("LLAMA_INDEX_MM_HOME", str(tmp_path))
        with pytest.raises(ModelError, match="minilm"):
            MiniLMEmbedding(device="cpu").get_text_embedding("cat")


def test_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_INDEX_MM_HOME", str(tmp_path))
    monkeypatch.delenv("LLAMA_INDEX_MM_WHEELS", raising=False)
    with pytest.raises(ModelError, match="minilm"):
        MiniLMEmbedding(device="cpu").get_text_embedding("cat")


def test_fingerprint_needs_no_weights(tmp_path, monkeypatch):
    known = MiniLMEmbedding().weights_fingerprint
    monkeypatch.setenv("LLAMA_INDEX_MM_HOME", str(tmp_path))
    assert MiniLMEmbedding(device="cpu").weights_fingerprint == known
    assert len(known) == 16
