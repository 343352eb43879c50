"""A run that is killed again and again ends in the same index as one that was left alone, and does nothing twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from processes import descendants, is_alive

from llama_index_mm.nodes import node_to_json
from llama_index_mm.stores import MediaStore

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

FILES = 500
BROKEN = 20
KILLS = 10
SEED = 7
IN_FLIGHT = 32  # nodes: a batch goes as soon as it has 16, and up to 16 pictures may join it at once

# Imports once, then forks one process for each line that it reads; that process says what it encodes before it does.
STARTER = """
import json, os, sys, time

import av, faster_whisper
from llama_index.core.node_parser import SentenceSplitter
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import run as stages
from llama_index_mm.testing import tiny_preset

encode_nodes = stages.encode_nodes
SentenceSplitter().split_text("What takes long to load is loaded once.")


def run(store, folder, log):
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def encode(nodes, *rest):
        os.write(out, "".join(node.node_id + "\\n" for node in nodes).encode())
        time.sleep(0.003 * len(nodes))
        return encode_nodes(nodes, *rest)

    stages.encode_nodes = encode
    with MultiModalIndex.open(store, preset=tiny_preset(), create=True) as index:
        os.write(out, b"opened\\n")
        report = index.ingest(folder)
    os.write(out, b"done\\n")


for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            run(*json.loads(line))
            code = 0
        finally:
            if code:
                import traceback
                traceback.print_exc()
            from llama_index_mm.media import pool
            pool._IDLE.close()
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Starter:
    """Starts runs in processes of their own."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def start(self, *task):
        """Begin; gives the number of the process."""
        self._process.stdin.write(json.dumps([str(one) for one in task]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self):
        """How the process ended, as `os.waitpid` says it."""
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


@pytest.fixture(scope="module")
def starter():
    started = Starter()
    yield started
    started.close()


def write_files(make):
    """500 small files of all kinds; every 25th is broken, every 10th holds what another one does."""
    chance = random.Random(SEED)
    written = []
    for at in range(FILES):
        # Meshes are in the last folder only, as each run that comes to them loads Open3D.
        folder = "e" if at % 16 == 7 else chance.choice(["a", "b", "c/d", "e"])
        name = f"files/{folder}/{chance.randrange(1000):03}-{at:03}"
        colour = tuple(chance.randrange(256) for _ in range(3))
        kind = at % 8
        if at % 25 == 24:
            broken = [("txt", b"Gr\xfc\xdfe "), ("png", b"\x89PNG torn"), ("wav", b"no sound"), ("gif", b"GIF89a torn")]
            suffix, data = broken[at // 25 % 4]
            make.bytes(f"{name}.{suffix}", data + bytes([at % 256]) * 9)
        elif at % 10 == 9:
            same = chance.choice([one for one in written if one.suffix not in (".obj", ".off")])
            make.bytes(f"{name}{same.suffix}", same.read_bytes())
        elif kind < 3:
            words = " ".join(chance.choice(["tide", "boat", "lamp", "gull", "rope", "salt"]) for _ in range(20))
            written.append(make.text(f"{name}.txt", f"{at} {words} " * (40 if at % 7 == 0 else 1)))
        elif at % 16 not in (6, 7):
            suffix = ["png", "jpg", "gif"][at % 3]
            written.append(make.picture(f"{name}.{suffix}", colour, (8 + at % 9, 8 + at // 9)))
        elif at % 16 == 6:
            written.append(make.tone(f"{name}.wav", 200 + at, seconds=25.0 if at % 5 == 2 else 0.3 + at / 1000, rate=8000))
        else:
            corners = [(x * (1 + at / 100), y, z) for x, y, z in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
            faces = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]
            if at % 32 == 7:
                written.append(make.obj(f"{name}.obj", corners, faces))
            else:
                lines = [" ".join(map(str, one)) for one in corners] + ["3 " + " ".join(map(str, one)) for one in faces]
                written.append(make.text(f"{name}.off", "\n".join(["OFF", "4 4 6", *lines, ""])))
    return make.folder / "files"


@dataclass
class Stored:
    """All that a store holds, to be compared."""

    nodes: dict = field(default_factory=dict)
    vectors: dict = field(default_factory=dict)
    sources: list = field(default_factory=list)


def read(folder):
    """What the store holds, with its own folder under one name."""
    found = Stored()
    with MediaStore(folder, create=False) as store:
        seqs = store.find().tolist()
        nodes = store.nodes(seqs)
        found.nodes = {node.node_id: node_to_json(node).replace(str(folder), "STORE") for node in nodes.values()}
        for space, modality in store.partitions():
            here = store.find(space=space, modalities=[modality]).tolist()
            vectors = store.vectors(space, modality, here)
            found.vectors |= {(space, nodes[seq].node_id): vector.tobytes() for seq, vector in zip(here, vectors, strict=True)}
        found.sources = store.sources()
    return found


def committed(folder):
    """Ids of the nodes that are in the store."""
    with MediaStore(folder, create=False) as store:
        return {node.node_id for node in store.nodes(store.find().tolist()).values()}


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class Log:
    """What the runs said that they encode."""

    def __init__(self, path):
        self._path = path
        self._seen = 0
        path.touch()

    def _new(self):
        return self._path.read_text().splitlines()[self._seen :]

    def is_opened(self):
        """Whether this run's index is open."""
        return "opened" in self._new()

    def count(self):
        """How many nodes this run began to encode."""
        return len(self._new()) - 1

    def end_of_run(self):
        """Ids of the nodes that this run began to encode."""
        lines = self._new()
        self._seen += len(lines)
        return [line for line in lines if line not in ("opened", "done")]


