"""Every kind of model that ClipEmbedding takes, against transformers' own numbers, item by item."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", minversion="5")

import torch
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from tiny_models import DIMENSION, LIMIT, save_clip, save_clip_kin
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from llama_index_mm.embeddings.clip import CLIP_FAMILY, ClipEmbedding, ClipImageEncoder, ClipTextEncoder
from llama_index_mm.embeddings.hub import TextCutEvent
from llama_index_mm.embeddings.labels import PICTURE_PROMPTS, label_prompts
from llama_index_mm.errors import EncodeError, ModelError

KINDS = ["altclip", "chinese_clip", "metaclip_2", "siglip", "siglip-pieces", "siglip2", "siglip2-fixed"]
FILLED = {"siglip", "siglip-pieces", "siglip2", "siglip2-fixed"}
TEXTS = ["cat", "", "a cat the sofa", "dog " * 40, "a", "dog dog cat", "the sea " * 9, "猫", "cat"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class Heard(BaseEventHandler):
    """Keeps the events of cut texts."""

    events: list

    def handle(self, event, **named):
        if isinstance(event, TextCutEvent):
            self.events.append(event)


@pytest.fixture
def events():
    root, heard = get_dispatcher(), Heard(events=[])
    root.add_event_handler(heard)
    yield heard.events
    root.event_handlers.remove(heard)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return save_clip_kin(tmp_path_factory.mktemp("kin") / "model", kind)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (32, 32), (200, 33), (7, 9), (3, 64), (64, 3), (1, 1)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def direction(features) -> np.ndarray:
    vector = features.pooler_output[0].numpy()
    return vector / np.linalg.norm(vector)


@torch.inference_mode()
def reference_texts(folder, kind, texts) -> np.ndarray:
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        fed = tokenizer(
            text, truncation=True, max_length=LIMIT, padding="max_length" if kind in FILLED else False, return_tensors="pt"
        )
        if kind in FILLED:  # as its authors converted it: without a mask
            assert fed["input_ids"].shape == (1, LIMIT)
            fed.pop("attention_mask", None)
        rows.append(direction(model.get_text_features(**fed)))
    return np.stack(rows)


@torch.inference_mode()
def reference_images(folder, images) -> np.ndarray:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder, backend="pil")
    return np.stack([direction(model.get_image_features(**processor(one, return_tensors="pt"))) for one in images])


def test_texts_and_pictures_are_as_the_reference_computes_them_one_by_one(folder, kind, pictures):
    texts, images = reference_texts(folder, kind, TEXTS), reference_images(folder, pictures)
    assert np.abs(texts[0] - texts[2]).max() > 1e-3  # the test can tell them apart
    assert np.abs(images[0] - images[1]).max() > 1e-3
    rng = np.random.default_rng(1)
    for size in (1, 2, 3, 50):
        clip = ClipEmbedding(model_name=str(folder), device="cpu", embed_batch_size=size)
        assert clip.dimension == DIMENSION
        got = clip.encode_texts(TEXTS)
        assert got.shape == (len(TEXTS), DIMENSION)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, texts, atol=1e-5)
        np.testing.assert_allclose(clip.encode_images(pictures), images, atol=1e-5)
        order = rng.permutation(len(TEXTS))
        np.testing.assert_allclose(clip.encode_texts([TEXTS[at] for at in order]), texts[order], atol=1e-5)
        order = rng.permutation(len(pictures))
        np.testing.assert_allclose(clip.encode_images([pictures[at] for at in order]), images[order], atol=1e-5)


def test_one_space_with_unit_vectors(folder, pictures):
    clip = ClipEmbedding(model_name=str(folder), device="cpu")
    words, images = ClipTextEncoder(clip), ClipImageEncoder(clip)
    assert words.dimension == images.dimension == DIMENSION
    assert words.fingerprint != images.fingerprint
    for vectors in (words.encode(TEXTS), images.encode(pictures)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, kind, pictures, dtype):
    clip = ClipEmbedding(model_name=str(folder), device="cpu", dtype=dtype)
    for got, wanted in (
        (clip.encode_texts(TEXTS), reference_texts(folder, kind, TEXTS)),
        (clip.encode_images(pictures), reference_images(folder, pictures)),
    ):
        assert got.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
        assert (got * wanted).sum(1).min() > 0.97


def test_long_texts_give_one_warning_and_one_event(folder, caplog, events):
    clip = ClipEmbedding(model_name=str(folder), device="cpu", embed_batch_size=2)
    caplog.set_level(logging.WARNING)
    clip.encode_texts(["cat", "a " * 40, "dog", "dog " * 40, "a"])
    ours = [record for record in caplog.records if record.name.startswith("llama_index_mm")]
    assert [record.name for record in ours] == ["llama_index_mm.embeddings.clip"]
    assert ours[0].getMessage().startswith(f"2 of 5 texts are longer than the model's {LIMIT} tokens")
    assert [(event.model, event.limit, event.cut, event.total) for event in events] == [(str(folder), LIMIT, [1, 3], 5)]
    assert events[0].model_dump()["class_name"] == "TextCutEvent"
    clip.encode_texts(["cat"])
    assert len(events) == 1


def test_siglip_2_reads_small_letters(kind, folder):
    if kind not in ("siglip2", "siglip2-fixed"):
        pytest.skip("its tokenizer knows what to do")
    clip = ClipEmbedding(model_name=str(folder), device="cpu")
    np.testing.assert_array_equal(clip.encode_texts(["A CAT"]), clip.encode_texts(["a cat"]))


def test_every_kind_is_in_the_table():
    assert {"clip", *(kind.removesuffix("-fixed").removesuffix("-pieces") for kind in KINDS)} == set(CLIP_FAMILY)


def test_another_kind_is_refused_with_the_table(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError) as caught:
        ClipEmbedding(model_name=str(tmp_path)).encode_texts(["cat"])
    for kind, example in CLIP_FAMILY.items():
        assert f"'{kind}' (e.g. {example})" in str(caught.value)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "model")


class Full:
    """A model whose memory is too small for more than so many items: what torch raises on a GPU."""

    def __init__(self, method, most):
        self.method, self.most, self.sizes = method, most, []

    def __call__(self, **fed):
        count = len(next(iter(fed.values())))
        self.sizes.append(count)
        if count > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self.method(**fed)


def test_a_full_memory_halves_the_batch_and_goes_on(plain, pictures):
    clip = ClipEmbedding(model_name=str(plain), device="cpu", embed_batch_size=50)
    texts, images = clip.encode_texts(TEXTS), clip.encode_images(pictures)
    model = clip._parts.model
    model.get_text_features = words = Full(model.get_text_features, 3)
    model.get_image_features = looks = Full(model.get_image_features, 1)
    np.testing.assert_allclose(clip.encode_texts(TEXTS), texts, atol=1e-5)
    assert words.sizes == [9, 4, 2, 2, 2, 2, 1]
    np.testing.assert_allclose(clip.encode_images(pictures), images, atol=1e-5)
    assert looks.sizes == [2, *[1] * 7]  # what did not fit before is not tried again
    clip.release()
    np.testing.assert_allclose(clip.encode_texts(TEXTS), texts, atol=1e-5)
    assert words.sizes == [9, 4, 2, 2, 2, 2, 1]


def test_one_item_that_does_not_fit(plain):
    clip = ClipEmbedding(model_name=str(plain), device="cpu")
    clip.encode_texts(["cat"])
    clip._parts.model.get_text_features = Full(None, 0)
    with pytest.raises(ModelError, match=r"One item alone does not fit.*20\.00 GiB.*bfloat16"):
        clip.encode_texts(["cat", "dog"])


def test_other_errors_of_the_model_are_not_swallowed(plain):
    clip = ClipEmbedding(model_name=str(plain), device="cpu")
    clip.encode_texts(["cat"])

    def broken(**fed):
        raise RuntimeError("no kernel image is available")

    clip._parts.model.get_text_features = broken
    with pytest.raises(RuntimeError, match="no kernel image"):
        clip.encode_texts(["cat"])


def test_release_frees_the_weights(plain):
    import weakref

    clip = ClipEmbedding(model_name=str(plain), device="cpu")
    clip.release()  # nothing is loaded yet
    wanted = clip.encode_texts(TEXTS)
    weights = weakref.ref(clip._parts.model.text_projection.weight)
    ClipTextEncoder(clip).release()
    assert weights() is None
    np.testing.assert_array_equal(clip.encode_texts(TEXTS), wanted)


def test_labels_are_the_means_of_their_prompts(plain):
    clip = ClipEmbedding(model_name=str(plain), device="cpu", embed_batch_size=2)
    templates = ["a {}", "the {} the sea", "{} {}"]
    got = clip.encode_labels(["cat", "dog"], templates=templates)
    for row, label in zip(got, ["cat", "dog"], strict=True):
        mean = clip.encode_texts([f"a {label}", f"the {label} the sea", f"{label} {label}"]).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert got.dtype == np.float32
    np.testing.assert_allclose(clip.encode_labels(["cat"], ["{}"]), clip.encode_texts(["cat"]), atol=1e-6)
    assert clip.encode_labels([]).shape == (0, DIMENSION)
    assert clip.encode_labels(["cat"]).shape == (1, DIMENSION)


def test_label_prompts():
    assert label_prompts(["cat", "{0} of {}"], ["a {}", "{}!"]) == ["a cat", "cat!", "a {0} of {}", "{0} of {}!"]
    assert len(label_prompts(["cat"])) == len(PICTURE_PROMPTS) == 7
    with pytest.raises(EncodeError, match="'a photo'"):
        label_prompts(["cat"], ["a {}", "a photo"])
    with pytest.raises(EncodeError, match="template"):
        label_prompts(["cat"], [])
