"""A folder as an attacker, or twenty years of a disk, would fill it: nothing bad is taken, nothing good is lost."""

import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("pypdf")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")

from hostile_files import TAKEN, cases, good, picture

from llama_index_mm.stores import MediaStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, inotify, names that are no text")

SECONDS = 120  # that a run may take
MEMORY = 1_500  # MB that all processes of a run may have together


def special(folder, outside):
    """What is no file, or not one's own; and what is said of each."""
    missing, irregular = r"Expected a regular file, but \S*NAME is missing", r"but \S*NAME is no regular file"
    (folder / "round 1.png").symlink_to("round 2.png")
    (folder / "round 2.png").symlink_to("round 1.png")
    (folder / "itself.wav").symlink_to("itself.wav")
    (folder / "nowhere.obj").symlink_to("not there.obj")
    (folder / "secret.png").symlink_to(outside / "secret.png")
    (folder / "stairs.txt").symlink_to("../outside/secret.txt")
    (folder / "outside").symlink_to(outside)
    (folder / "everything").symlink_to("/")
    (folder / "again").symlink_to(".")
    (folder / "second name.txt").symlink_to("good 1.txt")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.txt")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        here = os.open(folder, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{here}/socket.wav")  # the whole path may be too long for a socket
        os.close(here)
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.txt").write_text("in a folder with an ending")
    (folder / "empty folder.wav").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("a name in Latin-1")
    return {
        "round 1.png": missing,
        "round 2.png": missing,
        "itself.wav": missing,
        "nowhere.obj": missing,
        "secret.png": r"^\S+ is a link that leads out of \S+, to \S+secret\.png",
        "stairs.txt": r"^\S+ is a link that leads out of \S+, to \S+secret\.txt",
        "outside": r"^\S+ is a link that leads out of \S+, to \S+outside",
        "everything": r"^\S+ is a link that leads out of \S+, to /\.",
        "second name.txt": TAKEN,
        "pipe.png": irregular,
        "pipe.txt": irregular,
        "socket.wav": irregular,
        "folder.png/inside.txt": TAKEN,
        "caf\\xe9.txt": r"^The name of NAME is not UTF-8\. Rename it\.$",
    }


RUN = """
import json, sys
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import ingestor, run
from llama_index_mm.media import MediaLimits
from llama_index_mm.media.pool import DecodePool
from llama_index_mm.testing import tiny_preset

submitted, encoded = [], []


class Counting(DecodePool):
    def submit(self, path, modality):
        submitted.append(str(path))
        return super().submit(path, modality)


def encode(nodes, *rest):
    encoded.extend(node.node_id for node in nodes)
    return encode_nodes(nodes, *rest)


encode_nodes = run.encode_nodes
ingestor.DecodePool, run.encode_nodes = Counting, encode
store, folder, retry = sys.argv[1:]
with MultiModalIndex.open(store, preset=tiny_preset(), create=True) as index:
    limits = MediaLimits(decode_seconds=20, seconds=3600)
    report = index.ingest(folder, media_limits=limits, retry_failed=retry == "retry")
problems = [[str(one.path), one.reason] for one in report.problems]
found = {"added": report.added, "unchanged": report.unchanged, "duplicates": report.duplicates, "seconds": report.seconds}
print(json.dumps({**found, "problems": problems, "submitted": submitted, "encoded": encoded}))
"""


def family(pid):
    """A process, and all that it started."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found, before = {pid}, set()
    while found != before:
        before = set(found)
        found |= {one for one, parent in parents.items() if parent in found}
    return found


def peak(pids):
    """MB that these processes had at most, each at its own worst moment."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            total += sum(map(int, re.findall(r"VmHWM:\s+(\d+) kB", status)))
    return total // 1000


