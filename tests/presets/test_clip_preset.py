import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")

from tiny_models import save_clip, save_speech_model

from llama_index_mm.embeddings.clip import ClipEmbedding
from llama_index_mm.errors import ModelError, SpaceError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import load_image
from llama_index_mm.presets.clip import clip_preset
from llama_index_mm.retrieval import MediaQuery, reasons_of
from llama_index_mm.transforms.transcript import Segment, Transcript

COLOURS = ["red", "lime", "blue", "black", "yellow"]
TONES = [150, 700, 2500]


class ByPitch:
    """Hears a word in low tones, and nothing in the others."""

    fingerprint = "by pitch"

    def transcribe(self, sound, *, language=None):
        crossings = np.count_nonzero(np.diff(np.signbit(sound.samples))) / sound.seconds
        words = (Segment(0, sound.seconds, "a dog"),) if crossings < 500 else ()
        return Transcript(words, language or "en", 0.9)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "clip": save_clip(folder / "clip"),
        "other clip": save_clip(folder / "other-clip", seed=1),
        "speech": save_speech_model(folder / "speech"),
        "other speech": save_speech_model(folder / "other-speech", seed=1),
    }


def preset(models, clip="clip", speech="speech"):
    return clip_preset(models[clip], models[speech], ByPitch())


@pytest.fixture(scope="module")
def files(make_once):
    for colour in COLOURS:
        make_once.picture(f"files/{colour}.png", colour)
    for hertz in TONES:
        make_once.tone(f"files/{hertz}.wav", hertz)
    make_once.text("files/cat.txt", "a cat")
    make_once.obj("files/box.obj")
    return make_once.folder / "files"


@pytest.fixture(scope="module")
def index(models, files, tmp_path_factory):
    with MultiModalIndex.open(tmp_path_factory.mktemp("index") / "clip", preset=preset(models), create=True) as opened:
        assert opened.ingest(files).problems == []
        yield opened


def names(hits):
    return [hit.node.metadata["file_name"] for hit in hits]


def test_what_is_stored(index):
    assert index.store.counts() == {"text": 1, "image": 5, "audio": 3, "mesh": 1}
    assert index.store.partitions() == {
        ("clip", "text"): 1,
        ("clip", "image"): 5,
        ("clip", "audio"): 3,
        ("clip", "mesh"): 1,
        ("sound", "audio"): 3,
    }


@pytest.mark.parametrize("words", ["a cat", "dog dog", "the sea"])
def test_words_find_pictures_as_clip_orders_them(index, models, files, words):
    clip = ClipEmbedding(model_name=str(models["clip"]), device="cpu")
    pictures = clip.encode_images([load_image(files / f"{colour}.png") for colour in COLOURS])
    similar = dict(zip((f"{colour}.png" for colour in COLOURS), pictures @ clip.encode_texts([words])[0], strict=True))
    hits = index.as_retriever(similarity_top_k=5, modalities=["image"]).retrieve(words)
    assert names(hits) == sorted(similar, key=lambda name: -similar[name])
    for hit in hits:
        (reason,) = reasons_of(hit.node)
        assert reason.raw == pytest.approx(similar[hit.node.metadata["file_name"]], abs=1e-5)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_picture_finds_itself(index, files, colour):
    hits = index.as_retriever(modalities=["image"]).retrieve(MediaQuery(image=files / f"{colour}.png"))
    assert names(hits)[0] == f"{colour}.png"
    assert reasons_of(hits[0].node)[0].raw == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("hertz", TONES)
def test_a_recording_finds_itself(index, files, hertz):
    hits = index.as_retriever(modalities=["audio"]).retrieve(MediaQuery(audio=files / f"{hertz}.wav"))
    assert names(hits)[0] == f"{hertz}.wav"
    asked = {reason.part: reason for reason in reasons_of(hits[0].node)}
    assert asked["audio"].raw == pytest.approx(1, abs=1e-5)
    assert asked["audio"].weight == 0.4
    assert ("speech" in asked) == (hertz == 150)
    if hertz == 150:
        assert (asked["speech"].raw, asked["speech"].weight) == (pytest.approx(1, abs=1e-5), 0.6)


def test_words_find_what_was_said(index):
    (first, *_) = index.as_retriever(modalities=["audio"]).retrieve("a dog")
    assert first.node.metadata["file_name"] == "150.wav"
    assert (first.node.text, first.node.speech, first.node.language) == ("a dog", True, "en")


def test_a_mesh_finds_itself(index, files):
    hits = index.as_retriever(modalities=["mesh"]).retrieve(MediaQuery(mesh=files / "box.obj"))
    assert names(hits) == ["box.obj"]
    assert reasons_of(hits[0].node)[0].raw == pytest.approx(1, abs=1e-4)


def test_opens_with_the_same_weights_only(index, models):
    folder = index.store.folder
    with MultiModalIndex.open(folder, preset=preset(models)) as again:
        assert len(again.store) == len(index.store)
    with pytest.raises(SpaceError, match="Space 'clip'"):
        MultiModalIndex.open(folder, preset=preset(models, clip="other clip"))
    with pytest.raises(SpaceError, match="Space 'sound'"):
        MultiModalIndex.open(folder, preset=preset(models, speech="other speech"))


def test_fingerprints_tell_weights_apart(models):
    spaces = [preset(models, clip, speech).spaces for clip in ("clip", "other clip") for speech in ("speech", "other speech")]
    assert len({clip.fingerprint for clip, _ in spaces}) == 2
    assert len({sound.fingerprint for _, sound in spaces}) == 2
    assert [space.fingerprint for space in preset(models).spaces] == [space.fingerprint for space in preset(models).spaces]


def test_missing_folder_names_the_preset_that_needs_no_hub(models, tmp_path):
    with pytest.raises(ModelError, match="offline"):
        clip_preset(tmp_path / "gone", models["speech"], ByPitch())
    with pytest.raises(ModelError, match="offline"):
        clip_preset(models["clip"], tmp_path / "gone", ByPitch())
