"""Throughput of the encoders over transformers, as a share of their models' bare forward pass.

    python benchmarks/encoders.py [--device cpu] [--dtype float32] [--batches 1,8,32] [--items 64] [--rounds 3] [--json]

Models of full size with random weights, which take as long as trained ones: CLIP ViT-B/32 for pictures and for texts,
Wav2Vec2 base for sounds of 5 s. "share" is the encoder's throughput, from pictures, words or samples to vectors in NumPy,
divided by that of the model alone over inputs that are ready on the device; so it tells what preparing and moving the inputs
costs. Both are timed in turns, and the best round of each counts.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from ingest import clip_with_random_weights
from PIL import Image

from llama_index_mm.embeddings.clip import ClipEmbedding
from llama_index_mm.embeddings.wav2vec2 import Wav2Vec2Encoder
from llama_index_mm.media import SAMPLE_RATE, Waveform

SECONDS = 5
WORDS = 12
Work = Callable[[], object]


def speech_with_random_weights(folder: Path) -> str:
    """Save Wav2Vec2 base with random weights."""
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return str(folder)


def cut(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The items in batches."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def works(scratch: Path, device: str, dtype: str, size: int, count: int) -> dict[str, tuple[Work, Work]]:
    """For each kind of item: encoding it, and the bare forward pass."""
    rng = np.random.default_rng(0)
    clip_folder, speech_folder = scratch / "clip", scratch / "speech"
    if not clip_folder.exists():
        clip_with_random_weights(clip_folder)
        speech_with_random_weights(speech_folder)
    clip = ClipEmbedding(model_name=str(clip_folder), device=device, dtype=dtype, embed_batch_size=size)
    speech = Wav2Vec2Encoder(str(speech_folder), device=device, dtype=dtype, batch_size=size)
    pictures = [Image.fromarray(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)) for _ in range(count)]
    texts = ["".join(rng.choice([*"abcdefgh"], WORDS)) for _ in range(count)]
    sounds = [Waveform(rng.normal(0, 0.1, SECONDS * SAMPLE_RATE).astype(np.float32)) for _ in range(count)]
    model, tokenizer, processor = clip._load()
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    tokens = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    waves = torch.from_numpy(np.stack([sound.samples for sound in sounds])).to(model.device, model.dtype)
    hearing = speech._load().model

    def forward(work: Callable[[slice], object]) -> Work:
        def run() -> None:
            with torch.inference_mode():
                for at in range(0, count, size):
                    work(slice(at, at + size))
            wait(device)

        return run

    return {
        "pictures": (
            lambda: clip.encode_images(pictures),
            forward(lambda some: model.get_image_features(pixel_values=pixels[some])),
        ),
        "texts": (
            lambda: clip.encode_texts(texts),
            forward(
                lambda some: model.get_text_features(
                    input_ids=tokens["input_ids"][some], attention_mask=tokens["attention_mask"][some]
                )
            ),
        ),
        "sounds of 5 s": (
            lambda: [speech.encode(batch) for batch in cut(sounds, size)],
            forward(lambda some: hearing(waves[some]).last_hidden_state.mean(1)),
        ),
    }


def seconds(work: Work) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batches", default="1,8,32", help="sizes of batches, with commas between")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, given.batches.split(",")):
            for kind, (encode, bare) in works(Path(folder), given.device, given.dtype, size, given.items).items():
                encode(), bare()
                pairs = [(seconds(encode), seconds(bare)) for _ in range(given.rounds)]
                encoding, passing = (min(column) for column in zip(*pairs, strict=True))
                row = {"kind": kind, "batch": size, "items/s": given.items / encoding, "share": passing / encoding}
                rows.append(row)
                if not given.json:
                    print(f"{kind:14} batch {size:3}  {row['items/s']:8.1f} items/s  share {row['share']:.2f}", flush=True)
    if given.json:
        json.dump({"device": given.device, "dtype": given.dtype, "rows": rows}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
