"""Shards without a cluster: what is written is read, merged once, and refused where it does not fit."""

import json

import pytest
from ray_work import ingest_plainly, open_folder, snapshot, write_files

from llama_index_mm.errors import SpaceError, StoreError
from llama_index_mm.ingestion.ray_actor import Batch, Outcome, report_from, report_to
from llama_index_mm.ingestion.ray_options import RayOptions
from llama_index_mm.ingestion.report import IngestReport
from llama_index_mm.ingestion.shards import ShardStore, write_whole
from llama_index_mm.ingestion.shards_merge import MergeReport, merge_shards
from llama_index_mm.ingestion.shards_sink import ShardSink
from llama_index_mm.nodes import node_to_json
from llama_index_mm.readers import Problem
from llama_index_mm.stores import Record, Source
from llama_index_mm.testing import tiny_preset

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def plain(make_once, tmp_path_factory):
    """A store of some files, and all that it holds."""
    folder = tmp_path_factory.mktemp("plain") / "store"
    _, held = ingest_plainly(folder, write_files(make_once, 32, copies=2, broken=3))
    return folder, held


def records_of(folder):
    """What is in a store, by document."""
    found = {}
    with open_folder(folder, tiny_preset()) as store:
        nodes = store.nodes(store.find().tolist())
        vectors = {seq: {} for seq in nodes}
        for space, modality in store.partitions():
            seqs = store.find(space=space, modalities=[modality]).tolist()
            for seq, vector in zip(seqs, store.vectors(space, modality, seqs), strict=True):
                vectors[seq][space] = vector
        for seq, node in nodes.items():
            found.setdefault(node.ref_doc_id or node.node_id, []).append(Record(node, vectors[seq]))
        return found, store.sources()


@pytest.fixture
def shards(plain, tmp_path):
    """The same as shards of three parts."""
    made = ShardStore.create(tmp_path / "shards", tiny_preset())
    found, sources = records_of(plain[0])
    run = made.new_run()
    for at in range(3):
        sink = ShardSink(made)
        some = sources[at::3]
        wanted = [one.document_id for one in some if one.document_id]
        sink.add([record for one in dict.fromkeys(wanted) for record in found[one]], some, wanted)
        sink.write(f"{run}-{at}", {"added": at})
    return made


def test_merged_shards_are_the_store(shards, plain, tmp_path):
    expected = plain[1]
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        report = merge_shards(shards.folder, store)
        assert report == MergeReport(
            parts=3,
            documents=27,
            nodes=len(expected["nodes"]),
            vectors={"text": len(expected["nodes"]), "picture": report.vectors["picture"], "sound": report.vectors["sound"]},
            duplicates=2,
            failed=3,
        )
        assert sum(report.vectors.values()) == len(expected["vectors"])
        assert store.check().problems == ()
        held = snapshot(store)
        assert held["vectors"] == expected["vectors"]
        assert held["sources"] == expected["sources"]
        assert held["nodes"].keys() == expected["nodes"].keys()
        again = merge_shards(shards, store)
        assert again == MergeReport(parts=3, unchanged=29)
        assert snapshot(store) == held


def test_what_is_read_is_what_was_written(shards, plain):
    found, _ = records_of(plain[0])
    written = {record.node.node_id: record for some in found.values() for record in some}
    read = [one for name in shards.parts() for one in shards.nodes(shards.part(name))]
    assert {one.node_id for one in read} == set(written)
    for one in read:
        record = written[one.node_id]
        assert node_to_json(shards.media.unpack(one.body, one.class_name)) == node_to_json(record.node)
        assert one.document_id == (record.node.ref_doc_id or record.node.node_id)
        assert {space: vector.tobytes() for space, vector in one.vectors.items()} == {
            space: vector.tobytes() for space, vector in record.vectors.items()
        }
    assert [shards.part(name).report for name in shards.parts()] == [{"added": 0}, {"added": 1}, {"added": 2}]


def test_the_last_note_on_a_file_holds(shards, plain, tmp_path):
    found, sources = records_of(plain[0])
    first, second = [one for one in sources if one.document_id][:2]
    run = shards.new_run()
    sink = ShardSink(shards, sources)
    sink.release(first.path)
    sink.note_sources([Source(second.path, "", "failed", "It is gone bad.")])
    sink.write(f"{run}-0", {})
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        merge_shards(shards, store)
        left = {one.path: one for one in store.sources()}
        assert left.keys() == {one.path for one in sources} - {first.path}
        assert left[second.path] == Source(second.path, "", "failed", "It is gone bad.")
        assert [one.path for one in shards.sources()] == sorted(left)
        shared = {one.document_id for one in sources if one.path not in (first.path, second.path)}
        gone = {one.document_id for one in (first, second)} - shared
        assert len(store) == sum(len(some) for document, some in found.items() if document not in gone)


