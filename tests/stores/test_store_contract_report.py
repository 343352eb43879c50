"""The contract test for vector stores: what it says of LlamaIndex's own, of ours, and of stores that are broken on purpose."""

import asyncio
import itertools
import json
import re
from pathlib import Path

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import FilterOperator
from typer.testing import CliRunner

from llama_index_mm.cli import app
from llama_index_mm.errors import StoreError
from llama_index_mm.stores import SpaceVectorStore
from llama_index_mm.testing import StoreCheck, StoreReport, check_vector_store, compare_reports
from llama_index_mm.testing.store_contract import CHECKS

FOLDERS = itertools.count()
SIMPLE_LACKS = {
    "text nodes",
    "media nodes",
    "metadata of texts and numbers",
    "metadata of lists",
    "filters nested",
    "get_nodes by ids",
    "get_nodes by filters",
    "bad batch leaves nothing",
    "async get_nodes by ids",
    "event loop goes on",
}
SIMPLE_WRONG = {"doc_ids of a query", "bad vector is told"}


def statuses(report, *which):
    return {one.name for one in report.checks if one.status in which}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def simple():
    return check_vector_store(SimpleVectorStore)


@pytest.fixture(scope="module")
def ours(folder):
    return check_vector_store(lambda: SpaceVectorStore(folder / f"store-{next(FOLDERS)}"))


def test_everything_holds_in_ours(ours):
    assert [(one.name, one.status) for one in ours.checks] == [(name, "holds") for name in CHECKS]
    assert (ours.store, ours.dimension, ours.sound, ours.against) == ("SpaceVectorStore", 8, True, ())


def test_llama_index_s_own(simple):
    assert [one.name for one in simple.checks] == list(CHECKS)
    assert statuses(simple, "lacks") == SIMPLE_LACKS
    assert statuses(simple, "wrong") == SIMPLE_WRONG
    assert statuses(simple, "fails") == set()
    assert not simple.sound
    seen = {one.name: one.seen for one in simple.checks}
    assert seen["doc_ids of a query"] == "doc_ids of ridge gave oak elm fir yew bay, expected fir yew"
    assert seen["filters nested"] == "query: ValueError: Nested MetadataFilters are not supported."
    assert seen["media nodes"] == "stores_text is False: results have ids only"
    assert seen["get_nodes by ids"] == "get_nodes: NotImplementedError: SimpleVectorStore does not store nodes directly."


def test_every_operator_is_tried():
    assert {name.removeprefix("filter ") for name in CHECKS} >= {operator.name for operator in FilterOperator}


def test_the_page_tells_of_all_checks():
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    part = page[page.index("## Other stores\n") : page.index("## Care\n")]
    rows = re.findall(r"^\| ([^|*]+) \| (?:needed|wanted|told) \|", part, re.MULTILINE)
    (others,) = re.findall(r"^In all of them these hold: (.*)\.$", part, re.MULTILINE)
    assert {*rows, *others.split(", ")} == set(CHECKS)
    assert f"runs {len(CHECKS)} checks" in part


def test_the_dimension_is_taken():
    report = check_vector_store(lambda: Sized(3), dimension=3)
    assert statuses(report, "lacks") == SIMPLE_LACKS - {"bad batch leaves nothing"}
    assert statuses(report, "wrong", "fails") == {"doc_ids of a query"}
    report = check_vector_store(lambda: Sized(3))
    assert statuses(report, "holds", "lacks") == {"empty store"}
    assert {one.seen for one in report.checks if one.name == "clear"} == {
        "add: ValueError: Expected vectors of length 3, got 8."
    }


async def test_within_an_event_loop(simple):
    """As in notebooks."""
    assert [one.status for one in check_vector_store(SimpleVectorStore).checks] == [one.status for one in simple.checks]


# -- stores that are broken ---------------------------------------------------------------------------------------------


class Sized(SimpleVectorStore):
    """Takes vectors of one length."""

    def __init__(self, length):
        super().__init__()
        self._length = length

    _length: int = 0

    def add(self, nodes, **given):
        for node in nodes:
            if len(node.embedding) != self._length:
                raise ValueError(f"Expected vectors of length {self._length}, got {len(node.embedding)}.")
        return super().add(nodes, **given)


