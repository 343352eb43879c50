import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from tiny_models import SPEECH_MODELS, save_speech_model
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.wav2vec2 import WINDOW_SECONDS, Wav2Vec2Encoder
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import SAMPLE_RATE, Waveform


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module", params=[*SPEECH_MODELS])
def folder(request, tmp_path_factory):
    return save_speech_model(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return save_speech_model(tmp_path_factory.mktemp("group") / "model", "wav2vec2-group")


def sounds(*lengths: int) -> list[Waveform]:
    rng = np.random.default_rng(0)
    tones = [np.sin(np.arange(length) * rng.uniform(0.01, 0.5)) * rng.uniform(0.1, 0.9) for length in lengths]
    return [Waveform((tone + rng.normal(0, 0.05, len(tone))).astype(np.float32)) for tone in tones]


@torch.inference_mode()
def reference_means(folder: Path, samples: list[np.ndarray]) -> np.ndarray:
    """Mean hidden frame of each recording, computed by itself."""
    model = AutoModel.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    rows = []
    for one in samples:
        fed = extractor(one, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        rows.append(model(fed["input_values"]).last_hidden_state[0].mean(0).numpy())
    return np.stack(rows)


def normed(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


RAGGED = (8000, 4000, 401, 8000, 400, 5999, 4000, 4000)


@pytest.mark.parametrize("size", [1, 3])
def test_ragged_batches_are_as_the_reference_computes_them_one_by_one(folder, size):
    items = sounds(*RAGGED)
    wanted = normed(reference_means(folder, [item.samples for item in items]))
    encoder = Wav2Vec2Encoder(str(folder), device="cpu", batch_size=size)
    got = encoder.encode(items)
    assert got.shape == (len(items), encoder.dimension)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(items[::-1])[::-1], wanted, atol=1e-5)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-4  # the test can tell sounds apart


@torch.inference_mode()
def test_equals_the_masked_batch_of_models_that_were_trained_with_masks(tmp_path):
    folder = save_speech_model(tmp_path / "model", "wav2vec2-layer")
    items = sounds(16000, 9000, 3000)
    model = AutoModel.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    fed = extractor([item.samples for item in items], sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    states = model(**fed).last_hidden_state
    counts = model._get_feat_extract_output_lengths(fed["attention_mask"].sum(-1))
    wanted = np.stack([state[:count].mean(0).numpy() for state, count in zip(states, counts, strict=True)])
    got = Wav2Vec2Encoder(str(folder), device="cpu").encode(items)
    np.testing.assert_allclose(got, normed(wanted), atol=1e-4)


def test_long_sound_is_the_mean_of_its_windows_weighted_by_time(group):
    size = WINDOW_SECONDS * SAMPLE_RATE
    long, short = sounds(2 * size + 8000, 8000)
    parts = [long.samples[:size], long.samples[size : 2 * size], long.samples[2 * size :]]
    weights = np.array([size, size, 8000]) / (2 * size + 8000)
    wanted = normed((reference_means(group, parts) * weights[:, None]).sum(0, keepdims=True))
    encoder = Wav2Vec2Encoder(str(group), device="cpu")
    got = encoder.encode([short, long])
    np.testing.assert_allclose(got[1], wanted[0], atol=1e-5)
    np.testing.assert_allclose(got[0], encoder.encode([short])[0], atol=1e-5)


@pytest.mark.parametrize("length", [1, 10, 399])
def test_sound_shorter_than_the_receptive_field_is_filled_up(group, length):
    (item,) = sounds(length)
    filled = np.pad(item.samples, (0, 400 - length))
    got = Wav2Vec2Encoder(str(group), device="cpu").encode([item])
    np.testing.assert_allclose(got, normed(reference_means(group, [filled])), atol=1e-5)


def test_tail_shorter_than_the_receptive_field(group):
    (item,) = sounds(WINDOW_SECONDS * SAMPLE_RATE + 7)
    assert np.isfinite(Wav2Vec2Encoder(str(group), device="cpu").encode([item])).all()


def test_silence_is_finite(group):
    assert np.isfinite(Wav2Vec2Encoder(str(group), device="cpu").encode([Waveform(np.zeros(8000, np.float32))])).all()


def test_what_it_refuses(group):
    encoder = Wav2Vec2Encoder(str(group), device="cpu")
    with pytest.raises(EncodeError, match="8000"):
        encoder.encode([Waveform(np.zeros(8000, np.float32), rate=8000)])
    with pytest.raises(EncodeError, match="without a sample"):
        encoder.encode([Waveform(np.zeros(0, np.float32))])


def test_in_a_space(group):
    encoder = Wav2Vec2Encoder(str(group), device="cpu")
    assert encoder._parts is None  # the space needs no weights
    space = EmbeddingSpace("sound", {"audio": encoder})
    assert space.dimension == 16
    assert space.query_encoder("audio") is encoder
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.fingerprint == Wav2Vec2Encoder(str(group)).fingerprint
    assert encoder.fingerprint != Wav2Vec2Encoder(str(group), dtype="bfloat16").fingerprint


def test_released_and_loaded_again(group):
    items = sounds(8000, 4000)
    encoder = Wav2Vec2Encoder(str(group), device="cpu")
    encoder.release()  # nothing to free yet
    first = encoder.encode(items)
    model = weakref.ref(encoder._load().model)
    EmbeddingSpace("sound", {"audio": encoder}).release()
    assert model() is None
    np.testing.assert_array_equal(encoder.encode(items), first)


def test_full_memory_halves_the_batch(group, monkeypatch):
    items = sounds(*[4000] * 7)
    wanted = Wav2Vec2Encoder(str(group), device="cpu").encode(items)
    encoder = Wav2Vec2Encoder(str(group), device="cpu", batch_size=5)
    sizes, forward = [], encoder._forward

    def small(windows):
        sizes.append(len(windows))
        if len(windows) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(windows)

    monkeypatch.setattr(encoder, "_forward", small)
    np.testing.assert_allclose(encoder.encode(items), wanted, atol=1e-5)
    assert sizes == [5, 2, 2, 1, 2]


def test_many_threads(group):
    items = sounds(*RAGGED)
    encoder = Wav2Vec2Encoder(str(group), device="cpu")
    with ThreadPoolExecutor(4) as pool:
        got = np.concatenate(list(pool.map(lambda item: encoder.encode([item]), items)))
    np.testing.assert_allclose(got, encoder.encode(items), atol=1e-5)


def test_unreachable_hub():
    with pytest.raises(ModelError, match=r"facebook/wav2vec2-base.*offline"):
        Wav2Vec2Encoder()


def test_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"'bert'.*offline"):
        Wav2Vec2Encoder(str(tmp_path))


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_missing_file(tmp_path, missing):
    folder = save_speech_model(tmp_path / "model", "wav2vec2-group")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="offline"):
        Wav2Vec2Encoder(str(folder), device="cpu").encode(sounds(800))


def test_broken_weights(tmp_path):
    folder = save_speech_model(tmp_path / "model", "wav2vec2-group")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="offline"):
        Wav2Vec2Encoder(str(folder), device="cpu").encode(sounds(800))


def test_model_of_another_rate(tmp_path):
    folder = save_speech_model(tmp_path / "model", "wav2vec2-group")
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    with pytest.raises(ModelError, match="8000"):
        Wav2Vec2Encoder(str(folder), device="cpu").encode(sounds(800))