def test_files_of_the_shards_become_files_of_the_store(plain, tmp_path):
    made = ShardStore.create(tmp_path / "shards", tiny_preset())
    found, _ = records_of(plain[0])
    mesh = next(some[0] for some in found.values() if getattr(some[0].node, "views", None))
    sheet = mesh.node.views.read_bytes()
    kept = made.keep(sheet, ".png")
    node = mesh.node.model_copy(deep=True)
    node.metadata["mm_views"] = str(kept)
    sink = ShardSink(made)
    sink.add([Record(node, mesh.vectors)], [Source("/a.obj", "1", "indexed", document_id=node.ref_doc_id or node.node_id)])
    sink.write(f"{made.new_run()}-0", {})
    with open_folder(tmp_path / "store", tiny_preset()) as store:
        merge_shards(made, store)
        (stored,) = store.nodes(store.find().tolist()).values()
        assert stored.views == store.media_folder / kept.relative_to(made.media.folder)
        assert stored.views.read_bytes() == sheet


def test_other_weights_and_presets_are_refused(shards, tmp_path):
    facts = json.loads((shards.folder / "shards.json").read_text())
    with open_folder(tmp_path / "other", tiny_preset("other")) as store, pytest.raises(SpaceError, match="preset 'other'"):
        merge_shards(shards, store)
    with pytest.raises(SpaceError, match=r"were made with preset 'tiny', not 'other'"):
        ShardStore.create(shards.folder, tiny_preset("other"))
    facts["spaces"]["text"][1] = "0" * 16
    (shards.folder / "shards.json").write_text(json.dumps(facts))
    with open_folder(tmp_path / "same", tiny_preset()) as store, pytest.raises(SpaceError, match="fingerprint"):
        merge_shards(shards.folder, store)
    with pytest.raises(SpaceError, match=r"Space 'text' of the shards in .* fingerprint 0{16}; that of preset 'tiny'"):
        ShardStore.create(shards.folder, tiny_preset())


def test_damage_is_told(shards, tmp_path):
    with pytest.raises(StoreError, match="There are no shards in"):
        ShardStore(tmp_path / "nowhere")
    name = shards.parts()[1]
    array = next((shards.folder / "parts").glob(f"{name}.text.npy"))
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(data)
    with pytest.raises(StoreError, match=rf"Part {name} .* is damaged: {name}.text.npy has changed. Remove .* ingest again"):
        shards.nodes(shards.part(name))
    (shards.folder / "parts" / f"{name}.json").write_text("{")
    with pytest.raises(StoreError, match=rf"Part {name} .* is damaged"):
        shards.part(name)
    (shards.folder / "shards.json").write_text('{"version": 99}')
    with pytest.raises(StoreError, match=r"of version 99; this package reads version 1"):
        ShardStore(shards.folder)


def test_a_file_that_is_not_whole_is_not_there(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        write_whole(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


def test_runs_are_in_order(shards):
    (first, *_) = shards.parts()
    assert first.startswith("000001-")
    assert shards.new_run().startswith("000002-")


def test_batches_and_reports_survive_json():
    batch = Batch("1-0", ("/a/\udcff.txt", "s3://b/c"), (Source("/a", "12", "failed", "why"),))
    assert Batch.from_json(batch.to_json()) == batch
    report = IngestReport(1, 2, 3, 4, [Problem.of("s3://b/c", "no"), Problem.of("/a", "no")], 5)
    assert report_from(json.loads(json.dumps(report_to(report)))) == report
    assert Outcome("1").report is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "ray://host:10001"}, r"does not run through a Ray client \(ray://host:10001\)"),
        ({"actors": 0}, "Expected actors of at least 1, got 0"),
        ({"files_per_batch": 0}, "Expected files_per_batch of at least 1, got 0"),
        ({"retries": -1}, "Expected retries of at least 0, got -1"),
        ({"headroom_cpus": -1}, "Expected headroom_cpus of at least 0, got -1"),
        ({"cpus_per_actor": 0}, "Expected cpus_per_actor above 0, got 0"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(ValueError, match=said):
        RayOptions(**options)
