"""What tests of ingestion on Ray share: files, a preset that tells what it encodes, and all that a store holds."""

import hashlib
import os
import random
import socket
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.ingestion import Ingestor
from llama_index_mm.nodes import node_to_json
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import HashingEncoder, tiny_preset

__all__ = ["Told", "fill", "ingest_plainly", "open_folder", "other_weights", "snapshot", "telling_preset", "write_files"]

WORDS = ["tide", "boat", "lamp", "gull", "rope", "salt"]


def write_files(make, count, *, copies=0, broken=0, seed=7):
    """Small files: texts, pictures, sounds and meshes; the last are copies of others, and files that can't be read."""
    chance = random.Random(seed)
    written = []
    for at in range(count - copies - broken):
        name = f"files/{chance.choice(['a', 'b/c', 'd'])}/{chance.randrange(1000):03}-{at:04}"
        if at % 16 == 15:
            scale = 1 + at / 100
            corners = [(0, 0, 0), (scale, 0, 0), (0, 1, 0), (0, 0, 1)]
            written.append(make.obj(f"{name}.obj", corners, [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]))
        elif at % 8 == 3:
            written.append(make.tone(f"{name}.wav", 200 + at, seconds=0.3 + at / 1000, rate=8000))
        elif at % 8 in (5, 6):
            colour = tuple(chance.randrange(256) for _ in range(3))
            written.append(make.picture(f"{name}.png", colour, (8 + at % 9, 8 + at // 9)))
        else:
            lines = [
                f"{at} {line} {' '.join(chance.choice(WORDS) for _ in range(20))}." for line in range(40 if at % 8 == 4 else 1)
            ]
            written.append(make.text(f"{name}.txt", " ".join(lines)))
    for at in range(copies):
        same = chance.choice(written)
        make.bytes(f"files/{chance.choice(['a', 'd', 'e'])}/copy-{at:03}{same.suffix}", same.read_bytes())
    torn = [("txt", b"Gr\xfc\xdfe "), ("png", b"\x89PNG torn"), ("wav", b"no sound"), ("gif", b"GIF89a torn")]
    for at in range(broken):
        suffix, data = torn[at % 4]
        make.bytes(f"files/{chance.choice(['a', 'd'])}/broken-{at:03}.{suffix}", data + bytes([at % 256]) * 9)
    return make.folder / "files"


class TellingEncoder(HashingEncoder):
    """Writes down each text that it encodes, and takes its time; a text with the word ``deadly`` kills its process."""

    def __init__(self, folder, seconds):
        super().__init__("text")
        self.folder = folder
        self.seconds = seconds

    def _encode(self, items, *, query):
        told = Path(self.folder) / f"{socket.gethostname()}-{os.getpid()}"
        with told.open("a") as file:
            for item in items:
                file.write(_mark(item) + "\n")
        if any("deadly" in item for item in items):
            os.kill(os.getpid(), 9)
        time.sleep(self.seconds * len(items))
        return super()._encode(items, query=query)


def _mark(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _telling(folder, seconds):
    preset = tiny_preset()
    encoder = TellingEncoder(folder, seconds)
    spaces = [EmbeddingSpace("text", {"text": encoder, "audio": encoder, "image": encoder, "mesh": encoder})]
    return type(preset)(name=preset.name, spaces=(*spaces, *preset.spaces[1:]))


def telling_preset(folder, seconds=0.0):
    """Makes `tiny_preset` with a `TellingEncoder` for texts, wherever it is called."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return partial(_telling, str(folder), seconds)


def _unlike(pid):
    preset = tiny_preset()
    if os.getpid() == pid:
        return preset
    encoder = HashingEncoder("text")
    encoder.fingerprint = "of other weights"
    return type(preset)(name=preset.name, spaces=(EmbeddingSpace("text", {"text": encoder}), *preset.spaces[1:]))


def other_weights(pid):
    """Makes `tiny_preset` in one process, and in all others one with another fingerprint."""
    return partial(_unlike, pid)


class Told:
    """What the encoders of `telling_preset` wrote down."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def texts(self):
        """How often each text was encoded."""
        return Counter(line for file in self.folder.iterdir() for line in file.read_text().splitlines())

    @staticmethod
    def of(nodes):
        """What the encoding of nodes, given as JSON, leaves there."""
        from llama_index_mm.nodes import node_from_json

        return Counter(_mark(node_from_json(body, name).get_content()) for body, name in nodes)


def open_folder(folder, preset):
    """A store in a folder, ready for what a preset makes."""
    store = MediaStore(folder)
    fill(store, preset)
    return store


def fill(store, preset):
    """Declare the spaces of a preset."""
    for space in preset.spaces:
        store.declare_space(space.name, space.dimension, space.fingerprint)
    store.set_meta("preset", preset.name)


def ingest_plainly(folder, source, preset=None):
    """Take files into a store in a folder, on this machine; gives the report and what the store then holds."""
    made = preset or tiny_preset()
    with open_folder(folder, made) as store:
        report = Ingestor(store, made).ingest(source)
        return report, snapshot(store)


def snapshot(store, *, paths=True):
    """All that a store holds: nodes, vectors and notes, with its own media folder under one name.

    Args:
        store: any store.
        paths: whether it matters which of several equal files a node points to.
    """
    nodes = store.nodes(store.find().tolist())
    notes = store.sources()
    bodies = {}
    for node in nodes.values():
        body = node_to_json(node).replace(str(store.media_folder), "MEDIA")
        if not paths:
            for one in notes:
                if one.document_id == (node.ref_doc_id or node.node_id):
                    body = body.replace(one.path, "FILE").replace(Path(one.path).name, "NAME")
                    body = body.replace(Path(one.path).stem, "TITLE")
        bodies[node.node_id] = body
    assert len(bodies) == len(nodes)
    vectors = {}
    for space, modality in store.partitions():
        seqs = store.find(space=space, modalities=[modality]).tolist()
        for seq, vector in zip(seqs, store.vectors(space, modality, seqs), strict=True):
            assert (space, nodes[seq].node_id) not in vectors
            vectors[space, nodes[seq].node_id] = np.asarray(vector, np.float32).tobytes()
    return {"nodes": bodies, "vectors": vectors, "sources": notes}
