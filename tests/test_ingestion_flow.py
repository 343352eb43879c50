"""Files on their way into an index: order, fairness, duplicates, progress, what is not done twice, and what a stop leaves."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import Ingestor
from llama_index_mm.media import MediaLimits, digest_file
from llama_index_mm.media import pool as workers
from llama_index_mm.media.pool import DecodePool
from llama_index_mm.nodes import node_to_json
from llama_index_mm.stores import MediaStore
from llama_index_mm.testing import tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

# A decoder of sound that workers get instead of PyAV; what it does is the file's first word.
BAD_DECODER = """
import ctypes, os, signal

class FFmpegError(Exception):
    pass

def open(file, *args, **options):
    word = file.read().split()[0].decode()
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "sleep":
        ctypes.PyDLL(None).sleep(600)
    raise FFmpegError("no sound")
"""


@pytest.fixture
def bad_decoder(tmp_path_factory, monkeypatch):
    """Makes workers, and only those, decode sound with `BAD_DECODER`."""
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "av.py").write_text(BAD_DECODER)
    workers._IDLE.close()
    monkeypatch.syspath_prepend(folder)
    yield
    workers._IDLE.close()


def open_index(folder):
    return MultiModalIndex.open(folder, preset=tiny_preset(), create=True)


@pytest.fixture
def index(tmp_path):
    with open_index(tmp_path / "index") as opened:
        yield opened


@pytest.fixture
def submitted(monkeypatch):
    """Paths of the files that were given to decoders."""
    paths = []
    submit = DecodePool.submit
    monkeypatch.setattr(DecodePool, "submit", lambda self, path, kind: (paths.append(Path(path)), submit(self, path, kind))[1])
    return paths


def write_mixed(make):
    """Good, broken and equal files of each modality: 36 of them."""
    for at in range(6):
        make.text(f"files/{at}/letter.txt", f"letter {at} " * (300 if at == 2 else 1))
        make.picture(f"files/{at}/red.png", (40 * at, 0, 0), (20 + at, 20))
        make.tone(f"files/{at}/tone.wav", 300 + 50 * at, seconds=45.0 if at == 3 else 0.5)
        make.obj(f"files/{at}/box.obj", [(x * (at + 1), y, z) for x, y, z in ((0, 0, 0), (1, 0, 0), (0, 1, 0))], [(0, 1, 2)])
        make.text(f"files/{at}/twice.txt", "the same everywhere")
        make.bytes(f"files/{at}/torn.png", b"torn %d" % (at // 2))
    return make.folder / "files"


def stored(store):
    """All that a store holds: nodes, vectors bit for bit, and notes on files."""
    seqs = store.find().tolist()
    nodes = store.nodes(seqs)
    vectors = {}
    for space, modality in store.partitions():
        here = store.find(space=space, modalities=[modality]).tolist()
        for seq, vector in zip(here, store.vectors(space, modality, here), strict=True):
            vectors[space, nodes[seq].node_id] = vector.tobytes()
    texts = {node.node_id: node_to_json(node).replace(str(store.folder), "STORE") for node in nodes.values()}
    return texts, vectors, store.sources()


# -- order and fairness ------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_number_of_workers(make, tmp_path):
    folder = write_mixed(make)
    reports, stores = [], []
    for count in (0, 1, 3):
        with open_index(tmp_path / f"store {count}") as index:
            report = index.ingest(folder, num_workers=count)
            reports.append((report.added, report.duplicates, report.nodes, {one.path: one.reason for one in report.problems}))
            stores.append(stored(index.store))
    assert stores[0] == stores[1] == stores[2]
    assert reports[0] == reports[1] == reports[2]
    added, duplicates, nodes, problems = reports[0]
    assert (added, duplicates, len(problems), len(stores[0][2])) == (25, 5, 6, 36)
    assert nodes == len(stores[0][0]) > 25


def test_a_slow_file_keeps_nobody_waiting(index, make, bad_decoder):
    slow = make.text("files/0 slow.wav", "sleep")
    for at in range(60):
        make.picture(f"files/{at + 1}.png", (4 * at, 0, 0))
    events = []
    add, note = index.store.add, index.store.note_sources
    index.store.add = lambda records, *rest, **more: (events.append(len(records)), add(records, *rest, **more))
    index.store.note_sources = lambda sources: (events.append("slow"), note(sources))
    report = index.ingest(make.folder / "files", num_workers=2, media_limits=MediaLimits(decode_seconds=6))
    assert (report.added, [one.path for one in report.problems]) == (60, [slow])
    assert "took longer than 6 s to decode" in report.problems[0].reason
    assert sum(itertools.takewhile(lambda event: event != "slow", events)) >= 16
    assert 6 <= report.seconds < 40


def test_a_crash_costs_one_file(index, make, bad_decoder):
    for at in range(20):
        make.picture(f"files/{at:02}.png", (9 * at, 0, 0))
    bad = [make.text("files/05 bad.wav", "crash once"), make.text("files/15 bad.wav", "crash again")]
    report = index.ingest(make.folder / "files")
    assert (report.added, [one.path for one in report.problems]) == (20, bad)
    for problem in report.problems:
        assert problem.reason.startswith(f"The decoder crashed on {problem.path.name} (SIGSEGV).")
    assert index.store.check().problems == ()


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_counts_every_file_once(index, make, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, *rest, **options):
            super().__init__(*rest, **{**options, "file": (make.folder / "bar").open("w"), "disable": False})
            self.steps = []
            bars.append(self)

        def update(self, n=1):
            self.steps.append(n)
            return super().update(n)

    monkeypatch.setattr("llama_index_mm.ingestion.ingestor.tqdm", Bar)
    folder = write_mixed(make)
    make.bytes("files/empty.txt", b""), make.bytes("files/of no kind.xyz", b"?")
    index.ingest(folder, show_progress=True)
    index.ingest(folder, show_progress=True)
    make.text("files/0/letter.txt", "changed"), make.picture("files/0/torn.png")
    index.ingest(folder, show_progress=True, retry_failed=True)
    index.ingest(folder, show_progress=True, dry_run=True)
    for bar in bars:
        assert (bar.total, sum(bar.steps), bar.n) == (38, 38, 38)
        assert min(bar.steps) > 0
        bar.fp.close()
    assert len(bars) == 4


def test_seconds(index, make):
    write_mixed(make)
    began = time.monotonic()
    report = index.ingest(make.folder / "files")
    assert 0 < report.seconds <= time.monotonic() - began


# -- what is not done twice --------------------------------------------------------------------------------------------


def test_unchanged_files_start_no_workers(index, make, submitted):
    folder = write_mixed(make)
    index.ingest(folder)
    # Equal broken files are decoded once, unless the first of them was through before the second came.
    assert {path.name for path in submitted} == {"red.png", "tone.wav", "box.obj", "torn.png"}
    assert len(submitted) == len(set(submitted)) <= 24
    submitted.clear()
    workers._IDLE.close()
    report = index.ingest(folder)
    assert (report.unchanged, len(report.problems), submitted, workers._IDLE._workers) == (30, 6, [], [])


def test_refused_files_wait_for_a_change_or_for_being_asked_for(index, make, submitted):
    torn, good = make.bytes("files/torn.png", b"torn"), make.picture("files/whole.png")
    index.ingest(make.folder / "files")
    reason = index.store.source(str(torn)).reason
    submitted.clear()
    again = index.ingest(make.folder / "files")
    assert (submitted, [(one.path, one.reason) for one in again.problems]) == ([], [(torn, reason)])
    tried = index.ingest(make.folder / "files", retry_failed=True)
    assert (submitted, [(one.path, one.reason) for one in tried.problems]) == ([torn], [(torn, reason)])
    torn.write_bytes(b"torn otherwise")
    index.ingest(make.folder / "files")
    assert submitted == [torn, torn]
    torn.write_bytes(good.read_bytes())
    assert index.ingest(make.folder / "files").duplicates == 1
    assert [one.status for one in index.store.sources()] == ["indexed", "indexed"]


def test_a_dry_run_touches_nothing(index, make, submitted):
    folder = write_mixed(make)
    store = index.store.folder

    def files():
        return {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.suffix != ".sqlite-shm"}

    before = files()
    looked = index.ingest(folder, dry_run=True)
    assert (looked.added, looked.duplicates) == (28, 8)
    assert (files(), submitted, len(index.store), index.store.sources()) == (before, [], 0, [])
    index.ingest(folder)
    make.text("files/new.txt", "new"), make.picture("files/copy.png", (0, 0, 0), (20, 20))
    (folder / "1" / "letter.txt").unlink()
    submitted.clear()
    before = files()
    report = index.ingest(folder, dry_run=True, prune=True)
    assert (report.added, report.duplicates, report.unchanged, report.removed, len(report.problems)) == (1, 1, 29, 1, 6)
    assert (files(), submitted) == (before, [])


# -- duplicates --------------------------------------------------------------------------------------------------------


def test_duplicates_keep_all_their_paths(index, make):
    within = [make.picture(f"files/{name}.png") for name in "abc"]
    document = digest_file(within[0])[:32]
    report = index.ingest(make.folder / "files")
    assert (report.added, report.duplicates, report.nodes) == (1, 2, 1)
    later = make.picture("files/sub/d.png")
    report = index.ingest(make.folder / "files")
    assert (report.unchanged, report.added, report.duplicates) == (3, 0, 1)
    assert [one.path for one in index.store.sources(document_id=document)] == [str(path) for path in [*within, later]]
    assert len(index.store) == 1


def test_duplicates_of_a_broken_file_are_told_each(index, make):
    paths = [make.bytes(f"files/{name}.png", b"torn") for name in "abc"]
    report = index.ingest(make.folder / "files")
    assert [one.path for one in report.problems] == paths
    assert [one.status for one in index.store.sources()] == ["failed"] * 3
    for path, problem in zip(paths, report.problems, strict=True):
        assert problem.reason.startswith(path.name)
        assert "can't be decoded as a picture" in problem.reason
    paths[0].unlink()
    assert len(index.ingest(make.folder / "files").problems) == 2


@pytest.mark.parametrize("names", [("a.png", "b.txt"), ("a.wav", "b.txt"), ("a.stl", "b.obj"), ("a.gif", "b.md")])
def test_a_broken_file_takes_no_good_one_of_the_same_content_along(index, make, names):
    """What is no picture may be a good text: the ending tells how a file is decoded."""
    for name in names:
        make.text(f"files/{name}", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    report = index.ingest(make.folder / "files")
    assert ([one.path.name for one in report.problems], report.added) == ([names[0]], 1)
    assert {Path(one.path).name: one.status for one in index.store.sources()} == {names[0]: "failed", names[1]: "indexed"}
    again = index.ingest(make.folder / "files")
    assert (len(again.problems), again.unchanged) == (1, 1)


# -- stops, and long runs ----------------------------------------------------------------------------------------------

# Encodes slowly, so that there is something to stop.
STOPPED = """
import signal, sys, time
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import HashingEncoder, tiny_preset

