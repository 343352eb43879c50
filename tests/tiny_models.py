"""Models of the sizes of a toy with random weights, saved as a hub would hold them. Needs transformers."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

LIMIT = 12  # tokens that the tiny CLIP takes
DIMENSION = 16  # of its space
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SPEECH_MODELS = {
    "wav2vec2-group": lambda: Wav2Vec2Model(Wav2Vec2Config(**SIZES)),
    "wav2vec2-layer": lambda: Wav2Vec2Model(Wav2Vec2Config(**SIZES, **LAYER)),
    "hubert": lambda: HubertModel(HubertConfig(**SIZES)),
    "wavlm": lambda: WavLMModel(WavLMConfig(**SIZES)),
    "ctc": lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES, vocab_size=9)),
    "adapter": lambda: Wav2Vec2Model(Wav2Vec2Config(**SIZES, add_adapter=True, output_hidden_size=12, num_adapter_layers=1)),
}


def save_clip(folder: Path, *, legacy: bool = False, seed: int = 0) -> Path:
    """A tiny CLIP with random weights; legacy: the end token is found as the largest id, as in OpenAI's config."""
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    end = len(vocabulary) - 1
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": LIMIT, **tokens})
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": LIMIT,
            "bos_token_id": end - 1,
            "eos_token_id": 2 if legacy else end,
            "pad_token_id": 1 if legacy else end,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=DIMENSION,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    for weight in model.parameters():  # the usual start is so small that all vectors look alike
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    pixels = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **pixels}))
    return folder


def save_speech_model(folder: Path, kind: str = "wav2vec2-group", *, seed: int = 0) -> Path:
    """A tiny Wav2Vec2 or a kin of it with random weights."""
    torch.manual_seed(seed)
    SPEECH_MODELS[kind]().save_pretrained(folder)
    masked = kind == "wav2vec2-layer"
    Wav2Vec2FeatureExtractor(do_normalize=kind != "wavlm", return_attention_mask=masked).save_pretrained(folder)
    return folder
