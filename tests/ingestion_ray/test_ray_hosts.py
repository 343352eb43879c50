"""A cluster of two hosts, and a database on a third: one host is lost, then the process that handed out the work."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import namespaces
import pytest
from namespaces import Network
from postgres_server import postgres_server
from ray_work import Told, ingest_plainly, open_folder, snapshot, telling_preset, write_files

from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.ingestion.shards_merge import merge_shards
from llama_index_mm.stores.opening import open_store
from llama_index_mm.testing import tiny_preset

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("ray") is None or find_spec("pyarrow") is None, reason="needs Ray: the extra ray"),
    pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not() or "-"),
]

FILES, COPIES, BROKEN = 180, 10, 6
BATCH = 5
SECONDS = 0.1  # that a text takes
RAY = Path(sys.executable).with_name("ray")
PORT = 6379
WAIT = 150

DRIVER = """
import sys
from ray_work import telling_preset
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.ray_run import ingest_with_ray
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.testing import tiny_preset

cluster, kind, sink, told, seconds, files, batch = sys.argv[1:]
report = ingest_with_ray(
    ShardStore.create(sink, tiny_preset()) if kind == "shards" else sink,
    telling_preset(told, float(seconds)),
    files,
    options=RayOptions(address=cluster, files_per_batch=int(batch)),
)
print(report)
"""


class Cluster:
    """Two hosts with Ray, each of two processors."""

    def __init__(self, network, folder):
        self.head, self.worker = network.host("head"), network.host("worker")
        self.folder = folder
        self.address = f"{self.head.address}:{PORT}"
        self._ray(self.head, "--head", "--port", PORT, "--num-cpus", 2, "--include-dashboard=false")
        self._wait(1)
        self._ray(self.worker, "--address", self.address, "--num-cpus", 2)
        self._wait(2)

    def _ray(self, host, *options):
        with (self.folder / f"{host.name}.log").open("w") as log:
            same = ["--block", "--node-ip-address", host.address, "--object-store-memory", 100 << 20, "--disable-usage-stats"]
            host.start(RAY, "start", *same, *options, stdout=log, stderr=log)

    def _wait(self, hosts):
        """Wait until so many hosts have joined."""
        code = (
            "import ray, sys, time\nend = time.monotonic() + 60\n"
            "while True:\n"
            "    try:\n        ray.init(address=sys.argv[1], log_to_driver=False)\n        break\n"
            "    except Exception:\n        if time.monotonic() > end: raise\n        time.sleep(0.5)\n"
            "while sum(one['Alive'] for one in ray.nodes()) < int(sys.argv[2]): time.sleep(0.2)"
        )
        asked = self.head.start(sys.executable, "-c", code, self.address, hosts, stdout=subprocess.DEVNULL)
        assert asked.wait(WAIT) == 0

    def drive(self, kind, sink, told, files):
        """Start a process that hands out the work."""
        return self.head.start(
            sys.executable, "-c", DRIVER, self.address, kind, sink, told, SECONDS, files, BATCH,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


@contextmanager
def cluster_of_two(folder):
    with Network(folder / "hosts") as network:
        yield network, Cluster(network, folder)


def wait_until(true, seconds=WAIT):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def stored_in_shards(folder):
    """What is stored, as class and body of nodes."""
    shards = ShardStore(folder)
    return [(one.body, one.class_name) for name in shards.parts() for one in shards.nodes(shards.part(name))]


@pytest.mark.parametrize("kind", ["shards", "postgres"])
def test_a_host_and_then_the_driver_are_killed(kind, make, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sys.path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = write_files(make, FILES, copies=COPIES, broken=BROKEN)
    began = time.monotonic()
    _, expected = ingest_plainly(tmp_path / "plain", files, telling_preset(tmp_path / "plain-told", SECONDS)())
    alone = time.monotonic() - began
    with ExitStack() as stack:
        network, cluster = stack.enter_context(cluster_of_two(tmp_path))
        if kind == "shards":
            sink = tmp_path / "shards"
            parts = sink / "parts"
            done = lambda: len(list(parts.glob("*.json"))) * BATCH  # noqa: E731
        else:
            host = network.host("database")
            prefix = ["ip", "netns", "exec", host.name]
            server = stack.enter_context(postgres_server(host=host.address, port=5432, prefix=prefix))
            sink = server.url
            done = lambda: _count(server)  # noqa: E731
        told = tmp_path / "told"
        began = time.monotonic()
        driver = cluster.drive(kind, sink, told, files)
        works = lambda: _encoding(told) & set(cluster.worker.pids())  # noqa: E731
        wait_until(lambda: (done() >= 30 and works()) or driver.poll() is not None)
        assert driver.poll() is None, driver.stdout.read()
        cluster.worker.kill()
        before = done()
        assert before < FILES - 60
        wait_until(lambda: done() >= before + 30 or driver.poll() is not None)
        assert driver.poll() is None, driver.stdout.read()
        driver.kill()
        driver.wait(30)
        wait_until(lambda: not any(b"MapWorker" in _command(one) for one in cluster.head.pids()))
        halfway = done()
        assert before < halfway < FILES
        kept = stored_in_shards(sink) if kind == "shards" else None
        again = cluster.drive(kind, sink, tmp_path / "told-again", files)
        output, _ = again.communicate(timeout=WAIT)
        assert again.returncode == 0, output
        on_ray = time.monotonic() - began
        if kind == "shards":
            store = stack.enter_context(open_folder(tmp_path / "merged", tiny_preset()))
            merge_shards(sink, store)
            encoded_again = set(Told.of(kept)) & set(Told(tmp_path / "told-again").texts())
            assert len(encoded_again) <= COPIES
        else:
            server.stop()
            server.host, server.prefix = "127.0.0.1", ()
            server.start()
            store = stack.enter_context(open_store(server.url))
            assert len(store.sources()) == FILES
        assert store.check().problems == ()
        assert_same(store, expected, exact=kind == "shards")
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kind}: {FILES} files, {len(expected['nodes'])} nodes; one process {alone:.1f} s; two hosts, of which one is "
            f"killed after {before} files, and a driver that is killed after {halfway} {on_ray:.1f} s\n"
        )


def assert_same(store, expected, *, exact):
    """The store holds what one process made: every node, vector and note once.

    Of equal files that two hosts took at the same time, a node points to either.
    """
    found = snapshot(store)
    assert found["sources"] == expected["sources"]
    assert sorted(found["nodes"]) == sorted(expected["nodes"])
    assert found["vectors"].keys() == expected["vectors"].keys()
    paths = {}
    for one in expected["sources"]:
        paths.setdefault(one.document_id, []).append(one.path)
    shared = {one for one, files in paths.items() if one is not None and len(files) > 1}
    for node_id, body in expected["nodes"].items():
        if exact or not any(one in body for one in shared):
            assert found["nodes"][node_id] == body
    for (space, node_id), vector in expected["vectors"].items():
        if exact or not any(one in expected["nodes"][node_id] for one in shared):
            assert found["vectors"][space, node_id] == vector


def _count(server):
    """Files of which the database has a note."""
    try:
        return int(server.ask("SELECT count(*) FROM llama_index_mm.sources")[0])
    except (RuntimeError, IndexError):  # there are no tables yet
        return 0


def _encoding(told):
    """Processes that have encoded something."""
    return {int(one.name.rpartition("-")[2]) for one in told.iterdir()} if told.is_dir() else set()


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
