"""What becomes of a store when its process is killed, its disk is full, or its files are damaged."""

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import faiss
import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from llama_index_mm.errors import StoreError
from llama_index_mm.nodes import ImageMedia, node_to_json
from llama_index_mm.stores import MediaStore, Record, approximate, maintenance
from llama_index_mm.stores.checkpoints import load_checkpoint
from llama_index_mm.stores.database import Database

SPACES = ("words", "looks")
MODALITIES = ("text", "image")
DIMENSION = 64
NAMES = 240


def signs(name):
    """A vector of length 1 that is another one for every name; inner products of two are exact in float32."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.choice([-1, 1], DIMENSION) / np.sqrt(DIMENSION)).astype(np.float32)


def make_node(name, version):
    number = int(name[1:])
    said = f"{name} as of {version}"
    if number % 3 == 0:
        source = RelatedNodeInfo(node_id=f"d{number % 20}")
        return ImageMedia.create(f"{name}.png", digest="ab" * 32, text=said, id_=name, source=source, metadata={"n": number})
    relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"d{number % 20}")}
    return TextNode(id_=name, text=said, metadata={"n": number, "version": version}, relationships=relationships)


def open_store(folder, recall=0.99):
    store = MediaStore(folder, recall=recall)
    for space in SPACES:
        store.declare_space(space, DIMENSION, "f")
    return store


# -- calls of a store, and what they do to a model of it ------------------------------------------------------------------
# A call is [kind, version, what]. The model is {node id: [node as JSON, document, modality, {space: vector as bytes}]}.


def calls(seed):
    """Calls without end; the same ones for the same seed."""
    rng = random.Random(seed)
    kinds = {"add": 50, "vectors": 10, "delete": 10, "documents": 4, "space": 6, "checkpoint": 16, "compact": 4}
    step = 0
    while True:
        step += 1
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        size = {"add": rng.randint(1, 40), "documents": 1}.get(kind, 12)
        what = [f"d{rng.randrange(20)}"] if kind == "documents" else [f"n{at}" for at in rng.sample(range(NAMES), size)]
        yield kind, f"{seed}.{step}", what


def vectors_of(name, version, *, spaces=SPACES):
    """Vectors in both spaces, or for every fourth node in one."""
    here = spaces if zlib.crc32(f"{name} {version}".encode()) % 4 else spaces[:1]
    return {space: signs(f"{space} {name} {version}") for space in here}


def call(store, kind, version, what):
    if kind == "add":
        store.add([Record(make_node(name, version), vectors_of(name, version)) for name in what])
    elif kind == "vectors":
        nodes = store.nodes(store.find(node_ids=what).tolist()).values()
        store.add([Record(node, vectors_of(node.node_id, version, spaces=SPACES[::-1])) for node in nodes])
    elif kind == "delete":
        store.delete(node_ids=what)
    elif kind == "documents":
        store.delete(ref_doc_ids=what)
    elif kind == "space":
        store.delete_from("looks", store.find(node_ids=what, space="looks"))
    elif kind == "checkpoint":
        store.checkpoint(everything=True)
    elif kind == "compact":
        store.compact()
    elif kind == "approximate":
        store.build_approximate("words")
    elif kind == "repair":
        store.repair()


def after(model, kind, version, what):
    """The model after a call."""
    model = {name: [*kept[:3], dict(kept[3])] for name, kept in model.items()}
    for name in what if kind in ("add", "vectors") else ():
        if kind == "add":
            node = make_node(name, version)
            modality = "image" if isinstance(node, ImageMedia) else "text"
            model[name] = [node_to_json(node), node.ref_doc_id, modality, {}]
        if name in model:
            spaces = SPACES if kind == "add" else SPACES[::-1]
            vectors = vectors_of(name, version, spaces=spaces)
            model[name][3].update({space: vector.tobytes() for space, vector in vectors.items()})
    if kind == "space":
        for name in what:
            if name in model and model[name][3].pop("looks", None) and not model[name][3]:
                del model[name]
    gone = {"delete": lambda name, doc: name in what, "documents": lambda name, doc: doc in what}.get(kind)
    return {name: kept for name, kept in model.items() if gone is None or not gone(name, kept[1])}


def contents(store):
    """A store as its model."""
    found = {}
    nodes = store.nodes(store.find().tolist())
    for modality in MODALITIES:
        for seq in store.find(modalities=[modality]).tolist():
            node = nodes[seq]
            found[node.node_id] = [node_to_json(node), node.ref_doc_id, modality, {}]
        for space in SPACES:
            seqs = store.find(space=space, modalities=[modality]).tolist()
            for seq, vector in zip(seqs, store.vectors(space, modality, seqs), strict=True):
                found[nodes[seq].node_id][3][space] = vector.tobytes()
    return found


def assert_searches_are_right(store, model, seed):
    """Search every partition for some of its own vectors, and for others."""
    rng = random.Random(seed)
    seqs = {node.node_id: seq for seq, node in store.nodes(store.find().tolist()).items()}
    for space in SPACES:
        for modality in MODALITIES:
            kept = {name: vectors[space] for name, (_, _, of, vectors) in model.items() if of == modality and space in vectors}
            kept = {seqs[name]: np.frombuffer(vector, np.float32) for name, vector in kept.items()}
            for query in [*rng.sample(list(kept.values()), min(2, len(kept))), signs(f"query {seed}")]:
                expected = sorted((-float(vector @ query), seq) for seq, vector in kept.items())[:8]
                hits = store.search(space, modality, query, 8)
                assert [(-hit.similarity, hit.seq) for hit in hits] == expected


# An approximate index of few vectors is used, whether it is worth it or not, and compares all of them.
ALWAYS_APPROXIMATE = {"_FEWEST": 1, "_FASTER": 0.0, "_PROBES": (512,), "_DEPTHS": (64,)}


def are_approximate(store):
    """Of every partition, by space, whether an approximate index is used."""
    return [bool(one.approximate and one.approximate.settings) for one in store.statistics()]


# -- killed ---------------------------------------------------------------------------------------------------------------


def worker(folder, told, seed, die_at):
    """Do calls, and write a line into a file after each that returned; die before some step if one is given."""
    to = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    deadline = time.monotonic() + 60
    if die_at is None:
        store = open_store(folder)
        os.write(to, b"ready\n")
        for one in calls(seed):
            call(store, *one)
            os.write(to, b"done 0\n")
            if time.monotonic() > deadline:
                os._exit(4)
    count = count_steps(die_at)
    for name, value in ALWAYS_APPROXIMATE.items():
        setattr(approximate, name, value)
    store = open_store(folder, recall=0.8)
    os.write(to, b"ready\n")
    for one in ALL_KINDS:
        call(store, *one)
        os.write(to, f"done {count()}\n".encode())
    store.close()
    os.write(to, f"closed {count()}\n".encode())


def count_steps(die_at):
    """Count statements in SQLite and changes in folders; die before one of them."""
    count = 0

    def step(*_):
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def counting(*args, **options):
            step()
            return function(*args, **options)

        return counting

    connect = Database._connect

    def traced(self):
        connection = connect(self)
        connection.set_trace_callback(step)
        return connection

    Database._connect = traced
    for name in ("replace", "unlink", "open"):
        setattr(Path, name, counted(getattr(Path, name)))
    os.fsync = counted(os.fsync)
    approximate.faiss.write_index = counted(approximate.faiss.write_index)
    return lambda: count


def nursery():
    """Fork workers and kill them, as told by lines of JSON; everything slow to import is there already."""
    pid = 0
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                code = 3
                try:
                    worker(*order["start"])
                    code = 0
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            answer = pid
        else:
            if order["kill"]:
                os.kill(pid, signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            pid = 0
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    if pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Nursery:
    """A process that forks workers.

    Args:
        folder: for what workers tell.
    """

    def __init__(self, folder):
        self.folder = folder
        self.count = 0
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
        environment.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self.process:
            self.process.stdin.close()

    def ask(self, **order):
        self.process.stdin.write(f"{json.dumps(order)}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, folder, *, seed=None, die_at=None):
        self.count += 1
        self.told = self.folder / f"told-{self.count}"
        self.told.touch()
        self.ask(start=[str(folder), str(self.told), seed, die_at])

    def lines(self):
        return self.told.read_text().split("\n")[:-1]

    def wait_until_ready(self):
        deadline = time.monotonic() + 30
        while not self.lines():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self, *, kill):
        """How the worker ended, and how many calls returned."""
        return self.ask(kill=kill), sum(line.startswith("done") for line in self.lines())


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    with Nursery(tmp_path_factory.mktemp("nursery")) as made:
        yield made


def survivor(store, model, acknowledged, pending):
    """Check what a killed process left: acknowledged calls, and the pending one wholly or not at all. Gives the model."""
    for one in acknowledged:
        model = after(model, *one)
    found = contents(store)
    if found != model:
        model = after(model, *pending)
        assert found == model
    assert store.check().problems == ()
    return model


KILLS = 52


def test_killed_at_random_moments(forks, tmp_path):
    folder = tmp_path / "store"
    rng = random.Random(7)
    model = {}
    total = 0
    watching = None
    for seed in range(KILLS):
        if seed == KILLS // 2:
            watching = MediaStore(folder, create=False)  # from here on a reader sees everything, through all the deaths
        forks.start(folder, seed=seed)
        forks.wait_until_ready()
        time.sleep(0.02 + 1.2 * rng.random() ** 3)
        code, count = forks.end(kill=True)
        assert code == -signal.SIGKILL
        total += count
        one = calls(seed)
        acknowledged = [next(one) for _ in range(count)]
        pending = next(one)
        with MediaStore(folder, create=False) as store:
            model = survivor(store, model, acknowledged, pending)
            assert_searches_are_right(store, model, seed)
        if watching is not None:
            assert_searches_are_right(watching, model, seed)
            if seed % 5 == 0:
                assert contents(watching) == model
    watching.close()
    assert total > KILLS
    with MediaStore(folder, create=False) as store:  # and it can still be written
        for one in [("add", "last", ["n1", "n2", "n3"]), ("checkpoint", "", []), ("delete", "", ["n2"])]:
            call(store, *one)
            model = after(model, *one)
        assert contents(store) == model
        assert store.check().problems == ()


EVERYONE = [f"n{at}" for at in range(150)]
ALL_KINDS = [
    ("add", "a", EVERYONE[:130]),
    ("checkpoint", "", []),
    ("approximate", "", []),
    ("add", "b", EVERYONE[120:]),
    ("vectors", "c", EVERYONE[:10]),
    ("checkpoint", "", []),
    ("approximate", "", []),
    ("space", "", EVERYONE[5:15]),
    ("documents", "", ["d3", "d4"]),
    ("repair", "", []),
    ("compact", "", []),
    ("add", "d", EVERYONE[:5]),
]
WRITE_FILES = ("checkpoint", "approximate", "repair", "compact")


def test_killed_before_chosen_steps(forks, tmp_path):
    forks.start(tmp_path / "whole", die_at=0)
    assert forks.end(kill=False) == (0, len(ALL_KINDS))
    ends = [0, *(int(line.split()[1]) for line in forks.lines()[1:])]
    with MediaStore(tmp_path / "whole") as store:
        assert are_approximate(store) == [False, False, True, True]
    for calls_before, (begin, end) in enumerate(itertools.pairwise(ends)):
        pending = [*ALL_KINDS, ("checkpoint", "", [])][calls_before]  # closing it writes files too
        for die_at in np.unique(np.linspace(begin + 1, end, 3 if pending[0] in WRITE_FILES else 2).astype(int)).tolist():
            folder = tmp_path / str(die_at)
            forks.start(folder, die_at=die_at)
            assert forks.end(kill=False) == (-signal.SIGKILL, calls_before)
            with MediaStore(folder) as store:
                if len(store.spaces()) == 2:
                    model = survivor(store, {}, ALL_KINDS[:calls_before], pending)
                    assert_searches_are_right(store, model, die_at)
            shutil.rmtree(folder)


# -- a full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A folder that takes 48 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a disk of its own")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder, left=0):
    """Leave only some bytes of a disk."""
    (folder / "filler").unlink(missing_ok=True)
    with (folder / "filler").open("wb") as file:
        if shutil.disk_usage(folder).free > left:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - left)


def free(folder):
    (folder / "filler").unlink()


SAID = ("Nothing of this call is stored.", "All nodes and vectors are safe in the database.", "or free some disk.")


def attempt(store, model, one):
    """The model after a call, and how it failed, if it did; all is as it was then."""
    try:
        call(store, *one)
    except StoreError as error:
        failed = str(error)
        assert failed.endswith(SAID)
    else:
        model, failed = after(model, *one), None
    assert contents(store) == model
    assert store.check().problems == ()
    return model, failed


def test_adding_until_the_disk_is_full(small_disk):
    store = open_store(small_disk / "store")
    fill(small_disk, 3_000_000)
    model, failed, count = {}, None, 0
    while failed is None:
        count += 1
        model, failed = attempt(store, model, ("add", f"v{count}", [f"n{40 * count + at}" for at in range(40)]))
    assert failed == (
        f"{store.folder / 'store.sqlite'} was not changed: database or disk is full. Nothing of this call is stored."
    )
    assert len(model) == 40 * (count - 1) > 100
    assert_searches_are_right(store, model, "full")
    with MediaStore(store.folder, create=False) as reader:
        assert contents(reader) == model
    free(small_disk)
    for one in [("add", "more", EVERYONE), ("delete", "", EVERYONE[:50]), ("checkpoint", "", [])]:
        model, failed = attempt(store, model, one)
        assert failed is None
    assert_searches_are_right(store, model, "free")
    store.close()
    with MediaStore(store.folder, create=False) as again:
        assert contents(again) == model
        assert again.check().problems == ()


def test_little_space_is_left(small_disk):
    store = open_store(small_disk / "store")
    model = {}
    failures = []
    for at, one in zip(range(40), calls("little"), strict=False):
        fill(small_disk, 20_000 * at)
        model, failed = attempt(store, model, one)
        failures.append(failed is not None)
        free(small_disk)
        model, failed = attempt(store, model, one)
        assert failed is None
    assert 5 < sum(failures) < 35
    store.close()


def files_of(store):
    return {path.name: path.read_bytes() for path in (store.folder / "faiss").iterdir()}


def test_faiss_files_on_a_full_disk(small_disk, monkeypatch):
    for name, value in ALWAYS_APPROXIMATE.items():
        monkeypatch.setattr(approximate, name, value)
    store = open_store(small_disk / "store", recall=0.8)
    model = {}
    for one in ALL_KINDS[:3]:
        call(store, *one)
        model = after(model, *one)
    assert len(files_of(store)) == 4 * 2 + 2
    failures = []
    for at in range(24):
        model, failed = attempt(store, model, ("add", f"v{at}", EVERYONE[at : at + 5]))
        assert failed is None
        fill(small_disk, 20_000 * at)
        kind = ("checkpoint", "approximate", "repair")[at % 3]
        model, failed = attempt(store, model, (kind, "", []))
        failures.append(failed)
        assert_searches_are_right(store, model, at)
        with MediaStore(store.folder, create=False) as reader:
            assert_searches_are_right(reader, model, at)
        free(small_disk)
        assert are_approximate(store) == [False, False, True, True]
        assert {name.split(".")[-1] for name in files_of(store)} == {"npy", "faiss"}
    assert failures[0].startswith(f"{store.folder / 'faiss'} can't be written: ")
    assert failures[0].endswith("All nodes and vectors are safe in the database.")
    assert 8 < len([failed for failed in failures if failed]) < 22


@pytest.mark.parametrize("lost", [1, 100, 4000])
def test_the_last_bytes_of_an_index_find_no_room(tmp_path, monkeypatch, lost):
    for name, value in ALWAYS_APPROXIMATE.items():
        monkeypatch.setattr(approximate, name, value)
    write = faiss.write_index

    def write_most(index, path):  # FAISS raises nothing when closing the file fails
        write(index, path)
        truncate(Path(path), -lost)

    with open_store(tmp_path / "store", recall=0.8) as store:
        call(store, "add", "a", EVERYONE)
        store.checkpoint(everything=True)
        before = files_of(store)
        with monkeypatch.context() as patch:
            patch.setattr(approximate.faiss, "write_index", write_most)
            with pytest.raises(StoreError, match="can't be written"):
                store.build_approximate("words")
        assert files_of(store) == before
        assert store.check().problems == ()
        store.build_approximate("words")
        assert are_approximate(store) == [False, False, True, True]


def test_closing_on_a_full_disk(small_disk, caplog):
    store = open_store(small_disk / "store")
    model = {}
    for one in [*ALL_KINDS[:2], ALL_KINDS[3]]:
        call(store, *one)
        model = after(model, *one)
    before = files_of(store)
    fill(small_disk)
    with pytest.raises(StoreError, match="can't be written"):
        store.checkpoint(everything=True)
    assert files_of(store) == before
    store.close()
    assert "can't be written" in caplog.text
    assert files_of(store) == before
    free(small_disk)
    with MediaStore(store.folder, create=False) as again:
        assert contents(again) == model
        assert_searches_are_right(again, model, "again")
        assert again.check().problems == ()


# -- damaged files of FAISS -----------------------------------------------------------------------------------------------

TEXTS, IMAGES = [f"n{3 * at + 1}" for at in range(30)], [f"n{3 * at}" for at in range(30)]


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A closed store with files that lag behind the database, and its model. Two of its partitions are of the same size."""
    store = open_store(tmp_path_factory.mktemp("exact") / "store")
    model = {}
    for one in [("add", "a", [*TEXTS, *IMAGES]), ("checkpoint", "", []), ("add", "b", TEXTS[:5]), ("delete", "", IMAGES[20:])]:
        call(store, *one)
        model = after(model, *one)
    store._database.give_up_writing()  # or closing would write them again
    store.close()
    return store.folder, model


