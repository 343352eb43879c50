"""``MultiModalIndex.ingest(engine="ray")`` and ``merge``: an index in a folder, and one in PostgreSQL."""

import sys

import pytest
from postgres_server import postgres_server
from ray_work import snapshot, write_files

from llama_index_mm import MultiModalIndex, RayOptions
from llama_index_mm.errors import ModelError, QueryError
from llama_index_mm.ingestion.shards import ShardStore
from llama_index_mm.testing import tiny_preset

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # of what it does itself
]
pytest.importorskip("ray")
pytest.importorskip("pyarrow")
if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

OPTIONS = RayOptions(files_per_batch=12, preset=tiny_preset)


@pytest.fixture(scope="module")
def files(make_once):
    return write_files(make_once, 60, copies=4, broken=3)


@pytest.fixture(scope="module")
def plain(files, tmp_path_factory):
    with MultiModalIndex.open(tmp_path_factory.mktemp("plain"), preset=tiny_preset(), create=True) as index:
        index.ingest(files, num_workers=0)
        return snapshot(index.store), best(index)


def best(index):
    return [(one.node.node_id, one.score) for one in index.as_retriever(similarity_top_k=9).retrieve("a gull and a boat")]


def ingest(index, files, options=OPTIONS, **more):
    return index.ingest(files, engine="ray", ray=options, **more)


def test_an_index_in_a_folder(ray, files, plain, tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        looked = ingest(index, files, dry_run=True)
        assert (looked.added, len(index.store)) == (56, 0)  # of which three are broken
        report = ingest(index, files)
        assert (report.added + report.duplicates, len(report.problems)) == (57, 3)
        assert (snapshot(index.store), best(index)) == plain  # which needs the same calibration
        assert not (tmp_path / "index" / "shards").exists()
        again = ingest(index, files)
        assert (again.added, again.unchanged, len(again.problems)) == (0, 57, 3)
        assert snapshot(index.store) == plain[0]


def test_shards_that_stay(ray, files, plain, tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        ingest(index, files, RayOptions(files_per_batch=12, preset=tiny_preset, shards=tmp_path / "shards"))
        assert snapshot(index.store) == plain[0]
    assert len(ShardStore(tmp_path / "shards").parts()) >= 5
    with MultiModalIndex.open(tmp_path / "other", preset=tiny_preset(), create=True) as other:
        report = other.merge(tmp_path / "shards")
        assert (report.documents, report.failed) == (53, 3)
        assert (snapshot(other.store), best(other)) == plain
        assert other.merge(tmp_path / "shards").nodes == 0


def test_an_index_in_postgres(ray, files, plain):
    with postgres_server() as there, MultiModalIndex.open(there.url, preset=tiny_preset(), create=True) as index:
        report = ingest(index, files)
        assert (report.added + report.duplicates, len(report.problems)) == (57, 3)
        found = snapshot(index.store)
        assert found == plain[0]
        assert [node_id for node_id, _ in best(index)][:3] == [node_id for node_id, _ in plain[1]][:3]
        assert ingest(index, files).unchanged == 57


def test_what_can_not_be(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        with pytest.raises(QueryError, match="local, ray"):
            index.ingest(tmp_path, engine="spark")
        with pytest.raises(ModelError, match="RayOptions"):
            index.ingest(tmp_path, engine="ray")