encode = HashingEncoder.encode


def slowly(self, items, **options):
    time.sleep(0.02 * len(items))
    return encode(self, items, **options)


HashingEncoder.encode = slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that a shell runs in the background inherit that it is ignored
try:
    with MultiModalIndex.open(sys.argv[1], preset=tiny_preset(), create=True) as index:
        print("opened", flush=True)
        index.ingest(sys.argv[2])
except KeyboardInterrupt:
    sys.exit(77)
"""


def children(pid):
    """Processes that a process started."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(entry.parent.name))
        except OSError:
            continue
    return found


@ONLY_LINUX
def test_control_c_leaves_a_sound_store_and_no_workers(make, tmp_path):
    for at in range(200):
        make.picture(f"files/{at:03}.png", (at, 0, 0), (100, 100))
        make.text(f"files/{at:03}.txt", f"letter {at}")
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path / "index"), str(make.folder / "files")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "opened\n"
    deadline, begun = time.monotonic() + 60, 0
    while begun < 32 and time.monotonic() < deadline:
        time.sleep(0.02)
        with MediaStore(tmp_path / "index", create=False) as store:
            begun = len(store)
    started = children(process.pid)
    assert started
    process.send_signal(signal.SIGINT)
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:  # CPython drops an interrupt that comes while a finaliser runs; people press again
        process.send_signal(signal.SIGINT)
    assert process.wait(20) == 77
    process.stdout.close()
    deadline = time.monotonic() + 10
    while (left := [pid for pid in started if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    with open_index(tmp_path / "index") as index:
        kept = len(index.store)
        assert 32 <= kept < 400
        assert index.store.check().problems == ()
        report = index.ingest(make.folder / "files")
        assert (report.unchanged, report.added, len(index.store)) == (kept, 400 - kept, 400)


LONG = """
import json, re, sys
from pathlib import Path
import numpy as np
from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder
from llama_index_mm.ingestion import Ingestor
from llama_index_mm.presets import Preset
from llama_index_mm.stores import MediaStore


class Mean(Encoder):
    payload, dimension, fingerprint = "image", 3, "mean of colours"

    def _encode(self, items, *, query):
        return np.stack([np.asarray(item, np.float32).mean((0, 1)) + 1 for item in items])


seen = []


def look(path):
    seen.append(int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1000)


with MediaStore(sys.argv[1]) as store:
    space = EmbeddingSpace("colour", {"image": Mean()})
    store.declare_space("colour", 3, space.encoders["image"].fingerprint)
    report = Ingestor(store, Preset(name="mean", spaces=(space,))).ingest(sys.argv[2], on_file=look)
print(json.dumps([report.added, seen]))
"""


@ONLY_LINUX
def test_memory_stays_flat(make, tmp_path):
    """Pictures of a megapixel, 3 MB each: 600 of them take what 200 took."""
    picture = make.picture("one.jpg", "red", (1000, 1000)).read_bytes()
    for at in range(600):
        make.bytes(f"files/{at:03}.jpg", picture + b"%d" % at)
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(tmp_path / "index"), str(make.folder / "files")],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    added, seen = json.loads(done.stdout)
    assert (added, len(seen)) == (600, 600)
    assert max(seen[400:]) - max(seen[:200]) < 60


def test_order_of_files(index, make):
    """They come by name, whatever decodes faster."""
    write_mixed(make)
    seen = []
    Ingestor(index.store, index.preset).ingest(make.folder / "files", on_file=seen.append, num_workers=2)
    assert seen == sorted(path for path in (make.folder / "files").rglob("*") if path.is_file())


def test_what_waits_long_is_stored_while_others_come(index, make, monkeypatch):
    """A few pictures before many texts don't wait for the end of the run."""
    monkeypatch.setattr("llama_index_mm.ingestion.run._STALE", 0.0)
    for at in range(3):
        make.picture(f"files/{at}.png", (at * 90, 0, 0))
    for at in range(130):
        make.text(f"files/{at + 100}.txt", f"number {at}")
    seen = []

    def look(path):
        if path.name == "225.txt":
            seen.append(index.store.counts().get("image", 0))

    index._ingestor.ingest(make.folder / "files", on_file=look, num_workers=0)
    assert seen == [3]
    assert index.store.counts() == {"text": 130, "image": 3}
