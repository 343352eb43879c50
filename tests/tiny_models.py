"""Models of the sizes of a toy with random weights, saved as a hub would hold them. Needs transformers."""

import io
import json
import tempfile
from pathlib import Path

import sentencepiece
import tokenizers
import torch
import transformers
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
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
CLAP_SECONDS = 2  # that the tiny CLAP takes at once
_WORDS = [*"abcdefghijklmnopqrstuvwxyz", "cat", "dog", "sofa", "the", "sea", "猫", "狗"]
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
    _save_random(CLIPModel, config, folder, seed)
    pixels = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **pixels}))
    return folder


def save_clip_kin(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A tiny model of the CLIP family with random weights, with its own kind of tokenizer and image processor.

    Texts may have LIMIT tokens, and the vectors DIMENSION numbers. ``"siglip2-fixed"`` is SigLIP 2 of one resolution, which
    has the type of SigLIP and the tokenizer of Gemma; ``"siglip-pieces"`` is SigLIP with its own, by sentencepiece.
    """
    towers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    picture = {**towers, "image_size": 32, "patch_size": 8}
    square = {"size": {"height": 32, "width": 32}}
    cropped = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    lengths = {"model_max_length": LIMIT}
    if kind == "chinese_clip":
        tokenizer = transformers.BertTokenizer(
            vocab=_numbered(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]), **lengths
        )
        text = {**towers, "vocab_size": len(tokenizer), "max_position_embeddings": LIMIT, "pad_token_id": 0}
        config = transformers.ChineseCLIPConfig(text_config=text, vision_config=picture, projection_dim=DIMENSION)
        model, processor = (
            transformers.ChineseCLIPModel,
            transformers.ChineseCLIPImageProcessorPil(**square, do_center_crop=False),
        )
    elif kind == "altclip":
        tokenizer = _xlm_roberta(lengths)
        text = {
            **towers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": LIMIT + 2,
            "pad_token_id": 1,
            "project_dim": 24,
        }
        config = transformers.AltCLIPConfig(text_config=text, vision_config=picture, projection_dim=DIMENSION)
        model, processor = transformers.AltCLIPModel, transformers.CLIPImageProcessorPil(**cropped)
    elif kind == "metaclip_2":
        tokenizer = _xlm_roberta(lengths)
        text = {**towers, "vocab_size": len(tokenizer), "max_position_embeddings": LIMIT}
        ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
        config = transformers.MetaClip2Config(text_config=text | ends, vision_config=picture, projection_dim=DIMENSION)
        model, processor = transformers.MetaClip2Model, transformers.CLIPImageProcessorPil(**cropped)
    else:
        kinds = {"siglip": "TokenizersBackend", "siglip2-fixed": "GemmaTokenizer", "siglip2": "Siglip2Tokenizer"}
        tokenizer = _siglip(lengths) if kind == "siglip-pieces" else _gemma(kinds[kind], lengths)
        text = {**towers, "vocab_size": len(tokenizer), "max_position_embeddings": LIMIT, "projection_size": DIMENSION}
        text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
        picture["hidden_size"] = DIMENSION
        if kind == "siglip2":
            picture.pop("image_size")
            config = transformers.Siglip2Config(text_config=text, vision_config=picture | {"num_patches": 16})
            model = transformers.Siglip2Model
            processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20)
        else:
            config = transformers.SiglipConfig(text_config=text, vision_config=picture)
            model, processor = transformers.SiglipModel, transformers.SiglipImageProcessorPil(**square)
    folder.mkdir()
    _save_random(model, config, folder, seed)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_clap(folder: Path, *, fused: bool = False, seed: int = 0) -> Path:
    """A tiny CLAP with random weights. It takes CLAP_SECONDS at 48,000 samples a second; fused: with feature fusion."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.", "\u0120"]
    merges = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g"), ("\u0120", "dog")]
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(a + b for a, b in merges)]
    tokenizer = transformers.RobertaTokenizer(vocab=_numbered(words), merges=merges, model_max_length=LIMIT)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sound = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "window_size": 4,
        "patch_size": 4,
        "depths": [2, 2],
        "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "enable_fusion": fused,
        "fusion_type": "aff_2d" if fused else None,
        "aff_block_r": 2,
    }
    config = ClapConfig(
        text_config=text | {"vocab_size": len(tokenizer), "max_position_embeddings": LIMIT + 2},
        audio_config=sound,
        projection_dim=DIMENSION,
    )
    folder.mkdir()
    _save_random(ClapModel, config, folder, seed, spread=0.5)
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16, max_length_s=CLAP_SECONDS, frequency_min=50, truncation="fusion" if fused else "rand_trunc"
    ).save_pretrained(folder)
    return folder


def save_speech_model(folder: Path, kind: str = "wav2vec2-group", *, seed: int = 0) -> Path:
    """A tiny Wav2Vec2 or a kin of it with random weights."""
    torch.manual_seed(seed)
    SPEECH_MODELS[kind]().save_pretrained(folder)
    masked = kind == "wav2vec2-layer"
    Wav2Vec2FeatureExtractor(do_normalize=kind != "wavlm", return_attention_mask=masked).save_pretrained(folder)
    return folder


def _save_random(kind: type, config, folder: Path, seed: int, spread: float = 0.2) -> None:
    torch.manual_seed(seed)
    model = kind(config)
    for weight in model.parameters():  # the usual start is so small that all vectors look alike
        torch.nn.init.normal_(weight, std=spread)
    model.save_pretrained(folder)


def _numbered(words: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(dict.fromkeys(words))}


def _siglip(lengths: dict[str, int]):
    """SigLIP's own tokenizer, over pieces of a few sentences."""
    model = io.BytesIO()
    lines = ["a cat and a dog sit by the sea", "the red sofa in the room", "photo of a small dog", "two cats on the mat"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spiece.model"
        file.write_bytes(model.getvalue())
        return transformers.SiglipTokenizer(str(file), **lengths)


def _xlm_roberta(lengths: dict[str, int]):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *("\u2581" + word for word in _WORDS), *_WORDS, "\u2581"]
    return transformers.XLMRobertaTokenizer(vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)], **lengths)


def _gemma(kind: str, lengths: dict[str, int]):
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *_WORDS, *(word.upper() for word in _WORDS)]
    if kind == "TokenizersBackend":
        model = tokenizers.models.WordLevel(_numbered([*pieces, "."]), unk_token="<unk>")
        words = tokenizers.Tokenizer(model)
        words.normalizer = tokenizers.normalizers.Lowercase()
        words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        words.post_processor = tokenizers.processors.TemplateProcessing(single="$0 <eos>", special_tokens=[("<eos>", 1)])
        names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=["input_ids"], **names, **lengths)
    ends = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    return getattr(transformers, kind)(vocab=_numbered(pieces), merges=[], **ends, **lengths)
