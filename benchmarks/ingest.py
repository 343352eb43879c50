"""How near ingestion comes to the speed of the bare models, and how it compares with one file at a time.

    python benchmarks/ingest.py --data DATA [--count 96] [--rounds 3] [--only photos,meshes,speech,clip,flat] [--json]

DATA has the folders photos, meshes and speech. Files are taken in rounds; each round is done in three ways, in turns:

    ingest      `MultiModalIndex.ingest`: reading, digests, decoding, transforms, models, storing
    models      the limit: only the models of the preset, on inputs that are decoded and prepared already, in full batches
    one by one  file after file, as LlamaIndex's ClipEmbedding works: decode, prepare, encode one, store

The `clip` rounds use CLIP's ViT-B/32 with random weights, which take as long as trained ones; the others the `offline` preset.
`flat` ingests many small files with encoders that cost nothing, and reports files a second and memory as the run goes on.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from PIL import Image

from llama_index_mm import MultiModalIndex
from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.embeddings.efficientnet import prepare
from llama_index_mm.embeddings.payloads import Loaded
from llama_index_mm.ingestion import encode_nodes
from llama_index_mm.media import load_audio, load_image, load_mesh, render_views
from llama_index_mm.nodes import AudioMedia
from llama_index_mm.presets import Preset, load_preset
from llama_index_mm.readers.media import document_of
from llama_index_mm.testing import tiny_preset

BATCH = 16
FOLDERS = {"photos": "photos", "meshes": "meshes", "speech": "speech", "clip": "photos"}
PICTURES = (".jpg", ".png")


@dataclass
class Timed:
    """Seconds that each way took in all rounds."""

    files: int = 0
    nodes: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"ingest": 0.0, "models": 0.0, "one by one": 0.0})

    @contextmanager
    def measure(self, way: str) -> Iterator[None]:
        """Add to a way's seconds."""
        gc.collect()
        began = time.perf_counter()
        yield
        self.seconds[way] += time.perf_counter() - began

    def figures(self) -> dict[str, Any]:
        """What is reported."""
        each = {way.replace(" ", "_") + "_ms": 1000 * seconds / self.files for way, seconds in self.seconds.items()}
        ingest = self.seconds["ingest"]
        return {
            "files": self.files,
            "nodes": self.nodes,
            **{name: round(value, 2) for name, value in each.items()},
            "throughput_of_the_models_reached": round(self.seconds["models"] / ingest, 3),
            "times_as_fast_as_one_by_one": round(self.seconds["one by one"] / ingest, 2),
        }


def clip_with_random_weights(folder: Path) -> str:
    """Save ViT-B/32 with random weights, and a tokenizer of single characters."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.CLIPConfig()
    config.vision_config.patch_size = 32
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    words = {"<|startoftext|>": 49406, "<|endoftext|>": 49407, **{f"w{at}": at for at in range(49406)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    ).save_pretrained(folder)
    return str(folder)


def clip_preset(folder: Path) -> Preset:
    """Pictures in one space, by ViT-B/32."""
    from llama_index_mm.embeddings.clip import ClipEmbedding, ClipImageEncoder

    model = ClipEmbedding(model_name=clip_with_random_weights(folder), embed_batch_size=BATCH)
    return Preset("clip-random", (EmbeddingSpace("clip", {"image": ClipImageEncoder(model)}),))


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Full batches, and what is left."""
    for at in range(0, len(items), BATCH):
        yield items[at : at + BATCH]


def model_run(kind: str, preset: Preset, files: list[Path], nodes: list[BaseNode]) -> Callable[[], None]:
    """What the models alone have to do for these files, with everything before that done."""
    if kind == "clip":
        encoder: Any = preset.spaces[0].encoders["image"]
        model, _, processor = encoder.clip._load()
        tensors = [processor(images=list(some), return_tensors="pt") for some in batches([load_image(one) for one in files])]

        def clip() -> None:
            import torch

            with torch.inference_mode():
                for some in tensors:
                    model.get_image_features(**some)

        return clip
    bridge: Any = preset.labeler
    spaces = {space.name: space for space in preset.spaces}
    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    words = spaces["text"].encoders["text"]
    if kind == "speech":
        return speech_run(preset, files, nodes, texts)
    pictures: list[Image.Image] = []
    for file in files:
        pictures += [load_image(file)] if kind == "photos" else render_views(load_mesh(file))
    pixels = np.stack([prepare(one) for one in pictures])

    def look() -> None:
        for some in batches(pixels):
            bridge.network.run(some)
        words.encode(texts)

    return look