class Twice(SimpleVectorStore):
    """Keeps both nodes where an id is added again."""

    def add(self, nodes, **given):
        fresh = [node.model_copy(update={"id_": f"{node.node_id}+"}) if self.knows(node) else node for node in nodes]
        super().add(fresh, **given)
        return [node.node_id for node in nodes]

    def knows(self, node):
        return node.node_id in self.data.embedding_dict

    def query(self, query, **given):
        result = super().query(query, **given)
        result.ids = [one.removesuffix("+") for one in result.ids]
        return result


class Unfiltered(SimpleVectorStore):
    """Passes over filters."""

    def query(self, query, **given):
        query.filters = None
        return super().query(query, **given)


class Distances(SimpleVectorStore):
    """Gives the squares of distances for similarities."""

    def query(self, query, **given):
        result = super().query(query, **given)
        result.similarities = [2 - 2 * one for one in result.similarities]
        return result


class Texts(SpaceVectorStore):
    """Makes texts of all metadata that it gives."""

    def query(self, query, **given):
        result = super().query(query, **given)
        for node in result.nodes:
            node.metadata = {key: str(value) for key, value in node.metadata.items()}
        return result


class Keeps(SimpleVectorStore):
    """Deletes nothing."""

    def delete(self, ref_doc_id, **given):
        pass

    def delete_nodes(self, node_ids=None, filters=None, **given):
        pass


class Panics(SimpleVectorStore):
    """Fails as native code does, with what is no `Exception`."""

    def clear(self):
        raise Panic("index out of bounds")

    async def aquery(self, query, **given):
        await asyncio.sleep(0)
        raise KeyError("aquery")


class Panic(BaseException):
    pass