def test_killed_ten_times(make_once, starter, tmp_path):
    folder = write_files(make_once)

    log = Log(tmp_path / "calm.log")
    starter.start(tmp_path / "calm", folder, tmp_path / "calm.log")
    assert starter.wait() == 0
    calm, total = read(tmp_path / "calm"), log.end_of_run()
    assert sorted(total) == sorted(calm.nodes)
    assert sum(one.status == "failed" for one in calm.sources) == BROKEN
    assert len(calm.sources) == FILES
    assert len(calm.nodes) > len({one.document_id for one in calm.sources}) - 1 + 20  # some became several nodes

    chance = random.Random(SEED)
    log, store = Log(tmp_path / "killed.log"), tmp_path / "killed"
    # Moments by what was encoded so far, over all of the run; after every other one some time goes by, up to a batch's.
    moments = sorted(chance.sample(range(1, len(total) - 40), KILLS - 1))
    encodings, in_flight, before = Counter(), [], set()
    for at, moment in enumerate([0, *moments]):
        pid = starter.start(store, folder, tmp_path / "killed.log")
        wanted = moment - len(before)
        assert wait_until(lambda wanted=wanted: log.is_opened() and log.count() >= wanted, 60)
        if at % 2:
            time.sleep(chance.uniform(0, 0.1))
        workers = descendants(pid)
        os.kill(pid, signal.SIGKILL)
        assert starter.wait() == signal.SIGKILL
        assert wait_until(lambda workers=workers: not any(map(is_alive, workers)), 10), "a worker stayed behind"
        encoded, after = log.end_of_run(), committed(store)
        assert len(set(encoded)) == len(encoded)
        assert not before & set(encoded), "what was stored was encoded again"
        assert before <= after <= before | set(encoded)
        in_flight.append(set(encoded) - after)
        assert len(in_flight[-1]) <= IN_FLIGHT
        encodings.update(encoded)
        before = after
    assert sum(map(bool, in_flight)) >= 3, "no kill fell into the encoding"

    starter.start(store, folder, tmp_path / "killed.log")
    assert starter.wait() == 0
    last = log.end_of_run()
    assert not before & set(last)
    encodings.update(last)
    killed = read(store)
    assert killed.nodes == calm.nodes
    assert killed.vectors == calm.vectors
    assert killed.sources == calm.sources
    assert encodings == Counter(list(calm.nodes)) + sum((Counter(one) for one in in_flight), Counter())
    for place in (tmp_path / "calm", store):
        with MediaStore(place, create=False) as opened:
            checked = opened.check()
            assert checked.problems == ()
            assert (checked.nodes, checked.vectors) == (len(calm.nodes), len(calm.vectors))
            assert not list(place.rglob("*.part*"))
    assert np.frombuffer(next(iter(killed.vectors.values())), np.float32).shape == (32,)
