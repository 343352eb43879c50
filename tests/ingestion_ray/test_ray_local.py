"""Ingestion by actors on one machine gives what ingestion in one process gives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import descendants, is_alive
from ray_work import Told, ingest_plainly, open_folder, other_weights, snapshot, telling_preset, write_files

from llama_index_mm.errors import ClusterError, SpaceError, StoreError
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.ray_run import ingest_with_ray
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.ingestion.shards_merge import merge_shards
from llama_index_mm.testing import tiny_preset

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # of what it does itself
]
pytest.importorskip("ray")
pytest.importorskip("pyarrow")
if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

FILES, COPIES, BROKEN = 120, 10, 8
BATCH = 16


@pytest.fixture(scope="module")
def files(make_once):
    return write_files(make_once, FILES, copies=COPIES, broken=BROKEN)


@pytest.fixture(scope="module")
def plain(files, tmp_path_factory):
    return ingest_plainly(tmp_path_factory.mktemp("plain") / "store", files)


@pytest.fixture(scope="module")
def sharded(ray, files, tmp_path_factory):
    """Shards of all files, and the report of the run."""
    shards = ShardStore.create(tmp_path_factory.mktemp("sharded") / "shards", tiny_preset())
    report = ingest_with_ray(shards, tiny_preset, files, options=RayOptions(files_per_batch=BATCH))
    return shards, report


def test_same_as_one_process(sharded, plain, tmp_path):
    shards, report = sharded
    single, expected = plain
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        merged = merge_shards(shards, store)
        assert snapshot(store) == expected
        assert store.check().problems == ()
        assert (merged.documents, merged.nodes) == (single.added, single.nodes)
        assert (merged.duplicates, merged.failed) == (single.duplicates, BROKEN) == (COPIES, BROKEN)
        again = merge_shards(shards, store)
        assert (again.documents, again.nodes, again.unchanged) == (0, 0, FILES - BROKEN)
        assert snapshot(store) == expected
    assert len(report.problems) == BROKEN
    assert {str(one) for one in report.problems} == {str(one) for one in single.problems}
    assert report.added + report.duplicates == single.added + single.duplicates


def test_what_is_known_is_not_encoded_again(sharded, files, tmp_path):
    shards, _ = sharded
    parts = shards.parts()
    again = ingest_with_ray(shards, telling_preset(tmp_path / "told"), files, options=RayOptions(files_per_batch=BATCH))
    assert (again.added, again.unchanged, again.nodes, len(again.problems)) == (0, FILES - BROKEN, 0, BROKEN)
    assert Told(tmp_path / "told").texts() == {}
    assert shards.parts() == parts


def test_what_the_index_knows_is_not_encoded_again(sharded, files, tmp_path, make):
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        merge_shards(sharded[0], store)
        more = make.text("more/new.txt", "one more")
        shards = ShardStore.create(tmp_path / "two", tiny_preset())
        report = ingest_with_ray(shards, telling_preset(tmp_path / "told"), [files, more], index=store)
        assert (report.added, report.unchanged) == (1, FILES - BROKEN)
        assert sum(Told(tmp_path / "told").texts().values()) == 1
        merge_shards(shards, store)
        assert len(store.sources()) == FILES + 1


def _sharded(files, folder):
    shards = ShardStore.create(folder, tiny_preset())
    ingest_with_ray(shards, tiny_preset, files, options=RayOptions(files_per_batch=BATCH))
    return shards


def test_changed_and_gone_files(ray, make, tmp_path):
    for at in range(6):
        make.text(f"files/{at}.txt", f"text number {at}")
    folder = tmp_path / "files"
    shards = _sharded(folder, tmp_path / "shards")
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        merge_shards(shards, store)
        make.text("files/0.txt", "another text")
        (folder / "1.txt").unlink()
        dry = ingest_with_ray(shards, tiny_preset, folder, dry_run=True, prune=True)
        report = ingest_with_ray(shards, tiny_preset, folder, prune=True)
        assert (report.added, report.unchanged, report.removed) == (1, 4, 1) == (dry.added, dry.unchanged, dry.removed)
        merged = merge_shards(shards, store)
        assert (merged.documents, merged.removed, merged.unchanged) == (1, 1, 4)
        _, expected = ingest_plainly(tmp_path / "plain", folder)
        assert snapshot(store) == expected
        merge_shards(shards, store)
        assert snapshot(store) == expected


def test_a_file_that_kills_its_process_is_noted(ray, make, tmp_path):
    for at in range(9):
        make.text(f"files/{at}.txt", f"text number {at}" + (" is deadly" if at == 5 else ""))
    shards = ShardStore.create(tmp_path / "shards", tiny_preset())
    options = RayOptions(files_per_batch=3, retries=1)
    report = ingest_with_ray(shards, telling_preset(tmp_path / "told"), tmp_path / "files", options=options)
    assert (report.added, report.nodes) == (8, 8)
    (problem,) = report.problems
    assert problem.name == str(tmp_path / "files/5.txt")
    assert problem.reason == (
        "5.txt can't be worked on: the process that did so was lost 2 times. It may take too much memory."
    )
    notes = {Path(one.path).name: one.status for one in shards.sources()}
    assert notes == {f"{at}.txt": "failed" if at == 5 else "indexed" for at in range(9)}
    counts = Told(tmp_path / "told").texts()
    assert max(counts.values()) == 4  # twice with its batch, twice alone


def test_errors_are_of_this_package(ray, make, tmp_path):
    make.text("files/one.txt", "one")
    with pytest.raises(StoreError, match=r"Many processes can't write to the folder"):
        ingest_with_ray(str(tmp_path / "folder"), tiny_preset, tmp_path / "files")
    shards = ShardStore.create(tmp_path / "shards", tiny_preset())
    with pytest.raises(ClusterError, match=r"has 2 CPUs and 0 GPUs; an actor takes 4 and 0, and 1 CPUs stay free"):
        ingest_with_ray(shards, tiny_preset, tmp_path / "files", options=RayOptions(cpus_per_actor=4))
    with pytest.raises(SpaceError, match=r"Space 'text' of the shards in .* is of 32 dimensions"):
        ingest_with_ray(shards, other_weights(os.getpid()), tmp_path / "files")
    assert shards.parts() == []


DRIVER = """
import signal
import sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
from pathlib import Path
from ray_work import telling_preset
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.ray_run import ingest_with_ray
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.testing import tiny_preset

