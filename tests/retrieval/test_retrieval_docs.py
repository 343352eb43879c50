"""The examples of docs/retrieval.md, run as they stand there, and its tables held against the code."""

import csv
import inspect
import io
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from llama_index.core import postprocessor
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, ImageBlock, LLMMetadata
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CustomLLM
from llama_index.core.schema import QueryBundle, TextNode

from llama_index_mm import evaluation, retrieval
from llama_index_mm.cli import app
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.nodes import AudioMedia, ImageMedia
from llama_index_mm.retrieval import FusionRetriever, MediaQuery, RetrieverOptions, components
from llama_index_mm.retrieval.asked import PHRASES
from llama_index_mm.retrieval.fusion import FUSIONS
from llama_index_mm.testing import tiny_preset

pytest.importorskip("av")
pytest.importorskip("open3d")

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "retrieval.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: ([\w-]+) -->\n```python\n(.*?)```", PAGE, re.S))
JUDGMENTS = re.search(r"<!-- judgments -->\n```csv\n(.*?)```", PAGE, re.S)[1]
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
CODE = frozenset(re.findall(r"`([A-Za-z_.]+)`", PAGE))

RED, DARK, BLUE, GREEN = (250, 10, 10), (200, 90, 20), (10, 10, 250), (10, 200, 10)
TILES = [(64 * (at % 3), 64 * (at // 3 % 3), 64 * (at // 9)) for at in range(24)]  # each of other levels, and none as red
CHINESE = ["潮 水 在 中 午 来", "船 在 岸 边", "面 包 师 睡 了"]


class Helper(CustomLLM):
    """A chat model that rates the last item best, translates everything alike, and answers the rest in one sentence."""

    _asked: list[list[ChatMessage]] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=65_536, num_output=64, is_chat_model=True, model_name="helper")

    def chat(self, messages: Any, **_: Any) -> ChatResponse:
        self._asked.append(list(messages))
        said = " ".join(message.content or "" for message in messages)
        text = "A door painted red."
        if rated := re.search(r"Rate the items 1 to (\d+)", said):
            items = [{"number": at, "relevance": at, "reason": f"item {at}"} for at in range(1, int(rated[1]) + 1)]
            text = json.dumps({"items": items})
        elif "Translate" in said:
            text = CHINESE[0]
        return ChatResponse(message=ChatMessage(role="assistant", content=text))

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        return CompletionResponse(text=self.chat([ChatMessage(role="user", content=prompt)]).message.content or "")

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        raise NotImplementedError

    def pictures(self) -> int:
        """How many were in what it was last asked."""
        return sum(isinstance(block, ImageBlock) for message in self._asked[-1] for block in message.blocks)


@pytest.fixture(scope="module")
def home(make_once):
    """The files that the page speaks of, and enough others for a calibration."""
    for name, colour in {"red-door": RED, "dark-door": DARK, "blue-door": BLUE, "green-boat": GREEN}.items():
        make_once.picture(f"files/{name}.png", colour)
    for at, colour in enumerate(TILES):
        make_once.picture(f"files/tile-{at}.png", colour)
    make_once.obj("files/stool.obj")
    make_once.obj("files/bench.obj", points=[(4 * x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    make_once.tone("files/low.wav", 200, 8)
    make_once.tone("files/brief.wav", 210, 2)
    make_once.text("files/tide.txt", "The tide brings driftwood.")
    for at in range(22):
        make_once.text(f"files/note-{at}.txt", f"Note {at} is about item {7 * at % 23}.")
    for at in range(70):
        make_once.text(f"more/page-{at}.txt", f"Page {at} tells of thing {3 * at % 71} and place {5 * at % 67}.")
    make_once.picture("sketch.png", RED, size=(12, 12))
    make_once.tone("call.wav", 205, 3)
    rows = io.StringIO()
    csv.writer(rows).writerows([f"tile {at}", f"files/tile-{at}.png", "image", f"tile-{at}.png", "", ""] for at in range(12))
    make_once.text("judgments.csv", JUDGMENTS + rows.getvalue())
    return make_once.folder


@pytest.fixture
def names(home, tmp_path, monkeypatch):
    """What an example finds there: an index, and an LLM."""
    monkeypatch.chdir(home)
    with MultiModalIndex.open(tmp_path / "index", preset=tiny_preset(), create=True) as index:
        assert index.ingest("files/", num_workers=0).problems == []
        index.insert_nodes(
            [
                *(TextNode(id_=f"zh {at}", text=text, metadata={"mm_language": "zh"}) for at, text in enumerate(CHINESE)),
                *(TextNode(id_=f"en {at}", text=f"hall {at}", metadata={"mm_language": "en"}) for at in range(3)),
            ]
        )
        yield {"index": index, "llm": Helper()}


def run(names, *examples):
    for example in examples:
        exec(EXAMPLES[example], names)


def found(hits):
    return [hit.node.metadata.get("file_name") or hit.node.node_id for hit in hits]


# -- examples -------------------------------------------------------------------------------------------------------------


def test_every_python_block_is_run_here():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert PAGE.count("```python") == len(EXAMPLES) == 9
    assert all(f'"{name}"' in tests for name in EXAMPLES)


def test_asking(names):
    run(names, "asking")
    assert found(names["doors"])[0] == "red-door.png"
    assert any(reason.negative for reason in retrieval.reasons_of(names["doors"][0].node))
    assert {type(hit.node) for hit in names["doors"]} == {ImageMedia}
    assert found(names["calls"]) == ["low.wav"]  # the brief one is over by then
    assert type(names["calls"][0].node) is AudioMedia
    assert found(names["more"])[0] == "red-door.png"


async def test_async_gives_the_same(names):
    run(names, "asking")
    retriever = names["retriever"]
    assert await retriever.aretrieve("a red door") == retriever.retrieve("a red door")


def test_reasons(names, capsys):
    run(names, "asking", "reasons")
    first, reason, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(" red-door.png")
    assert re.fullmatch(r"     image in picture: 0\.\d\d \(\d\.\d\d at weight 1, raw 1\.00\)", reason)
    (shown,) = re.findall(r"# (image in picture: .*)", EXAMPLES["reasons"])
    assert re.fullmatch(r"image in picture: 0\.\d\d \(0\.\d\d at weight 1, raw 0\.\d\d\)", shown)


def test_calibrating(names, capsys):
    old = names["index"].as_retriever()
    run(names, "calibrating")
    report = names["report"]
    assert capsys.readouterr().out == f"{report}\n"
    fitted = {(one.space, one.part, one.modality): one.items for one in report.channels}
    assert fitted["text", "text", "text"] == 23 + 70 + 6
    assert fitted["picture", "image", "image"] == 28
    scores = [
        [hit.score for hit in one.retrieve(MediaQuery("the tide", modalities=["text"]))]
        for one in (old, names["retriever"], names["index"].as_retriever(), names["index"].as_retriever(calibrated=False))
    ]
    assert scores[1] == scores[2]
    assert scores[0] != scores[1] != scores[3] != scores[0]


def test_others(names):
    run(names, "others")
    best = names["found"][0]
    assert best.node.metadata["file_name"] == "tide.txt"
    reasons = {reason.space: reason for reason in retrieval.reasons_of(best.node)}
    assert set(reasons) == {"keywords", "text"}
    assert (reasons["keywords"].part, reasons["keywords"].weight, reasons["keywords"].raw) == ("query", 0.5, None)


def test_languages(names):
    run(names, "languages")
    spoken = [hit.node.metadata.get("mm_language") for hit in names["both"].retrieve("note 3 is about item 21")]
    assert (len(spoken), spoken.count("en"), spoken.count("zh")) == (5, 2, 2)
    assert names["even"].retrieve("hall 1")[0].node.ref_doc_id == "en 1"
    translated = found(names["translated"].retrieve("noon"))
    assert translated[0] == "zh 0:0"
    assert translated != found(names["index"].as_retriever().retrieve("noon"))


def test_reranking(names):
    run(names, "asking", "reranking")
    assert str(names["response"]) == "A door painted red."
    sources = names["response"].source_nodes
    best = names["why"]
    assert (len(sources), best.model) == (4, "helper")
    assert (best.reason, best.relevance) == ("item 10", 1.0)  # the best possible rating; item 11 has it, too, and came later
    assert [hit.score for hit in sources] == sorted((hit.score for hit in sources), reverse=True)
    assert names["llm"].pictures() == 4


def test_engines(names):
    run(names, "asking", "engines")
    assert str(names["response"]) == "A door painted red."
    assert "red-door.png" in found(names["response"].source_nodes)  # by the picture: HyDE kept it
    assert found(names["found"])[0] == "red-door.png"
    assert {type(hit.node) for hit in names["found"]} == {ImageMedia}


def test_judgments_of_the_page_are_taken(names):
    run(names, "evaluating")
    judged = names["judged"]
    assert (judged.problems, judged.ignored) == ((), ())
    first = [(one.kind, dict(one.grades)) for one in judged.queries[:3]]
    assert first == [
        ("text -> image (en)", {"red-door.png": 1.0}),
        ("text -> mesh (de)", {"stool.obj": 2.0, "bench.obj": 1.0}),
        ("image -> image", {"red-door.png": 1.0, "dark-door.png": 1.0}),
    ]


def test_evaluating(names, capsys):
    run(names, "evaluating")
    report, fit = names["report"], names["fit"]
    told = capsys.readouterr().out
    assert str(report) in told
    assert "-> anything (image)" in told
    assert str(fit) in told
    assert report.failures == ()
    by_kind = {one.kind: one.metrics["R@1"].mean for one in report.kinds}
    assert by_kind["text -> image (en)"] == by_kind["image -> image"] == by_kind["text+image -> image"] == 1
    assert fit.decided >= 10
    assert set(fit.weights) == {"text:text:image", "image:picture:image"}


def test_llama_index_evaluator(names):
    run(names, "evaluating", "llama-index-evaluator")
    assert names["result"].metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}
    assert names["result"].retrieved_ids[0] == "red-door.png"


# -- tables ---------------------------------------------------------------------------------------------------------------


def table(header):
    """Names in the first column of the table with this header."""
    rows = PAGE[PAGE.index(f"| {header} | ") :].split("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row.split(" | ")[0])]


def test_all_options_are_told():
    options = {"similarity_top_k", "calibrated", *RetrieverOptions.__annotations__}
    assert sorted(table("option")) == sorted(options)
    assert set(options) - {"calibrated"} <= set(inspect.signature(FusionRetriever).parameters)


def test_defaults_that_are_told():
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \|", PAGE[PAGE.index("| option |") :].split("\n\n")[0], re.M))
    told = {name: {"none": None}.get(value.strip("`"), value.strip('`"')) for name, value in rows.items()}
    parameters = inspect.signature(FusionRetriever).parameters
    for name, value in told.items():
        if name not in ("calibrated", "weights"):
            default = parameters[name].default
            assert str(default or value) == str(value), name
            assert bool(default) == (value not in (None, "0")), name


def test_all_of_a_query_is_told():
    own = {one.name for one in fields(MediaQuery)} - {one.name for one in fields(QueryBundle)}
    assert set(table("of a `MediaQuery`")) - {"mm_language", "MetadataFilters"} == {"query_str", *own}


def test_all_fusions_are_told():
    assert sorted(table("`fusion` | score of a node")) == sorted(FUSIONS)


def test_what_keeps_media_is_told_as_in_the_code():
    said = inspect.getdoc(components)
    ours = components.__all__
    theirs = set(re.findall(r"\b[A-Z]\w+(?:Retriever|Engine|Transform)\b", said)) - set(ours)
    assert all(f"`{name}`" in PAGE for name in [*ours, *theirs])


def test_postprocessors_are_those_of_llama_index():
    told = table("postprocessor")
    known = {*postprocessor.__all__, "RankGPTRerank"}  # which is in a module of its own
    assert {name for name in told if name != "Auto..."} <= known


def test_names_are_there():
    """What is written as a name of this package's retrieval is one."""
    assert {"reasons_of", "rerank_reason_of"} <= set(re.findall(r"\b(\w+)\b", " ".join(EXAMPLES.values())))
    assert all(hasattr(retrieval, name) for name in CODE if name.startswith("Media"))
    for name in ("aevaluate", "afit_weights", "check_items", "language_skew"):
        assert hasattr(evaluation, name), name
        assert re.search(rf"[`.]{name}[`(]", PAGE), name
    assert f"{len(PHRASES)} everyday phrases" in PAGE


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_known(line):
    """Every command and option of the page parses; nothing is run."""
    program, command, *args = shlex.split(line)
    assert program == "llama-index-mm"
    known = typer.main.get_command(app)
    assert isinstance(known, click.Group) or hasattr(known, "commands")
    asked = known.commands[command]
    assert asked.make_context(command, list(args)).params


def test_every_module_has_its_place_in_the_architecture():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    steps = page[page.index("| step | modules |") :].split("\n\n")[0]
    modules = {path.stem for path in Path(retrieval.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`([a-z_]+)`", steps)) == modules