def speech_run(preset: Preset, files: list[Path], nodes: list[BaseNode], texts: list[str]) -> Callable[[], None]:
    """Whisper over every recording, then each span's sound, voice and words."""
    spaces = {space.name: space for space in preset.spaces}
    transcriber: Any = preset.transcriber
    whole = {file: load_audio(file) for file in files}
    spans = [node for node in nodes if isinstance(node, AudioMedia)]
    sounds = [whole[node.path].cut(node.start, node.end) for node in spans]
    spoken = [sound for sound, node in zip(sounds, spans, strict=True) if node.speech]

    def hear() -> None:
        for sound in whole.values():
            transcriber.transcribe(sound)
        spaces["text"].encoders["text"].encode(texts)
        spaces["sound"].encoders["audio"].encode(sounds)
        spaces["speaker"].encoders["audio"].encode(spoken)

    return hear


def one_by_one(index: MultiModalIndex, files: list[Path]) -> None:
    """One file after the other through all stages."""
    for file in files:
        nodes: list[BaseNode] = [document_of(file)]
        loaded = Loaded()
        for transform in index._ingestor.stages.media:
            nodes = list(transform(nodes, loaded=loaded))
        index.store.add([record for node in nodes for record in encode_nodes([node], index.preset.spaces, loaded)])


def compare(kind: str, preset: Preset, files: list[Path], rounds: int, scratch: Path) -> Timed:
    """All three ways over the files, round by round."""
    timed = Timed()
    with (
        MultiModalIndex.open(scratch / kind, preset=preset, create=True) as index,
        MultiModalIndex.open(scratch / f"{kind}-alone", preset=preset, create=True) as alone,
    ):
        warm, rest = files[:2], files[2:]
        index.ingest(warm)
        one_by_one(alone, warm)
        size = len(rest) // rounds
        for at in range(rounds):
            some = rest[at * size : (at + 1) * size]
            with timed.measure("ingest"):
                index.ingest(some)
            documents = [one.document_id for one in index.store.sources() if Path(one.path) in set(some)]
            nodes = list(index.store.nodes(index.store.find(ref_doc_ids=documents).tolist()).values())
            run = model_run(kind, preset, some, nodes)
            with timed.measure("models"):
                run()
            with timed.measure("one by one"):
                one_by_one(alone, some)
            timed.files += len(some)
            timed.nodes += len(nodes)
    return timed


def memory() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


def flat(count: int, scratch: Path) -> dict[str, Any]:
    """Many small files: pictures, texts, recordings and meshes."""
    folder = scratch / "many"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for at in range(count):
        if at % 4 == 3:
            (folder / f"{at}.txt").write_text(f"Note {at}: " + "words of all kinds " * 20, encoding="utf-8")
        else:
            Image.fromarray(chance.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(folder / f"{at}.jpg")
    seen: list[tuple[int, int]] = []
    with MultiModalIndex.open(scratch / "flat", preset=tiny_preset(), create=True) as index:
        done = 0

        def look(_: Path) -> None:
            nonlocal done
            done += 1
            if done % (count // 10) == 0:
                seen.append((done, memory()))

        began = time.perf_counter()
        report = index._ingestor.ingest(folder, on_file=look)
        seconds = time.perf_counter() - began
    middle = dict(seen)[count // 10 * 5]
    return {
        "files": report.added,
        "files_a_second": round(report.added / seconds, 1),
        "memory_mb": {str(files): round(size / 2**20) for files, size in seen},
        "grown_over_the_second_half_mb": round((seen[-1][1] - middle) / 2**20, 1),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos, meshes and speech")
    parser.add_argument("--count", type=int, default=96, help="files of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=5000, help="files of the run `flat`")
    parser.add_argument("--only", default="photos,meshes,speech,clip,flat")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for kind in given.only.split(","):
            if kind == "flat":
                told[kind] = flat(given.many, scratch)
                if not given.json:
                    print(kind, json.dumps(told[kind]), flush=True)
                continue
            paths = sorted(path for path in (given.data / FOLDERS[kind]).iterdir() if path.suffix not in (".csv", ".md"))
            preset = clip_preset(scratch / "weights") if kind == "clip" else load_preset("offline")
            told[kind] = compare(kind, preset, paths[: given.count + 2], given.rounds, scratch).figures()
            if not given.json:
                print(kind, json.dumps(told[kind]), flush=True)
    print(json.dumps(told, indent=2) if given.json else "", file=sys.stdout)


if __name__ == "__main__":
    main()
