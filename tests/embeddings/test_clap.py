import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("transformers", minversion="5")

import torch
from tiny_models import CLAP_SECONDS, DIMENSION, LIMIT, save_clap
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.clap import _REACH, ClapAudioEncoder, ClapEmbedding, ClapTextEncoder, _upsample
from llama_index_mm.errors import EncodeError, ModelError
from llama_index_mm.media import SAMPLE_RATE, Waveform

RATE = 48_000
TEXTS = ["a cat", "", "dog.", "a dog " * 20, "cat dog", "a"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def folder(request, tmp_path_factory):
    return save_clap(tmp_path_factory.mktemp("clap") / "model", fused=request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_clap(tmp_path_factory.mktemp("clap") / "model")


def tone(seconds: float, pitch: float, rate: int = SAMPLE_RATE, seed: int = 0) -> Waveform:
    count = round(seconds * rate)
    noise = np.random.default_rng(seed).normal(0, 0.05, count)
    samples = 0.5 * np.sin(2 * np.pi * pitch * np.arange(count) / rate) * np.linspace(1, 0.1, count) + noise
    return Waveform(samples.astype(np.float32), rate)


@pytest.fixture(scope="module")
def sounds():
    lengths = [0.3, CLAP_SECONDS, 5.25, 1.999, 2 * CLAP_SECONDS, 1 / SAMPLE_RATE, 2.001]
    return [tone(length, 200 * 2**number, seed=number) for number, length in enumerate(lengths)]


def normal(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@torch.inference_mode()
def reference_texts(folder, texts) -> np.ndarray:
    model, tokenizer = ClapModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    fed = [tokenizer(text, truncation=True, max_length=LIMIT, return_tensors="pt") for text in texts]
    return np.stack([normal(model.get_text_features(**one).pooler_output[0].numpy()) for one in fed])


@torch.inference_mode()
def reference_sounds(folder, sounds) -> np.ndarray:
    """Item by item and window by window; the whole recording is brought to 48 kHz before it is cut."""
    model, extractor = ClapModel.from_pretrained(folder).eval(), ClapFeatureExtractor.from_pretrained(folder)
    rows = []
    for sound in sounds:
        samples = _upsample(sound.samples, 0, len(sound.samples), RATE // sound.rate)
        total = np.zeros(DIMENSION)
        for at in range(0, len(samples), CLAP_SECONDS * RATE):
            window = samples[at : at + CLAP_SECONDS * RATE]
            fed = extractor(window, sampling_rate=RATE, return_tensors="pt")
            features = model.get_audio_features(fed["input_features"].float(), is_longer=torch.tensor([[False]]))
            total += len(window) * normal(features.pooler_output[0].numpy())
        rows.append(normal(total))
    return np.stack(rows)


def test_importing_the_module_does_not_import_torch():
    code = "import sys; import llama_index_mm.embeddings.clap; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_sounds_are_as_the_reference_computes_them_one_by_one(folder, sounds, size):
    wanted = reference_sounds(folder, sounds)
    assert np.abs(wanted[0] - wanted[2]).max() > 1e-3  # the test can tell them apart
    clap = ClapEmbedding(model_name=str(folder), device="cpu", embed_batch_size=size)
    got = clap.encode_audio(sounds)
    assert got.shape == (len(sounds), DIMENSION)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(sounds))
    np.testing.assert_allclose(clap.encode_audio([sounds[at] for at in order]), wanted[order], atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_texts_are_as_the_reference_computes_them_one_by_one(folder, size):
    wanted = reference_texts(folder, TEXTS)
    assert np.abs(wanted[0] - wanted[2]).max() > 1e-3
    clap = ClapEmbedding(model_name=str(folder), device="cpu", embed_batch_size=size)
    got = clap.encode_texts(TEXTS)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(clap.encode_texts(TEXTS[::-1])[::-1], wanted, atol=1e-5)
    np.testing.assert_allclose(clap.get_text_embedding_batch(TEXTS), wanted, atol=1e-5)


def test_nothing_is_drawn_at_random(folder, sounds):
    clap = ClapEmbedding(model_name=str(folder), device="cpu")
    np.random.seed(0)  # what transformers' own feature extractor draws from
    first = clap.encode_audio(sounds)
    np.random.seed(1)
    np.testing.assert_array_equal(clap.encode_audio(sounds), first)


def test_every_part_of_a_long_recording_counts_by_its_length(plain):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    low, high = tone(CLAP_SECONDS, 300, RATE), tone(CLAP_SECONDS / 2, 5000, RATE, seed=1)
    both = Waveform(np.concatenate([low.samples, high.samples]), RATE)
    one, two = clap.encode_audio([low, high]).astype(float)
    np.testing.assert_allclose(clap.encode_audio([both])[0], normal(2 * one + two), atol=1e-6)


def test_recordings_of_the_models_own_rate_are_taken_as_they_are(plain):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    wide = [tone(1.3, 11_000, RATE), tone(2.7, 9_000, RATE)]
    np.testing.assert_allclose(clap.encode_audio(wide), reference_sounds(plain, wide), atol=1e-5)


def test_a_tone_keeps_its_place_when_it_is_brought_to_48_khz(plain):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    count = CLAP_SECONDS * RATE
    wide = np.sin(2 * np.pi * 440 * np.arange(count) / RATE) * np.hanning(count) * 0.5
    narrow = Waveform(wide[::3].astype(np.float32))
    first, second = clap.encode_audio([Waveform(wide.astype(np.float32), RATE), narrow])
    other = clap.encode_audio([tone(CLAP_SECONDS, 4000)])[0]
    assert first @ second > 0.999
    assert 1 - first @ other > 5 * (1 - first @ second)


@pytest.mark.parametrize("pitch", [0, 50, 440, 3000, 7000])
def test_upsampling_gives_the_tone_itself(pitch):
    narrow = np.cos(2 * np.pi * pitch * np.arange(4000) / SAMPLE_RATE + 0.3).astype(np.float32)
    wide = np.cos(2 * np.pi * pitch * np.arange(12_000) / RATE + 0.3)
    inner = slice(3 * _REACH, -3 * _REACH)
    np.testing.assert_allclose(_upsample(narrow, 0, 4000, 3)[inner], wide[inner], atol=2e-5)


def test_upsampling_adds_nothing_above_8_khz():
    noise = np.random.default_rng(0).normal(size=48_000).astype(np.float32)
    wide = _upsample(noise, 0, len(noise), 3)
    power = np.abs(np.fft.rfft(wide * np.blackman(len(wide)))) ** 2
    pitch = np.fft.rfftfreq(len(wide), 1 / RATE)
    assert 10 * np.log10(power[pitch > 8_500].max() / power[pitch < 7_000].mean()) < -80


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 300), (100, 101), (299, 300), (17, 211)])
def test_upsampling_a_part_gives_the_part_of_the_whole(start, stop):
    samples = np.random.default_rng(0).normal(size=300).astype(np.float32)
    whole = _upsample(samples, 0, 300, 3)
    assert whole.shape == (900,)
    np.testing.assert_allclose(_upsample(samples, start, stop, 3), whole[3 * start : 3 * stop], atol=1e-12)
    np.testing.assert_array_equal(_upsample(samples, start, stop, 1), samples[start:stop])


def test_silence_has_a_vector(plain):
    got = ClapEmbedding(model_name=str(plain), device="cpu").encode_audio([Waveform(np.zeros(1000, np.float32))])
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_encoders_share_a_space(plain, sounds):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    words, heard = ClapTextEncoder(clap), ClapAudioEncoder(clap)
    space = EmbeddingSpace("sound", {"audio": heard}, {"text": words})
    assert clap._parts is None
    assert space.dimension == DIMENSION
    assert space.query_encoder("text") is words
    assert space.query_encoder("audio") is heard
    assert words.fingerprint != heard.fingerprint
    assert words.fingerprint == ClapTextEncoder(ClapEmbedding(model_name=str(plain), device="cpu")).fingerprint
    np.testing.assert_array_equal(heard.encode(sounds), clap.encode_audio(sounds))
    np.testing.assert_array_equal(words.encode(TEXTS, query=True), clap.encode_texts(TEXTS))
    assert heard.encode([]).shape == words.encode([]).shape == (0, DIMENSION)
    heard.release()
    assert clap._parts is None


def test_labels(plain):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    np.testing.assert_allclose(clap.encode_labels(["dog"]), clap.encode_texts(["This is a sound of dog."]), atol=1e-6)


async def test_async_gives_the_same(plain):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    assert await clap.aget_query_embedding("cat") == clap.get_query_embedding("cat")
    np.testing.assert_allclose(await clap.aget_text_embedding_batch(TEXTS), clap.encode_texts(TEXTS), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(plain, sounds, dtype):
    clap = ClapEmbedding(model_name=str(plain), device="cpu", dtype=dtype)
    for got, wanted in (
        (clap.encode_texts(TEXTS), reference_texts(plain, TEXTS)),
        (clap.encode_audio(sounds), reference_sounds(plain, sounds)),
    ):
        assert got.dtype == np.float32
        assert (got * wanted).sum(1).min() > 0.97


def test_a_full_memory_halves_the_batch_and_goes_on(plain, sounds):
    clap = ClapEmbedding(model_name=str(plain), device="cpu", embed_batch_size=8)
    wanted = clap.encode_audio(sounds)
    method, sizes = clap._parts.model.get_audio_features, []

    def full_once(**fed):
        sizes.append(len(fed["input_features"]))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return method(**fed)

    clap._parts.model.get_audio_features = full_once
    np.testing.assert_allclose(clap.encode_audio(sounds), wanted, atol=1e-5)
    assert sizes == [8, 4, 4, 3]


@pytest.mark.parametrize("rate", [44_100, 96_000, 0])
def test_recordings_of_another_rate(plain, rate):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    with pytest.raises(EncodeError, match=rf"16000 or 48000.*{rate}.*load_audio"):
        clap.encode_audio([Waveform(np.zeros(100, np.float32), rate)])


def test_a_recording_without_a_sample(plain):
    clap = ClapEmbedding(model_name=str(plain), device="cpu")
    with pytest.raises(EncodeError, match="without a sample"):
        clap.encode_audio([Waveform(np.zeros(0, np.float32))])


def test_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match=r"'clip' model.*'clap' \(e\.g\. laion/clap-htsat-unfused\)"):
        ClapTextEncoder(ClapEmbedding(model_name=str(tmp_path)))


def test_unreachable_hub_names_the_preset_that_needs_none():
    with pytest.raises(ModelError, match="offline"):
        ClapEmbedding().get_text_embedding("cat")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_missing_file(tmp_path, missing):
    folder = save_clap(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="offline"):
        ClapEmbedding(model_name=str(folder), device="cpu").get_text_embedding("cat")