files, shards, told = sys.argv[1:]
import ray
ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
report = ingest_with_ray(
    ShardStore.create(shards, tiny_preset()), telling_preset(told, 0.05), files, options=RayOptions(files_per_batch=6)
)
print(report)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_was_stopped_goes_on(kind, make, tmp_path, monkeypatch):
    files = write_files(make, 60)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sys.path)))

    def start(told):
        command = [sys.executable, "-c", DRIVER, files, tmp_path / "shards", told]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    driver = start(tmp_path / "first")
    parts = tmp_path / "shards/parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.json"))) < 3 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.05)
    started = descendants(driver.pid)
    assert len(started) > 3
    driver.send_signal(kind)
    _, said = driver.communicate(timeout=90)
    assert driver.returncode != 0
    assert ("KeyboardInterrupt" in said) == (kind == signal.SIGINT)
    deadline = time.monotonic() + 60
    while (left := [one for one in started if _works(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for one in filter(is_alive, started):  # Ray's own agents outlive a driver that was killed
        os.kill(one, signal.SIGKILL)
    assert left == [], "actors or decoders stayed behind"

    shards = ShardStore(tmp_path / "shards")
    stored = [node for name in shards.parts() for node in shards.nodes(shards.part(name))]
    assert 3 <= len(shards.parts()) < 10
    again = start(tmp_path / "second")
    told, said = again.communicate(timeout=200)
    assert again.returncode == 0, said
    before = Told.of((one.body, one.class_name) for one in stored)
    assert not set(before) & set(Told(tmp_path / "second").texts()), "what was stored was encoded again"
    unchanged = sum(len(shards.part(name).sources) for name in shards.parts()[:1])
    assert unchanged == 6
    assert "not taken" in told
    assert not list(shards.folder.rglob("*.part"))
    _, expected = ingest_plainly(tmp_path / "plain", files)
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        merge_shards(shards, store)
        assert snapshot(store) == expected


def _works(pid):
    """Whether this is an actor, or a process that decodes."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return is_alive(pid) and (b"MapWorker" in command or b"llama_index_mm" in command)