def run(store, folder, retry="no"):
    """One run in a process of its own: what it says, and the MB that it took together with its workers."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(store), str(folder), retry], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    began, most = time.monotonic(), 0
    while True:
        try:
            out, told = process.communicate(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            most = max(most, peak(family(process.pid)))
            if time.monotonic() - began > SECONDS:
                process.kill()
    assert process.returncode == 0, told[-3000:]
    return json.loads(out.splitlines()[-1]) | {"peak": most, "told": told, "wall": time.monotonic() - began}


class Watch:
    """Tells what is opened or read in a folder, by whichever process (inotify)."""

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self._number = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        opened, accessed = 0x20, 0x1
        assert libc.inotify_add_watch(self._number, os.fsencode(folder), opened | accessed) > 0

    def seen(self):
        """Names of the files, as the system gives them."""
        try:
            return os.read(self._number, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self):
        os.close(self._number)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A first run over the folder, a second one, and one that tries again what failed."""
    place = tmp_path_factory.mktemp("hostile")
    folder, outside, store = place / "files", place / "outside", place / "store"
    folder.mkdir(), outside.mkdir()
    for name in ("secret", "secret.png", "secret.bin", "secret.mtl", "secret.txt"):
        (outside / name).write_bytes(picture("PNG"))
    wanted = {}
    for name, (data, reason) in cases(outside).items():
        (folder / name).write_bytes(data)
        wanted[name] = reason
    for name, data in good().items():
        (folder / name).write_bytes(data)
        wanted[name] = TAKEN
    wanted |= special(folder, outside)
    if os.geteuid() != 0:  # who may read everything all the same
        (folder / "shut.txt").write_text("not for you")
        (folder / "shut.txt").chmod(0)
        wanted["shut.txt"] = r"^NAME can't be read: Permission denied\.$"
    watch = Watch(outside)
    first = run(store, folder)
    seen = watch.seen()
    second, third = run(store, folder), run(store, folder, "retry")
    (outside / "secret").read_bytes()
    assert b"secret" in watch.seen()  # the watch was awake
    watch.close()
    return {"first": first, "second": second, "third": third, "wanted": wanted, "seen": seen, "folder": folder, "store": store}


def told(which, folder):
    """Reasons by names below the folder."""
    return {path.removeprefix(f"{folder}/"): reason for path, reason in which["problems"]}


def test_every_file_is_told_what_it_deserves(runs):
    reasons = told(runs["first"], runs["folder"])
    assert len(reasons) == len(runs["first"]["problems"])
    wrong = {}
    for name, wanted in runs["wanted"].items():
        reason = reasons.pop(name, "")
        pattern = wanted.replace("NAME", re.escape(Path(name).name))
        if not (re.search(pattern, reason) if wanted and reason else wanted == reason == TAKEN):
            wrong[name] = (reason, wanted)
    assert wrong == {}
    assert reasons == {}


def test_there_are_many(runs):
    bad = [name for name, wanted in runs["wanted"].items() if wanted]
    assert len(bad) >= 90


def test_reasons_are_sentences(runs):
    """They name the file, and no one has to know Python to read them."""
    for path, reason in runs["first"]["problems"]:
        assert Path(path).name in reason
        assert re.search(r"[.?]$|^No decoder for ", reason), reason
        assert len(reason) < 700
        assert not re.search(r"Traceback|\w(Error|Exception|Warning)\b|object at 0x|<class|\bNone\b|[Ee]rrno", reason)
        assert not re.search(r"^b?['\"]|\[Errno", reason)


def test_every_good_file_is_found(runs):
    good_ones = {f"{runs['folder']}/{name}" for name, wanted in runs["wanted"].items() if wanted == TAKEN}
    with MediaStore(runs["store"], create=False) as store:
        indexed = {one.path: one.document_id for one in store.sources(status="indexed")}
        assert set(indexed) == good_ones
        documents = {node.ref_doc_id for node in store.nodes(store.find().tolist()).values()}
        assert documents == set(indexed.values())
        assert set(store.counts()) == {"text", "image", "audio", "mesh"}
        assert all(count >= 10 for count in store.counts().values())
        assert store.check().problems == ()
    first = runs["first"]
    assert first["added"] + first["duplicates"] == len(good_ones)


def test_a_run_ends_in_time_and_memory(runs):
    assert max(runs[one]["wall"] for one in ("first", "second", "third")) < SECONDS
    assert max(runs[one]["peak"] for one in ("first", "second", "third")) < MEMORY


def test_nothing_outside_was_opened(runs):
    assert runs["seen"] == b""


def test_what_was_refused_is_not_decoded_again(runs):
    first, second = runs["first"], runs["second"]
    assert (second["submitted"], second["encoded"], second["added"], second["duplicates"]) == ([], [], 0, 0)
    assert second["unchanged"] == first["added"] + first["duplicates"]
    assert told(second, runs["folder"]) == told(first, runs["folder"])


def test_what_was_refused_is_tried_again_if_that_is_asked(runs):
    first, third = runs["first"], runs["third"]
    reasons = told(first, runs["folder"])
    tried = {path.removeprefix(f"{runs['folder']}/") for path in first["submitted"]} & set(reasons)
    assert {path.removeprefix(f"{runs['folder']}/") for path in third["submitted"]} == tried
    assert len(tried) > 60
    assert third["encoded"] == []
    assert told(third, runs["folder"]) == reasons
