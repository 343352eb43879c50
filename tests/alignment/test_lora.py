"""Low-rank changes of tiny models with random weights: this tests the plumbing, not what it is worth."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "safetensors", "peft", "sentencepiece")):
    pytest.skip("needs torch, transformers, safetensors, peft and sentencepiece", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the child that is killed

import torch
from tiny_models import save_clap, save_clip, save_clip_kin, save_speech_model

from llama_index_mm.alignment import (
    AlignedEncoder,
    LoraAligner,
    LoraEncoder,
    LoraOptions,
    beside,
    check_adapter,
    labelled,
    paired,
    with_encoder,
)
from llama_index_mm.alignment.backbones import backbone_of, shared_copy
from llama_index_mm.alignment.lora import _LoraLearner
from llama_index_mm.alignment.lora_encoder import injected, put, weights_of
from llama_index_mm.alignment.training import start_of
from llama_index_mm.cli import app
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.cache import CachedEncoder
from llama_index_mm.embeddings.clap import ClapAudioEncoder, ClapEmbedding
from llama_index_mm.embeddings.clip import ClipEmbedding, ClipImageEncoder
from llama_index_mm.embeddings.wav2vec2 import Wav2Vec2Encoder
from llama_index_mm.errors import AlignmentError, MissingExtraError, ModelError, SpaceError
from llama_index_mm.media import Waveform, digest_file
from llama_index_mm.testing import HashingEncoder, tiny_preset

KINDS = ["clip", "altclip", "siglip", "siglip2", "clap", "wav2vec2-group", "hubert", "wavlm"]


def save(folder, kind):
    if kind == "clip":
        return save_clip(folder)
    if kind == "clap":
        return save_clap(folder)
    return save_clip_kin(folder, kind) if kind in ("altclip", "siglip", "siglip2") else save_speech_model(folder, kind)


def pictures(count=24, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(np.kron(block, np.ones((8, 8, 1), np.uint8))) for block in blocks]


def sounds(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [Waveform((rng.normal(size=3000 + 2500 * at) / 10).astype(np.float32), 16000) for at in range(count)]


def encoder_of(folder, batch=8):
    return ClipImageEncoder(ClipEmbedding(model_name=str(folder), embed_batch_size=batch))


def aligner(folder, batch=8, **options):
    given = {"rank": 2, "batch": 16, "rate": 1e-3, **options}
    return LoraAligner(encoder_of(folder, batch), HashingEncoder("text", 16), **given)


def pairs_of(count=24):
    return labelled(pictures(count), [f"word{at % 4}" for at in range(count)])


def fit(folder, out=None, *, epochs=2, **options):
    return aligner(folder, **options).fit(pairs_of(), folder=out, epochs=epochs, patience=99, checkpoint_seconds=0)


def trained(encoder):
    """The result of an epoch that was trained, which need not be the best one."""
    assert encoder.card.best > 0
    return encoder


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in RESULT}


RESULT = ("adapter_config.json", "adapter_model.safetensors", "card.json", "projection.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: save(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def sources(models):
    made = {kind: encoder_of(models[kind]) for kind in KINDS[:4]}
    made["clap"] = ClapAudioEncoder(ClapEmbedding(model_name=str(models["clap"])))
    return made | {kind: Wav2Vec2Encoder(str(models[kind])) for kind in KINDS[5:]}


@pytest.fixture(scope="module")
def fitted(models, tmp_path_factory):
    """A fit whose last epoch is taken, and its folder."""
    out = tmp_path_factory.mktemp("fitted")
    made = aligner(models["clip"], seed=SEED).fit(pairs_of(), folder=out, epochs=3, checkpoint_seconds=0)
    return trained(made), out


SEED = 1


def changed(source, rank=3, spread=0.3, modules=None):
    """The model of a source with random changes, the encoder that runs it, and the changes."""
    backbone = backbone_of(source)
    lora = LoraOptions(rank, modules=modules or backbone.modules)
    model = injected(backbone, lora).eval()
    rng = np.random.default_rng(0)
    changes = {
        name: rng.normal(0, spread, tuple(weight.shape)).astype(np.float32) for name, weight in weights_of(model).items()
    }
    put(weights_of(model), changes)
    return model, backbone.with_model(model), changes


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_run_through_the_same_vectors(sources, kind):
    source = sources[kind]
    items = pictures(5) if source.payload == "image" else sounds()
    before = source.encode(items)
    backbone = backbone_of(source)
    model, encoder, _ = changed(source)
    rows = backbone.features(model, backbone.inputs(items))
    np.testing.assert_allclose(rows.detach().numpy(), encoder.encode(items), atol=1e-6)
    assert np.abs(encoder.encode(items) - before).max() > 1e-3
    rows.square().sum(0)[0].backward()
    assert [name for name, weight in weights_of(model).items() if weight.grad is None] == []
    np.testing.assert_array_equal(source.encode(items), before)


@pytest.mark.parametrize("kind", ["clip", "clap", "wavlm"])
def test_changes_have_the_rank_and_no_more(sources, kind):
    source = sources[kind]
    model, _, _ = changed(source, rank=3)
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert len(layers) == {"clip": 4, "clap": 8, "wavlm": 4}[kind]
    for module in layers.values():
        difference = module.get_delta_weight("default").detach().double().numpy()
        values = np.linalg.svd(difference, compute_uv=False)
        assert (values > 1e-5 * values[0]).sum() == min(3, *difference.shape)


def test_a_copy_shares_the_memory_of_the_weights_alone(sources):
    model = backbone_of(sources["hubert"]).parts.model
    copied = shared_copy(model)
    assert [one.data_ptr() for one in copied.parameters()] == [one.data_ptr() for one in model.parameters()]
    assert not any(one.requires_grad for one in copied.parameters())
    assert all(one.requires_grad for one in model.parameters())
    assert {id(one) for one in model.modules()} & {id(one) for one in copied.modules()} == set()


def test_parts_of_a_batch_give_the_gradients_of_the_whole(models):
    found = []
    for size in (3, 64):
        made = aligner(models["clip"], batch=size, dropout=0.0)
        data = made.encode(pairs_of())
        learner = _LoraLearner(start_of(data, made.options), made.options, made.lora, made.backbone, pictures(), pictures())
        features = learner._features(data, np.array([5, 1, 1, 7, 9, 20, 3, 11]), (1, 0))
        (features * torch.arange(128.0).reshape(8, 16)).sum().backward()
        learner._pass_back()
        found.append({name: weight.grad.numpy() for name, weight in learner.weights.items()})
    for name, gradient in found[0].items():
        np.testing.assert_allclose(gradient, found[1][name], rtol=1e-3, atol=1e-3 * np.abs(gradient).max() + 1e-6)
    assert any(gradient.any() for gradient in found[0].values())


def test_the_base_stays_as_it_is(models, tmp_path):
    files = {path.name: digest_file(path) for path in models["clip"].iterdir()}
    made = aligner(models["clip"])
    before, fingerprint = made.source.encode(pictures()), made.source.fingerprint
    weights = {name: weight.clone() for name, weight in made.source.clip._load().model.state_dict().items()}
    encoder = made.fit(pairs_of(), epochs=2)
    encoder.encode(pictures(3))
    assert {path.name: digest_file(path) for path in models["clip"].iterdir()} == files
    now = made.source.clip._load().model.state_dict()
    assert list(now) == list(weights)
    assert all(torch.equal(now[name], weight) for name, weight in weights.items())
    np.testing.assert_array_equal(made.source.encode(pictures()), before)
    assert made.source.fingerprint == fingerprint != encoder.fingerprint


def test_what_was_saved_is_what_peft_reads_and_merges(models, fitted):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    encoder, out = fitted
    base = transformers.CLIPModel.from_pretrained(models["clip"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it calls by another name now
        merged = peft.PeftModel.from_pretrained(base, str(out)).merge_and_unload().eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(models["clip"])
    with torch.inference_mode():
        pixels = processor(pictures(), return_tensors="pt")
        rows = merged.get_image_features(**pixels).pooler_output.numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(pictures()), encoder.adapter(rows), atol=1e-5)
    plain = transformers.CLIPModel.from_pretrained(models["clip"]).state_dict()
    differences = {name: (weight - plain[name]).numpy() for name, weight in merged.state_dict().items()}
    moved = sorted(name for name, difference in differences.items() if difference.any())
    assert moved == sorted(
        f"vision_model.encoder.layers.{at}.self_attn.{name}.weight" for at in (0, 1) for name in ("q_proj", "v_proj")
    )
    for name in moved:
        values = np.linalg.svd(differences[name].astype(np.float64), compute_uv=False)
        assert values[1] > 0
        assert values[2] < 1e-3 * values[0]  # rounding of float32 sums


def test_what_was_saved_encodes_the_same(models, fitted):
    encoder, out = fitted
    source = encoder_of(models["clip"])
    read = LoraEncoder.load(out, source)
    np.testing.assert_array_equal(read.encode(pictures()), encoder.encode(pictures()))
    assert (read.card, read.fingerprint, read.dimension) == (encoder.card, encoder.fingerprint, 16)
    assert sorted(path.name for path in out.iterdir() if path.suffix in (".bin", ".pt", ".pkl", ".md")) == []
    read.release()
    assert source.clip._parts is None
    np.testing.assert_array_equal(read.encode(pictures(3)), encoder.encode(pictures(3)))
    assert not np.allclose(encoder.adapter(source.encode(pictures())), encoder.encode(pictures()), atol=1e-4)


def test_the_same_fit_gives_the_same_to_the_byte_and_goes_on_where_it_stopped(models, tmp_path):
    options = {"dropout": 0.2, "loss": "sigmoid"}
    torch.manual_seed(5)
    fit(models["clip"], tmp_path / "whole", epochs=4, **options)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn  # what others draw is as it would be without a fit
    made = aligner(models["clip"], **options)
    for _ in range(3):  # each run does one pass at most
        made.fit(pairs_of(), folder=tmp_path / "parts", epochs=1, patience=99)
    made.fit(pairs_of(), folder=tmp_path / "parts", epochs=3, patience=99)
    aligner(models["clip"], **options).fit(pairs_of(), folder=tmp_path / "parts", epochs=4, patience=99)
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")
    with pytest.raises(AlignmentError, match="with other options"):
        aligner(models["clip"], **{**options, "rank": 3}).fit(pairs_of(), folder=tmp_path / "parts", epochs=4)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(models, tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\nfrom test_lora import fit\nfit(sys.argv[3], sys.argv[4], epochs=10**6)\n"
    )
    here = Path(__file__).parent
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(here), str(here.parent), str(models["clip"]), str(tmp_path / "a")]
    )
    try:
        until = time.monotonic() + 90
        while not (tmp_path / "a" / "checkpoint.safetensors").exists() and time.monotonic() < until:
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    from safetensors import safe_open

    assert not (tmp_path / "a" / "card.json").exists()
    with safe_open(tmp_path / "a" / "checkpoint.safetensors", framework="np") as opened:
        done = len(json.loads(opened.metadata()["state"])["history"]) - 1
    fit(models["clip"], Path(tmp_path / "a"), epochs=done + 1)
    fit(models["clip"], Path(tmp_path / "b"), epochs=done + 1)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def spread_model(folder):
    """A tiny CLIP whose vectors differ from picture to picture, which those of random weights hardly do."""
    transformers = pytest.importorskip("transformers")
    path = save_clip(folder)
    model = transformers.CLIPModel.from_pretrained(path)
    with torch.no_grad():
        model.vision_model.embeddings.class_embedding.mul_(0.3)
        for name, weight in model.vision_model.named_parameters():
            if "norm" in name:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    model.save_pretrained(path)
    return path


def test_training_towards_a_planted_change_lowers_the_loss_and_finds_held_out_pairs_better(tmp_path):
    source = encoder_of(spread_model(tmp_path / "spread"), batch=64)
    _, teacher, _ = changed(source, rank=2, spread=0.4)
    teacher.fingerprint = "teacher"
    shown = pictures(300)
    card = LoraAligner(source, teacher, rank=4, alpha=4, batch=64).fit(paired(shown, shown), epochs=7).card
    losses = [one.loss for one in card.history[1:]]
    assert losses == sorted(losses, reverse=True)
    assert card.history[card.best].score > 1.1 * card.history[0].score


def test_it_joins_a_space_and_passes_the_gate(models, fitted):
    encoder, _ = fitted
    space = EmbeddingSpace("text", {"text": HashingEncoder("text", 16)})
    assert with_encoder(space, "image", encoder).encoders["image"] is encoder
    assert beside(space, "image", encoder, name="seen").query_encoder("text") is space.encoders["text"]
    good = {
        direction: {name: replace(one, low=0.9, mean=0.95, high=1.0) for name, one in metrics.items()}
        for direction, metrics in encoder.card.after.items()
    }
    card = replace(encoder.card, after=good, target_rank=encoder.card.geometry.rank)
    check_adapter(card)
    with pytest.raises(AlignmentError, match="collapsed"):
        check_adapter(replace(card, target_rank=100 * card.geometry.rank))
    assert card.notes[0] == "LoRA of rank 2 (alpha 16, dropout 0) on q_proj, v_proj, below an adapter:"
    assert card.parameters == 16 * 16 + 16 + 2 * 2 * (2 * 32 + 2 * 32)


def test_half_precision_takes_changes_in_full(models):
    source = ClipImageEncoder(ClipEmbedding(model_name=str(models["clip"]), dtype="bfloat16"))
    made = LoraAligner(source, HashingEncoder("text", 16), rank=2).fit(pairs_of(), epochs=1)
    assert {change.dtype for change in made.changes.values()} == {np.dtype("float32")}
    assert made.encode(pictures(2)).shape == (2, 16)


def test_another_base_and_damaged_folders_are_refused(models, fitted, tmp_path):
    encoder, _ = fitted
    out = encoder.save(tmp_path / "out")
    with pytest.raises(SpaceError, match="fitted on an encoder with fingerprint"):
        LoraEncoder.load(out, encoder_of(save_clip(tmp_path / "other", seed=1)))
    wrong = HashingEncoder("image", 16)
    wrong.fingerprint = encoder.source.fingerprint
    with pytest.raises(AlignmentError, match="got HashingEncoder"):
        LoraEncoder.load(out, wrong)
    with pytest.raises(ModelError, match="card of an adapter"):
        AlignedEncoder.load(out, encoder_of(models["clip"]))
    for name in ("adapter_model.safetensors", "projection.safetensors"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-4] + b"\0\0\0\1")
        with pytest.raises(ModelError, match=r"are not those that card\.json tells of"):
            LoraEncoder.load(out, encoder_of(models["clip"]))
        (out / name).write_bytes(b"?")
        with pytest.raises(ModelError, match=rf"{name} can't be read"):
            LoraEncoder.load(out, encoder_of(models["clip"]))
        (out / name).write_bytes(whole)
    card = json.loads((out / "card.json").read_text())
    for lora in ({"rank": 2}, {**card["lora"], "rank": 0}, {**card["lora"], "more": 1}):
        (out / "card.json").write_text(json.dumps(card | {"lora": lora}))
        with pytest.raises(ModelError, match="changed by LoRA"):
            LoraEncoder.load(out, encoder_of(models["clip"]))
    (out / "card.json").write_text(json.dumps(card | {"lora": {**card["lora"], "alpha": 32}}))
    with pytest.raises(ModelError, match="are not those"):
        LoraEncoder.load(out, encoder_of(models["clip"]))


def test_what_can_not_be_changed_is_refused(models, sources, monkeypatch, tmp_path):
    words = HashingEncoder("text", 16)
    with pytest.raises(AlignmentError, match=r"got HashingEncoder\. Fit an adapter on its vectors: Aligner"):
        LoraAligner(HashingEncoder("image", 16), words)
    for wrong in ({"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"modules": ()}):
        with pytest.raises(AlignmentError, match="rank of at least 1, an alpha above 0"):
            LoraAligner(sources["clip"], words, **wrong)
    with pytest.raises(AlignmentError, match="can't be changed at nothing"):
        LoraAligner(sources["clip"], words, modules=["nothing"]).fit(pairs_of(), epochs=1)
    spoken = labelled(sounds(), ["a", "b", "a", "b", "a", "b"])
    with pytest.raises(AlignmentError, match="does not run its modules q_proj"):
        LoraAligner(sources["wavlm"], words, modules=["q_proj"]).fit(spoken, epochs=1)
    assert LoraAligner(CachedEncoder(sources["clip"], tmp_path), words).backbone.encoder is sources["clip"]
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"llama-index-mm\[lora\]"):
        aligner(models["clip"]).fit(pairs_of(), epochs=1)


def test_whisper_has_no_torch_model_to_change():
    whisper = pytest.importorskip("llama_index_mm.embeddings.whisper_sound")
    source = object.__new__(whisper.WhisperSoundEncoder)  # its weights are not needed to refuse it
    with pytest.raises(AlignmentError, match=r"got WhisperSoundEncoder\. Fit an adapter on its vectors: Aligner takes any"):
        backbone_of(source)


def test_the_command_fits_it(models, tmp_path, monkeypatch):
    source = encoder_of(models["clip"])
    preset = tiny_preset()
    clip = EmbeddingSpace("clip", {"image": source})
    monkeypatch.setattr("llama_index_mm.presets.load_preset", lambda name: preset.with_space(clip, weight=0.5))
    (tmp_path / "items").mkdir()
    rows = ["file,label"]
    for at, picture in enumerate(pictures(12)):
        picture.save(tmp_path / "items" / f"{at}.png")
        rows.append(f"{at}.png,word{at % 2}")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, ""]))
    given = ["align", str(tmp_path / "items"), str(tmp_path / "labels.csv"), str(tmp_path / "out"), "--json"]
    given += ["--source", "clip:image", "--adapter", "lora", "--rank", "3", "--epochs", "1"]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    card = json.loads(result.stdout)
    assert (card["lora"]["rank"], card["options"]["rate"], card["target"]) == (3, 1e-4, "text:text")
    assert json.loads(json.dumps(LoraEncoder.load(tmp_path / "out", source).card.to_dict())) == card
