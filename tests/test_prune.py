"""Taking out files that are gone, and telling beforehand what a run would do."""

import json

import pytest
from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import tiny_preset


@pytest.fixture
def index(tmp_path):
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as opened:
        yield opened


def texts(index):
    return sorted(node.get_content() for node in index.store.nodes(index.store.find().tolist()).values())


def test_prune(index, make):
    kept, gone = make.text("files/kept.txt", "kept"), make.text("files/deep/gone.txt", "gone")
    elsewhere = make.text("other/elsewhere.txt", "elsewhere")
    index.ingest([make.folder / "files", make.folder / "other"])
    gone.unlink()
    elsewhere.unlink()
    assert index.ingest(make.folder / "files").removed == 0
    assert texts(index) == ["elsewhere", "gone", "kept"]
    report = index.ingest(make.folder / "files", prune=True)
    assert (report.removed, report.unchanged, str(report)) == (1, 1, "0 added (0 nodes), 1 unchanged, 1 removed, 0 not taken")
    assert texts(index) == ["elsewhere", "kept"]
    assert [one.path for one in index.store.sources()] == sorted([str(kept), str(elsewhere)])


def test_a_file_that_was_moved_is_not_read_again(index, make):
    path = make.text("files/a.txt", "words")
    index.ingest(make.folder / "files")
    (before,) = index.store.find().tolist()
    path.rename(path.with_name("b.txt"))
    report = index.ingest(make.folder / "files", prune=True)
    assert (report.added, report.duplicates, report.removed) == (0, 1, 0)
    assert index.store.find().tolist() == [before]
    assert [one.path for one in index.store.sources()] == [str(path.with_name("b.txt"))]


def test_a_copy_that_is_gone_leaves_the_nodes_to_the_other(index, make):
    first, second = make.text("files/a.txt", "words"), make.text("files/b.txt", "words")
    index.ingest(make.folder / "files")
    first.unlink()
    assert index.ingest(make.folder / "files", prune=True).removed == 1
    (node,) = index.store.nodes(index.store.find().tolist()).values()
    assert node.metadata["file_path"] == str(second)


def test_a_dry_run_changes_nothing(index, make):
    (
        make.text("files/same.txt", "same"),
        make.text("files/changed.txt", "before"),
        make.text("files/gone.txt", "gone").absolute(),
    )
    index.ingest(make.folder / "files")
    before = texts(index), index.store.sources()
    make.text("files/changed.txt", "after"), make.text("files/new.md", "new"), make.text("files/copy.txt", "same")
    make.text("files/odd.xyz", "?"), make.bytes("files/empty.png", b"")
    (make.folder / "files" / "gone.txt").unlink()
    report = index.ingest(make.folder / "files", prune=True, dry_run=True)
    assert (report.added, report.unchanged, report.duplicates, report.removed, report.nodes) == (2, 1, 1, 1, 0)
    assert [problem.path.name for problem in report.problems] == ["empty.png", "odd.xyz"]
    assert (texts(index), index.store.sources()) == before


def test_the_command(index, make, monkeypatch):
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: tiny_preset())
    path = make.text("files/a.txt", "words")
    index.ingest(make.folder / "files")
    index.close()
    path.unlink()
    make.text("files/b.txt", "other")
    for options, counts in ((["--dry-run"], (1, 0, 1)), ([], (1, 1, 1)), ([], (0, 0, 0))):
        call = ["ingest", str(make.folder / "files"), "--store", str(index.store.folder), "--prune", "--json", *options]
        result = CliRunner().invoke(app, call, catch_exceptions=False)
        told = json.loads(result.stdout)
        assert (told["added"], told["nodes"], told["removed"]) == counts
