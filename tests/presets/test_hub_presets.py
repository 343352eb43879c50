"""The presets ``multilingual`` and ``quality`` end to end, with tiny models in local folders."""

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")

import transformers
from tiny_models import save_clap, save_clip_kin, save_speech_model

from llama_index_mm.embeddings.base import TextEncoder
from llama_index_mm.embeddings.clap import ClapEmbedding
from llama_index_mm.embeddings.clip import ClipEmbedding
from llama_index_mm.embeddings.e5_hub import E5Embedding
from llama_index_mm.errors import ModelError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import MODALITIES, load_audio, load_image
from llama_index_mm.presets import preset_facts
from llama_index_mm.presets.clip import clip_preset
from llama_index_mm.presets.multilingual import multilingual_preset
from llama_index_mm.presets.quality import quality_preset
from llama_index_mm.retrieval import MediaQuery, reasons_of
from llama_index_mm.transforms.transcript import Segment, Transcript

WORDS = ["query", "passage", ":", *"abcdefghijklmnopqrstuvwxyz", "cat", "dog", "sea", "the", "猫", "狗"]
COLOURS = ["red", "lime", "blue", "black"]
TONES = [150, 700, 2500]


def save_e5(folder, *, seed=0):
    """A tiny XLM-RoBERTa with random weights and the tokenizer of its kind."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *("\u2581" + word for word in WORDS), *WORDS, "\u2581"]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=[(piece, -float(at)) for at, piece in enumerate(pieces)])
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=34,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    transformers.set_seed(seed)
    model = transformers.XLMRobertaModel(config)
    for weight in model.parameters():
        weight.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
        "picture": save_clip_kin(folder / "siglip2", "siglip2-fixed"),
        "text": save_e5(folder / "e5"),
        "sound": save_speech_model(folder / "hubert", "hubert"),
        "heard": save_clap(folder / "clap"),
    }


def make_preset(name, models):
    if name == "quality":
        return quality_preset(**models, transcriber=ByPitch())
    return multilingual_preset(**{part: models[part] for part in ("picture", "text", "sound")}, transcriber=ByPitch())


@pytest.fixture(scope="module", params=["multilingual", "quality"])
def index(request, models, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    with MultiModalIndex.open(folder / "made", preset=make_preset(request.param, models), create=True) as opened:
        assert opened.ingest(files).problems == []
        yield opened


@pytest.fixture(scope="module")
def files(make_once):
    for colour in COLOURS:
        make_once.picture(f"files/{colour}.png", colour)
    for hertz in TONES:
        make_once.tone(f"files/{hertz}.wav", hertz)
    make_once.text("files/cat.txt", "a cat")
    make_once.obj("files/box.obj")
    return make_once.folder / "files"


def find(index, query, modality):
    return index.as_retriever(similarity_top_k=4, modalities=[modality]).retrieve(query)


def test_what_is_stored(index):
    counts = {"text": 1, "image": 4, "audio": 3, "mesh": 1}
    wanted = {("text", modality): count for modality, count in counts.items()}
    wanted |= {("picture", modality): counts[modality] for modality in ("text", "image", "mesh")}
    wanted[("sound", "audio")] = 3
    if index.preset.name == "quality":
        wanted[("heard", "audio")] = 3
    assert index.store.partitions() == wanted


@pytest.mark.parametrize("words", ["a cat", "the sea", "狗"])
def test_words_find_pictures_by_what_the_model_sees(index, models, files, words):
    model = ClipEmbedding(model_name=str(models["picture"]), device="cpu")
    seen = model.encode_images([load_image(files / f"{colour}.png") for colour in COLOURS])
    similar = dict(zip((f"{colour}.png" for colour in COLOURS), seen @ model.encode_texts([words])[0], strict=True))
    hits = find(index, words, "image")
    assert len(hits) == len(COLOURS)
    for hit in hits:
        by_space = {reason.space: reason.raw for reason in reasons_of(hit.node)}
        assert by_space["picture"] == pytest.approx(similar[hit.node.metadata["file_name"]], abs=1e-5)


@pytest.mark.parametrize("query", ["red.png", "2500.wav", "box.obj"])
def test_media_find_themselves(index, files, query):
    part = {"png": "image", "wav": "audio", "obj": "mesh"}[query[-3:]]
    first = find(index, MediaQuery(**{part: files / query}), part)[0]
    assert first.node.metadata["file_name"] == query
    assert all(reason.raw == pytest.approx(1, abs=1e-4) for reason in reasons_of(first.node))


def test_words_find_what_was_said_and_texts(index, models):
    e5 = E5Embedding(model_name=str(models["text"]), device="cpu")
    asked = np.asarray(e5.get_query_embedding("a dog"))
    heard = {hit.node.metadata["file_name"]: hit.node for hit in find(index, "a dog", "audio")}
    assert {name: node.text for name, node in heard.items()} == {"150.wav": "a dog", "700.wav": "700", "2500.wav": "2500"}
    for node in heard.values():
        reason = next(reason for reason in reasons_of(node) if reason.space == "text")
        assert reason.raw == pytest.approx(float(asked @ e5.get_text_embedding(node.text)), abs=1e-5)
        assert reason.weight == 0.6
    (text,) = find(index, "a dog", "text")
    (reason,) = reasons_of(text.node)
    assert (text.node.metadata["file_name"], reason.space) == ("cat.txt", "text")
    assert reason.raw == pytest.approx(float(asked @ e5.get_text_embedding("a cat")), abs=1e-5)


def test_sounds_are_asked_for_in_words(index, models, files):
    hits = find(index, "a dog", "audio")
    heard = {hit.node.metadata["file_name"]: {reason.space: reason for reason in reasons_of(hit.node)} for hit in hits}
    if index.preset.name == "multilingual":
        assert all("heard" not in reasons for reasons in heard.values())
        return
    clap = ClapEmbedding(model_name=str(models["heard"]), device="cpu")
    names = [f"{hertz}.wav" for hertz in TONES]
    similar = clap.encode_audio([load_audio(files / name) for name in names]) @ clap.encode_texts(["a dog"])[0]
    assert {name: heard[name]["heard"].raw for name in names} == pytest.approx(
        dict(zip(names, similar.tolist(), strict=True)), abs=1e-4
    )
    assert {reasons["heard"].weight for reasons in heard.values()} == {0.4}


@pytest.mark.parametrize("name", ["multilingual", "quality"])
def test_no_weights_are_read_before_they_are_needed(name, models, tmp_path):
    folders = {}
    for part, folder in models.items():
        copy = tmp_path / part
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(b"no weights" if file.suffix == ".safetensors" else file.read_bytes())
        folders[part] = copy
    made = make_preset(name, folders)
    text = next(space for space in made.spaces if space.name == "text").encoders["text"]
    assert isinstance(text, TextEncoder)
    with pytest.raises(ModelError, match="offline"):
        text.encode(["a cat"])


@pytest.mark.parametrize("name", ["multilingual", "quality"])
@pytest.mark.parametrize("part", ["picture", "text", "sound", "heard"])
@pytest.mark.parametrize("given", ["gone", "some/where-not-cached"])
def test_a_model_that_is_not_there_names_the_preset_that_needs_no_hub(name, part, given, models, tmp_path):
    if name == "multilingual" and part == "heard":
        return
    folder = tmp_path / given if given == "gone" else given
    with pytest.raises(ModelError, match=r"path of a folder.*The preset 'offline' needs no hub"):
        make_preset(name, {**models, part: folder})


@pytest.mark.parametrize("maker", [multilingual_preset, quality_preset])
def test_whisper_that_is_not_there(maker, models, tmp_path):
    folders = models if maker is quality_preset else {part: models[part] for part in ("picture", "text", "sound")}
    with pytest.raises(ModelError, match=r"path of a folder.*The preset 'offline' needs no hub"):
        maker(**folders, whisper=tmp_path / "gone")
    made = maker(**folders)  # by name: nothing is fetched yet
    assert made.transcriber.model == preset_facts(made.name).models[-1].source


@pytest.mark.parametrize("name", ["clip", "multilingual", "quality"])
def test_facts_say_what_the_spaces_can(name, models):
    made = clip_preset(models["picture"], models["sound"], ByPitch()) if name == "clip" else make_preset(name, models)
    facts = preset_facts(name)
    assert list(facts.spaces) == [space.name for space in made.spaces]
    assert facts.reach == {asked: reach_of(made, asked) for asked in MODALITIES}


def reach_of(made, asked):
    """Modalities that some channel of a query leads to; of a recording also those of its words."""
    found = set()
    for part, modality in [(asked, asked), *([("speech", "text")] if asked == "audio" else [])]:
        for space in made.spaces:
            if space.query_encoder(modality) is None:
                continue
            wanted = ("text", "audio") if part == "speech" else MODALITIES
            found |= {
                other for other in wanted if other in space.encoders and made.weights.get(f"{part}:{space.name}:{other}", 1) > 0
            }
    return tuple(modality for modality in MODALITIES if modality in found)


def test_e5_is_the_mean_of_hidden_states(models):
    torch = pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["text"])
    model = transformers.AutoModel.from_pretrained(models["text"]).eval()
    texts = ["a cat", "the sea the dog cat", "狗", "the dog the cat the sea a dog"]

    def by_hand(text):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(0).numpy()
        return mean / np.linalg.norm(mean)

    for size in (1, 3, 16):
        e5 = E5Embedding(model_name=str(models["text"]), device="cpu", embed_batch_size=size)
        passages = np.asarray(e5.get_text_embedding_batch(texts))
        np.testing.assert_allclose(passages, [by_hand(f"passage: {text}") for text in texts], atol=1e-5)
        np.testing.assert_allclose(e5.get_query_embedding("a cat"), by_hand("query: a cat"), atol=1e-5)


def test_e5_cuts_long_texts_and_says_so(models, caplog):
    e5 = E5Embedding(model_name=str(models["text"]), device="cpu")
    long = "cat " * 40
    assert e5.get_text_embedding(long) == pytest.approx(e5.get_text_embedding("cat " * 60), abs=1e-6)
    assert "1 of 1 texts are longer than the model's 32 tokens" in caplog.text


def test_e5_is_loaded_again_after_its_release(models):
    e5 = E5Embedding(model_name=str(models["text"]), device="cpu")
    before = e5.get_text_embedding("a cat")
    e5.release()
    assert e5._parts is None
    assert e5.get_text_embedding("a cat") == before


def test_e5_fingerprint_follows_the_weights(models, tmp_path):
    one = E5Embedding(model_name=str(models["text"])).weights_fingerprint
    assert E5Embedding(model_name=str(save_e5(tmp_path / "again"))).weights_fingerprint == one
    assert E5Embedding(model_name=str(save_e5(tmp_path / "other", seed=1))).weights_fingerprint != one
    assert E5Embedding(model_name=str(models["text"]), dtype="bfloat16").weights_fingerprint != one


def test_e5_takes_no_other_kind(models):
    with pytest.raises(ModelError, match="'siglip' model"):
        _ = E5Embedding(model_name=str(models["picture"])).dimension