def flip(path, at, bit):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def truncate(path, size):
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)


DAMAGE = {
    **{f"truncated to {size}": lambda path, other, size=size: truncate(path, size) for size in (0, 1, 9, 128, -200, -4, -1)},
    **{
        f"bit {bit} of byte {at}": lambda path, other, at=at, bit=bit: flip(path, at, bit)
        for at, bit in [(0, 0), (7, 1), (9, 7), (30, 3), (127, 2), (128, 0), (200, 5), (-150, 7), (-4, 4), (-1, 6)]
    },
    "a bit in the middle": lambda path, other: flip(path, path.stat().st_size // 2, 3),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + bytes(8)),
    "zeros": lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    "removed": lambda path, other: path.unlink(),
    "another partition's": lambda path, other: shutil.copyfile(other, path),
}


@pytest.mark.parametrize("kind", ["vectors.npy", "ids.npy"])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_vectors_or_ids(exact, tmp_path, caplog, how, kind):
    folder, model = shutil.copytree(exact[0], tmp_path / "store"), exact[1]
    with MediaStore(folder, create=False) as store:
        assert store.check().problems == ()
        partitions = {row[1:]: row[0] for row in store._database.read("SELECT id, space, modality FROM partitions")}
        sizes = {number: one.vectors for number, one in store._partitions.checkpoints().items()}
    number, other = partitions["words", "text"], partitions["words", "image"]
    assert sizes[number] == sizes[other] == 30
    (path,), (of_other,) = (list((folder / "faiss").glob(f"{one}-*.{kind}")) for one in (number, other))
    DAMAGE[how](path, of_other)
    with MediaStore(folder, create=False) as store:
        assert contents(store) == model
        assert path.name in caplog.text
        assert_searches_are_right(store, model, how)
        (problem,) = store.check().problems
        assert problem.startswith("FAISS files (repair): ")
        assert path.name in problem
        caplog.clear()
        assert store.repair().problems == ()
        assert_searches_are_right(store, model, how)
    with MediaStore(folder, create=False) as store:
        assert contents(store) == model
        assert_searches_are_right(store, model, how)
        assert store.check().problems == ()
        assert len(files_of(store)) == 2 * 4
    assert caplog.text == ""


def clustered(count, seed):
    rng = np.random.default_rng(seed)
    vectors = np.random.default_rng(5).normal(size=(40, 32))[rng.integers(0, 40, count)] + 0.3 * rng.normal(size=(count, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


QUERIES = clustered(8, 6)


@pytest.fixture
def quick_to_build(monkeypatch):
    """An approximate index is built with few trials, and used even if it is not faster."""
    for name, value in {"_FASTER": 0.0, "_PROBES": (8, 64), "_DEPTHS": (16,)}.items():
        monkeypatch.setattr(approximate, name, value)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def approximated(tmp_path_factory):
    """A closed store with approximate indexes, and what searches find."""
    with pytest.MonkeyPatch.context() as patch, MediaStore(tmp_path_factory.mktemp("approximate") / "store") as store:
        patch.setattr(approximate, "_FASTER", 0.0)
        store.declare_space("words", 32, "f")
        texts = [Record(TextNode(id_=f"t{at}", text="t"), {"words": vector}) for at, vector in enumerate(clustered(3000, 1))]
        images = [
            Record(ImageMedia.create(f"{at}.png", digest="ab" * 32, id_=f"i{at}"), {"words": vector})
            for at, vector in enumerate(clustered(1100, 2))
        ]
        store.add(texts)
        store.add(images)
        assert {key: bool(one.settings) for key, one in store.build_approximate("words").items()} == {
            ("words", "text"): True,
            ("words", "image"): True,
        }
        expected = [store.search("words", "text", query, 10, exact=True) for query in QUERIES]
    similarities = QUERIES.astype(np.float64) @ clustered(3000, 1).T.astype(np.float64)
    for hits, row in zip(expected, similarities, strict=True):
        assert [hit.seq for hit in hits] == (1 + np.argsort(-row)[:10]).tolist()
    return store.folder, expected


def damage(folder, kind, how):
    """Damage one file of the first partition; give its name."""
    (path,), (other,) = ((folder / "faiss").glob(f"{number}-*.{kind}") for number in (1, 2))
    DAMAGE[how](path, other)
    return path.name


def assert_damage_is_noticed(store, name, expected, caplog):
    assert [store.search("words", "text", query, 10) for query in QUERIES] == expected
    assert name in caplog.text
    (problem,) = store.check().problems
    assert problem.startswith("FAISS files (repair): ")
    assert name in problem


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_approximate_index(approximated, tmp_path, caplog, how):
    folder, expected = shutil.copytree(approximated[0], tmp_path / "store"), approximated[1]
    name = damage(folder, "faiss", how)
    with MediaStore(folder, create=False) as store:
        assert_damage_is_noticed(store, name, expected, caplog)


@pytest.mark.usefixtures("quick_to_build")
@pytest.mark.parametrize("kind", ["vectors.npy", "ids.npy", "faiss"])
@pytest.mark.parametrize("how", ["truncated to -4", "a bit in the middle", "removed"])
def test_an_approximate_index_is_repaired(approximated, tmp_path, caplog, kind, how):
    folder, expected = shutil.copytree(approximated[0], tmp_path / "store"), approximated[1]
    name = damage(folder, kind, how)
    with MediaStore(folder, create=False) as store:
        assert_damage_is_noticed(store, name, expected, caplog)
        caplog.clear()
        assert store.repair().problems == ()
    with MediaStore(folder, create=False) as store:
        assert are_approximate(store) == [True, True]
        assert [store.search("words", "text", query, 10, exact=True) for query in QUERIES] == expected
        assert [store.search("words", "text", query, 1) for query in QUERIES] == [hits[:1] for hits in expected]
        assert store.check().problems == ()
    assert caplog.text == ""


def test_files_that_are_replaced_during_a_check(exact, tmp_path, monkeypatch):
    folder = shutil.copytree(exact[0], tmp_path / "store")
    with MediaStore(folder, create=False) as writer, MediaStore(folder, create=False) as reader:

        def load(*arguments):
            writer.checkpoint(everything=True)
            return load_checkpoint(*arguments)

        monkeypatch.setattr(maintenance, "load_checkpoint", load)
        assert reader.check().problems == ()
        assert_searches_are_right(reader, exact[1], "replaced")


# -- damaged rows ---------------------------------------------------------------------------------------------------------


def change(folder, sql, *values):
    database = sqlite3.connect(folder / "store.sqlite")
    with database:
        assert database.execute(sql, values).rowcount == 1
    database.close()


def value_of(folder, sql):
    database = sqlite3.connect(folder / "store.sqlite")
    row = database.execute(sql).fetchone()
    database.close()
    return row[0]


def flipped(value, at, bit):
    """Bytes, or a number as eight of them, with one bit changed."""
    data = bytearray(value if isinstance(value, bytes) else value.to_bytes(8, "little"))
    data[at] ^= 1 << bit
    return bytes(data) if isinstance(value, bytes) else int.from_bytes(data, "little")


def problems(folder):
    with MediaStore(folder, create=False) as store:
        return store.check().problems


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4 * DIMENSION // 2, -4, -1])
@pytest.mark.parametrize("bit", [0, 6, 7])
def test_a_damaged_vector(exact, tmp_path, at, bit):
    folder = shutil.copytree(exact[0], tmp_path / "store")
    key = value_of(folder, "SELECT max(key) FROM vectors")
    whole = value_of(folder, f"SELECT vector FROM vectors WHERE key = {key}")
    change(folder, "UPDATE vectors SET vector = ? WHERE key = ?", flipped(whole, at, bit), key)
    told = problems(folder)
    assert told[0].startswith("Vectors that are not what was written (restore the store from a copy, or index them again): ")
    with MediaStore(folder, create=False) as store:
        assert store.repair().problems == told[:1]  # which makes nothing new of what is lost
    change(folder, "UPDATE vectors SET vector = ? WHERE key = ?", whole, key)
    with MediaStore(folder, create=False) as store:
        assert store.repair().problems == ()


WHERE_LAST = "SELECT space FROM partitions ORDER BY id DESC"


@pytest.mark.parametrize("size", [0, 4, 4 * DIMENSION - 1, 4 * DIMENSION + 4])
def test_a_vector_of_another_length(exact, tmp_path, size):
    folder = shutil.copytree(exact[0], tmp_path / "store")
    change(folder, "UPDATE vectors SET vector = zeroblob(?) WHERE key = (SELECT max(key) FROM vectors)", size)
    shutil.rmtree(folder / "faiss")
    assert problems(folder)[0].startswith("Vectors that are not what was written")
    space, modality = value_of(folder, WHERE_LAST), value_of(folder, WHERE_LAST.replace("space", "modality"))
    with MediaStore(folder, create=False) as store, pytest.raises(StoreError, match="A vector in the database is damaged"):
        store.search(space, modality, signs("query"), 5)


BODY = [("body", at, bit) for at in (0, 1, 30, 100, -3, -1) for bit in (0, 2, 7)]
COLUMNS = [(name, at, bit) for name in ("node_id", "ref_doc_id", "modality", "class") for at, bit in [(0, 0), (-1, 7)]]


@pytest.mark.parametrize(("column", "at", "bit"), BODY + COLUMNS)
def test_a_damaged_node(exact, tmp_path, column, at, bit):
    folder, model = shutil.copytree(exact[0], tmp_path / "store"), dict(exact[1])
    name = TEXTS[7]
    where = f"WHERE seq = (SELECT seq FROM nodes WHERE node_id = '{name}')"
    whole = value_of(folder, f"SELECT CAST({column} AS BLOB) FROM nodes {where}")
    change(folder, f"UPDATE nodes SET {column} = CAST(? AS TEXT) {where}", flipped(whole, at, bit))
    told = problems(folder)
    now = flipped(whole, at, bit).decode(errors="replace") if column == "node_id" else name
    assert told[0] == f"Nodes that are not what was written (restore the store from a copy, or index them again): {now}."
    if column != "body":
        return
    with MediaStore(folder, create=False) as store:
        assert store.repair().problems == told
        call(store, "add", "new", [name, TEXTS[8]])
        model = after(model, "add", "new", [name, TEXTS[8]])
        assert contents(store) == model
        assert store.check().problems == ()
    change(folder, f"UPDATE nodes SET {column} = CAST(? AS TEXT) {where}", flipped(whole, at, bit))
    with MediaStore(folder, create=False) as store:
        assert store.delete(node_ids=[name]) == 1
        assert contents(store) == after(model, "delete", "", [name])
        assert store.check().problems == ()


@pytest.mark.parametrize(("table", "key"), [("nodes", "seq"), ("vectors", "key")])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_damaged_digest(exact, tmp_path, table, key, bit):
    folder = shutil.copytree(exact[0], tmp_path / "store")
    row = value_of(folder, f"SELECT min({key}) FROM {table}")
    digest = value_of(folder, f"SELECT digest FROM {table} WHERE {key} = {row}")
    change(folder, f"UPDATE {table} SET digest = ? WHERE {key} = ?", flipped(digest, 0, bit), row)
    (problem,) = problems(folder)
    assert problem.startswith(f"{table.capitalize()} that are not what was written")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE facts SET value = 'x' WHERE (name, seq) = (SELECT name, seq FROM facts ORDER BY seq LIMIT 1)",
        "UPDATE facts SET seq = 777 WHERE (name, seq) = (SELECT name, seq FROM facts ORDER BY seq LIMIT 1)",
        "DELETE FROM facts WHERE (name, seq) = (SELECT name, seq FROM facts ORDER BY seq LIMIT 1)",
        "INSERT INTO facts VALUES (1, 1, 'x', 1)",
        "UPDATE names SET name = 'x' WHERE name = 'n'",
        "DELETE FROM names WHERE name = 'version'",
        "UPDATE partitions SET vectors = vectors + 1 WHERE id = 1",
        "INSERT INTO vectors SELECT key - 1, digest, vector FROM vectors LIMIT 1",
    ],
)
def test_what_is_derived_is_repaired(exact, tmp_path, sql):
    folder, model = shutil.copytree(exact[0], tmp_path / "store"), exact[1]
    change(folder, sql)
    told = problems(folder)
    assert len(told) >= 1
    shutil.rmtree(folder / "faiss")  # everything is read from the database
    with MediaStore(folder, create=False) as store, MediaStore(folder, create=False) as reader:
        contents(reader)
        assert store.repair().problems == ()
        assert contents(store) == contents(reader) == model
        assert_searches_are_right(store, model, sql)
        assert_searches_are_right(reader, model, sql)


if __name__ == "__main__":
    nursery()
