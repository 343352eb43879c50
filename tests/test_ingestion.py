import itertools

import pytest
from llama_index.core.schema import Document

from llama_index_mm.errors import DecodeError, EncodeError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.ingestion import Ingestor, IngestReport, encode_nodes
from llama_index_mm.media import digest_file
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia
from llama_index_mm.readers.media import document_of
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.testing import tiny_preset

pytest.importorskip("av")
pytest.importorskip("faster_whisper")
pytest.importorskip("open3d")


@pytest.fixture
def index(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as opened:
        yield opened


def write_good(make):
    """One file of each modality."""
    return [
        make.text("files/a letter.txt", "The lighthouse keeper had a red boat."),
        make.picture("files/red-door.png", "red"),
        make.tone("files/whistle.wav", 800),
        make.obj("files/stool.obj"),
    ]


def write_bad(make):
    """Files that can't be taken, and what is said of each."""
    jpeg = make.picture("files/torn.jpg", size=(64, 64))
    jpeg.write_bytes(jpeg.read_bytes()[:-300])
    return {
        jpeg: "torn.jpg can't be decoded as a picture",
        make.text("files/hollow.obj", "# no faces\n"): "at least one face is needed",
        make.text("files/letter.wav", "Dear all, this is a text.\n" * 9): "letter.wav can't be decoded as sound",
        make.bytes("files/nothing.png", b""): "nothing.png is empty (0 bytes).",
        make.text("files/notes.xyz", "?"): "No decoder for '.xyz' (notes.xyz).",
        make.bytes("files/old.txt", "Grüße".encode("latin-1")): "old.txt is not text in UTF-8",
        make.text("files/blank.md", "\n \n"): "blank.md has nothing but white space.",
    }


def found(index, query, **options):
    """File names of the results, best first."""
    return [hit.node.metadata["file_name"] for hit in index.as_retriever(**options).retrieve(query)]


def stored(index):
    """Every node with its vectors' spaces, for comparison."""
    store = index.store
    nodes = {node.node_id: node.model_dump() for node in store.nodes(store.find().tolist()).values()}
    return nodes, store.partitions(), [(one.path, one.digest, one.status, one.document_id) for one in store.sources()]


def test_good_files_are_stored_and_bad_ones_are_told_apart(index, make):
    good, bad = write_good(make), write_bad(make)
    report = index.ingest(make.folder / "files")
    assert (report.added, report.unchanged, report.duplicates, report.nodes) == (4, 0, 0, 4)
    assert {problem.path for problem in report.problems} == set(bad)
    for problem in report.problems:
        assert bad[problem.path] in problem.reason
    assert str(report) == "4 added (4 nodes), 0 unchanged, 7 not taken"
    assert index.store.counts() == {"text": 1, "image": 1, "audio": 1, "mesh": 1}
    assert {one.path for one in index.store.sources(status="indexed")} == {str(path) for path in good}
    failed = {one.path: one.reason for one in index.store.sources(status="failed")}
    assert failed == {str(problem.path): problem.reason for problem in report.problems}


def test_every_modality_is_found(index, make):
    good = write_good(make)
    index.ingest(good)
    assert found(index, "a red boat", similarity_top_k=1) == ["a letter.txt"]
    assert found(index, MediaQuery(image=make.picture("asked.png", "red"), modalities=["image"])) == ["red-door.png"]
    assert found(index, MediaQuery(audio=make.tone("asked.wav", 810))) == ["whistle.wav"]
    assert found(index, MediaQuery(mesh=make.obj("asked.obj"), modalities=["mesh"])) == ["stool.obj"]


def test_what_nodes_hold(index, make):
    index.ingest(write_good(make))
    nodes = {node.metadata["file_name"]: node for node in index.store.nodes(index.store.find().tolist()).values()}
    assert type(nodes["red-door.png"]) is ImageMedia
    assert nodes["red-door.png"].metadata["mm_width"] == 24
    whistle = nodes["whistle.wav"]
    assert type(whistle) is AudioMedia
    assert (whistle.start, whistle.end, whistle.seconds, whistle.speech, whistle.text) == (0.0, 1.0, 1.0, False, "whistle")
    stool = nodes["stool.obj"]
    assert type(stool) is MeshMedia
    assert stool.views.is_file()
    assert index.store.folder.resolve() in stool.views.parents
    for name, node in nodes.items():
        assert node.ref_doc_id == digest_file(make.folder / "files" / name)[:32]


def test_second_run_changes_nothing(index, make):
    write_good(make), write_bad(make)
    index.ingest(make.folder / "files")
    before = stored(index)
    report = index.ingest(make.folder / "files")
    assert (report.added, report.unchanged, report.duplicates, report.nodes, len(report.problems)) == (0, 4, 0, 0, 7)
    assert stored(index) == before


def test_second_run_encodes_nothing(index, make, monkeypatch):
    write_good(make)
    index.ingest(make.folder / "files")
    monkeypatch.setattr("llama_index_mm.ingestion.run.encode_nodes", lambda *_: pytest.fail("encoded"))
    monkeypatch.setattr("llama_index_mm.ingestion.run.document_of", lambda *_: pytest.fail("read"))
    assert index.ingest(make.folder / "files").unchanged == 4


def test_mended_file_is_taken(index, make):
    path = make.bytes("files/a.png", b"no picture")
    assert len(index.ingest(path).problems) == 1
    make.picture("files/a.png")
    report = index.ingest(path)
    assert (report.added, report.problems) == (1, [])
    assert index.store.source(str(path)).status == "indexed"


def test_changed_file_replaces_its_nodes(index, make):
    path = make.text("files/a.txt", "about apples " * 400)
    other = make.text("files/b.txt", "about pears")
    index.ingest(make.folder / "files")
    assert len(index.store) > 3
    make.text("files/a.txt", "about plums")
    report = index.ingest(make.folder / "files")
    assert (report.added, report.unchanged) == (1, 1)
    texts = {node.get_content() for node in index.store.nodes(index.store.find().tolist()).values()}
    assert texts == {"about plums", "about pears"}
    assert [one.path for one in index.store.sources()] == [str(path), str(other)]


def test_file_that_breaks_later_is_no_longer_found(index, make):
    path, other = make.picture("files/a.png"), make.picture("files/b.png", "blue")
    index.ingest(make.folder / "files")
    path.write_bytes(b"")
    report = index.ingest(make.folder / "files")
    assert (report.unchanged, [problem.path for problem in report.problems]) == (1, [path])
    assert [(one.path, one.status) for one in index.store.sources()] == [(str(path), "failed"), (str(other), "indexed")]
    assert found(index, MediaQuery(image=other, modalities=["image"])) == ["b.png"]


def test_file_that_breaks_and_is_mended_with_other_content(index, make):
    path = make.picture("a.png")
    index.ingest(path)
    path.write_bytes(b"")
    index.ingest(path)
    make.picture("a.png", "blue")
    index.ingest(path)
    assert len(index.store) == 1


def test_duplicates_share_their_nodes(index, make):
    first, second = make.picture("files/a.png"), make.picture("files/b.png")
    report = index.ingest(make.folder / "files")
    assert (report.added, report.duplicates, report.nodes) == (1, 1, 1)
    assert str(report) == "1 added (1 nodes), 0 unchanged, 1 duplicates, 0 not taken"
    assert len(index.store) == 1
    document = digest_file(first)[:32]
    assert [one.path for one in index.store.sources(document_id=document)] == [str(first), str(second)]
    third = make.picture("files/c.png")
    assert (index.ingest(third).duplicates, len(index.store)) == (1, 1)
    again = index.ingest(make.folder / "files")
    assert (again.unchanged, again.added, again.duplicates) == (3, 0, 0)


@pytest.mark.parametrize(
    "changed",
    [
        "a.png",
        "b.png",
    ],
)
def test_one_of_two_duplicates_changes(index, make, changed):
    make.picture("files/a.png"), make.picture("files/b.png")
    index.ingest(make.folder / "files")
    make.picture(f"files/{changed}", "blue")
    assert index.ingest(make.folder / "files").added == 1
    assert len(index.store) == 2
    assert found(index, MediaQuery(image=make.picture("asked.png", "blue"), modalities=["image"]))[0] == changed
    for node in index.store.nodes(index.store.find().tolist()).values():
        assert digest_file(node.path) == node.digest


def test_both_duplicates_change(index, make):
    make.picture("files/a.png"), make.picture("files/b.png")
    index.ingest(make.folder / "files")
    make.picture("files/a.png", "blue"), make.picture("files/b.png", "lime")
    assert index.ingest(make.folder / "files").added == 2
    assert len(index.store) == 2


def test_deleted_document_of_two_duplicates(index, make):
    path = make.picture("files/a.png")
    make.picture("files/b.png")
    index.ingest(make.folder / "files")
    assert index.delete_ref_doc(digest_file(path)[:32]) == 1
    assert (len(index.store), index.store.sources()) == (0, [])
    report = index.ingest(make.folder / "files")
    assert (report.added, report.duplicates, len(index.store)) == (1, 1, 1)


def test_one_path_given_twice(index, make):
    path = make.picture("a.png")
    report = index.ingest([path, str(path), path.parent / "." / "a.png"])
    assert (report.added, report.duplicates, report.unchanged) == (1, 0, 0)


def test_many_files_are_stored_in_batches(index, make):
    for number in range(40):
        make.text(f"files/{number}.txt", f"number {number}")
    sizes = []
    add = index.store.add
    index.store.add = lambda records, *rest, **options: (sizes.append(len(records)), add(records, *rest, **options))
    report = index.ingest(make.folder / "files")
    assert (report.added, report.nodes, len(index.store)) == (40, 40, 40)
    assert max(sizes) <= 16


def test_one_bad_item_does_not_take_its_batch_along(index, make, monkeypatch):
    paths = [make.text(f"files/{number}.txt", f"number {number}") for number in range(6)]

    def choosy(nodes, spaces, loaded):
        if any(node.get_content() == "number 3" for node in nodes):
            raise EncodeError("I do not like 3.")
        return encode_nodes(nodes, spaces, loaded)

    monkeypatch.setattr("llama_index_mm.ingestion.run.encode_nodes", choosy)
    report = index.ingest(make.folder / "files")
    assert (report.added, report.nodes) == (5, 5)
    assert [(problem.path, problem.reason) for problem in report.problems] == [(paths[3], "I do not like 3.")]
    monkeypatch.undo()
    assert index.ingest(make.folder / "files").added == 1


def test_stopped_run_goes_on(index, make):
    """What was stored before the stop is not read again."""
    for number in range(40):
        make.text(f"files/{number:02}.txt", f"number {number}")
    ingestor = Ingestor(index.store, index.preset)

    def stop(path):
        if path.name == "30.txt":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingestor.ingest(make.folder / "files", on_file=stop)
    kept = len(index.store)
    assert 16 <= kept <= 30
    report = ingestor.ingest(make.folder / "files")
    assert (report.unchanged, report.added, len(index.store)) == (kept, 40 - kept, 40)


def test_stopped_run_with_duplicates_goes_on(index, make):
    make.text("files/0.txt", "twice"), make.text("files/1.txt", "twice"), make.text("files/2.txt", "once")
    ingestor = Ingestor(index.store, index.preset)

    def stop(path):
        if path.name == "2.txt":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingestor.ingest(make.folder / "files", on_file=stop)
    ingestor.ingest(make.folder / "files")
    assert len(index.store) == 2
    assert [one.status for one in index.store.sources()] == ["indexed"] * 3


def test_duplicate_of_what_can_not_be_encoded(index, make, monkeypatch):
    make.text("files/0.txt", "twice"), make.text("files/1.txt", "twice")

    def refuse(nodes, spaces, loaded):
        raise EncodeError("I do not like it.")

    monkeypatch.setattr("llama_index_mm.ingestion.run.encode_nodes", refuse)
    index.ingest(make.folder / "files")
    monkeypatch.undo()
    index.ingest(make.folder / "files")
    assert len(index.store) == 1


def test_missing_path(index, make):
    with pytest.raises(DecodeError, match="There is no file or folder"):
        index.ingest(make.folder / "gone")


def test_empty_folder(index, tmp_path):
    (tmp_path / "files").mkdir()
    report = index.ingest(tmp_path / "files")
    assert (report, str(report)) == (IngestReport(), "0 added (0 nodes), 0 unchanged, 0 not taken")


async def test_async(index, make):
    write_good(make)
    assert (await index.aingest(make.folder / "files")).added == 4


def test_long_recording_becomes_spans(index, make):
    report = index.ingest(make.tone("long.wav", seconds=50))
    spans = list(index.store.nodes(index.store.find().tolist()).values())
    assert report.nodes == len(spans) >= 3
    assert (spans[0].start, spans[-1].end) == (0.0, 50.0)
    assert all(one.end == two.start for one, two in itertools.pairwise(spans))
    assert {node.seconds for node in spans} == {50.0}
    assert len({node.hash for node in spans}) == len(spans)


def test_speech_only_space_takes_what_was_said(make, tmp_path):
    from llama_index_mm.embeddings.base import EmbeddingSpace
    from llama_index_mm.testing import HashingEncoder

    space = EmbeddingSpace("voice", {"audio": HashingEncoder("audio")}, speech_only=True)
    silent = document_of(make.tone("silent.wav")).with_facts(speech=False)
    spoken = document_of(make.tone("spoken.wav")).with_facts(speech=True)
    records = encode_nodes([silent, spoken, Document(text="a")], [space])
    assert [sorted(record.vectors) for record in records] == [[], ["voice"], []]


def test_file_that_changes_while_it_is_read(index, make, monkeypatch):
    """Its digest is of one content and its pixels may be of another: it is told, and the next run takes it."""
    path = make.picture("files/red.png", "red")
    from llama_index_mm.media.pool import DecodePool

    submit = DecodePool.submit

    def change_first(self, file, modality):
        make.picture("files/red.png", "blue", (30, 30))
        return submit(self, file, modality)

    with monkeypatch.context() as patch:
        patch.setattr(DecodePool, "submit", change_first)
        report = index.ingest(make.folder / "files")
    assert [(one.path, one.reason[:36]) for one in report.problems] == [(path, "red.png changed while it was read. T")]
    assert len(index.store) == 0
    assert index.ingest(make.folder / "files").added == 1
    (source,) = index.store.sources()
    assert source.digest == digest_file(path)