BROKEN = {
    Twice: {"add an id again": "wrong"},
    Unfiltered: dict.fromkeys(
        {name for name in CHECKS if name.startswith("filter")} | {"filters nested"}, "wrong"
    ),
    Distances: {"nearest first": "wrong", "similarity is the inner product": "wrong"},
    Keeps: dict.fromkeys(
        [
            "delete a document",
            "delete_nodes by ids",
            "delete_nodes by filters",
            "add after a deletion",
            "async delete a document",
            "async delete_nodes by ids",
        ],
        "wrong",
    ),
    Panics: {
        "clear": "fails",
        **{name: "fails" for name in CHECKS if name.startswith("async") and "get_nodes" not in name},
        "event loop goes on": "fails",
    },
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_told_and_nothing_else(broken, simple):
    report = check_vector_store(broken)
    before = {one.name: one.status for one in simple.checks}
    assert {one.name: one.status for one in report.checks} == before | BROKEN[broken]
    assert report.store == broken.__name__
    assert not report.sound


def test_metadata_as_texts(folder):
    report = check_vector_store(lambda: Texts(folder / f"store-{next(FOLDERS)}"))
    assert statuses(report, "wrong") == {"metadata of texts and numbers", "metadata of lists", "media nodes"}
    assert statuses(report, "lacks", "fails") == set()
    seen = {one.name: one.seen for one in report.checks}
    assert seen["metadata of texts and numbers"] == "3 came back as '3'"
    assert seen["media nodes"] == "lake.jpg came back with another metadata"
    assert not report.sound


def test_what_was_called_is_told():
    seen = {one.name: one.seen for one in check_vector_store(Panics).checks}
    assert seen["clear"] == "clear: Panic: index out of bounds"
    assert seen["async add and query"] == "aquery: KeyError: 'aquery'"


# -- calls that have no meaning -----------------------------------------------------------------------------------------


def test_what_is_no_store():
    with pytest.raises(StoreError, match="Expected a LlamaIndex vector store, got TextNode"):
        check_vector_store(TextNode)
    with pytest.raises(StoreError, match=r"making one raised KeyError: 'no server'"):
        check_vector_store(lambda: {}["no server"])
    with pytest.raises(StoreError, match=r"dimension of 2 or more, got 1\."):
        check_vector_store(SimpleVectorStore, dimension=1)


def test_stores_that_share_their_nodes():
    same = SimpleVectorStore()
    with pytest.raises(StoreError, match="two of SimpleVectorStore share their nodes"):
        check_vector_store(lambda: same)
    with pytest.raises(StoreError, match="this SimpleVectorStore has nodes in it"):
        check_vector_store(lambda: same)


# -- tables -------------------------------------------------------------------------------------------------------------

CHECKED = (
    StoreCheck("order", "holds", "5 of 5", "needed"),
    StoreCheck("filter", "wrong", "a | b", "wanted"),
    StoreCheck("loop", "wrong", "held", "told"),
    StoreCheck("clear", "lacks", "not there", "wanted"),
)


def test_what_stands_against_a_store():
    def sound(status, level):
        return StoreReport("Store", 8, (StoreCheck("one", status, "", level),)).sound

    table = {
        status: [sound(status, level) for level in ("needed", "wanted", "told")]
        for status in ("holds", "lacks", "wrong", "fails")
    }
    assert table == {
        "holds": [True, True, True],
        "lacks": [False, True, True],
        "wrong": [False, False, True],
        "fails": [False, True, True],
    }


def test_tables():
    report = StoreReport("Store", 8, CHECKED)
    assert str(report) == (
        "order   holds  needed  5 of 5\n"
        "filter  wrong  wanted  a | b\n"
        "loop    wrong  told    held\n"
        "clear   lacks  wanted  not there\n"
        "Store: 1 of 4 checks hold; not sound: filter."
    )
    assert report.markdown() == (
        "Store: 1 of 4 checks hold; not sound: filter.\n\n"
        "| check | status | level | seen |\n| --- | --- | --- | --- |\n"
        "| order | holds | needed | 5 of 5 |\n"
        "| filter | **wrong** | wanted | a \\| b |\n"
        "| loop | **wrong** | told | held |\n"
        "| clear | lacks | wanted | not there |"
    )
    assert report.to_dict() == {
        "store": "Store",
        "dimension": 8,
        "sound": False,
        "checks": [{"name": one.name, "status": one.status, "seen": one.seen, "level": one.level} for one in CHECKED],
    }
    assert str(StoreReport("Store", 8, CHECKED[:1])).endswith("Store: 1 of 1 checks hold; sound.")


def test_several_stores_in_one_table():
    reports = {"A": StoreReport("Store", 8, CHECKED), "B": StoreReport("Store", 8, CHECKED[:1])}
    assert compare_reports(reports) == (
        "| check | level | A | B |\n| --- | --- | --- | --- |\n"
        "| order | needed | holds | holds |\n"
        "| filter | wanted | **wrong** |  |\n"
        "| loop | told | **wrong** |  |\n"
        "| clear | wanted | lacks |  |\n"
        "| **sound** |  | no | yes |"
    )


# -- the command --------------------------------------------------------------------------------------------------------

SIMPLE = "llama_index.core.vector_stores:SimpleVectorStore"
runner = CliRunner()


def call(*args, code):
    result = runner.invoke(app, ["check-store", *args], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_command(simple):
    told = json.loads(call(SIMPLE, "--json", "--dimension", "4", code=1).stdout)
    assert (told["store"], told["dimension"], told["sound"]) == ("SimpleVectorStore", 4, False)
    expected = simple.to_dict()["checks"]
    assert [(one["name"], one["status"], one["level"]) for one in told["checks"]] == [
        (one["name"], one["status"], one["level"]) for one in expected
    ]
    assert call(SIMPLE, code=1).stdout.splitlines()[-1] == str(simple).splitlines()[-1]
    assert call(SIMPLE, "--markdown", code=1).stdout.splitlines()[:3] == simple.markdown().splitlines()[:3]


def test_command_with_a_module_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "stores_of_mine.py").write_text(
        "from itertools import count\nfrom llama_index_mm.stores import SpaceVectorStore\n"
        f"numbers = count()\ndef make():\n    return SpaceVectorStore(f{str(tmp_path / 'store')!r} + str(next(numbers)))\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert call("stores_of_mine:make", code=0).stdout.splitlines()[-1].endswith(" checks hold; sound.")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["json"], "Expected MODULE:FUNCTION"),
        (["no_such_module:make"], "No module named 'no_such_module'"),
        (["json:nothing"], "no attribute 'nothing'"),
        (["json:__name__"], "which is of type str"),
        ([SIMPLE, "--json", "--markdown"], "Expected one of --json and --markdown"),
        ([SIMPLE, "--dimension", "1"], "greater than or equal to 2"),
    ],
)
def test_wrong_calls(args, words):
    said = " ".join(call(*args, code=2).stderr.replace("│", " ").split())
    assert words in said
