"""``llama-index-mm ask`` over a real store, answered by a script."""

import json
from dataclasses import fields, replace

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from pydantic import PrivateAttr
from test_cli_contract import documented
from typer.testing import CliRunner

from llama_index_mm.answers import Citation, LeftOut
from llama_index_mm.cli import app, output
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.testing import tiny_preset

runner = CliRunner()
ANSWER = "At noon [1], and late [7]."
MENDED = {"keep": ANSWER, "strip": "At noon [1], and late.", "flag": "At noon [1], and late [7: no such source]."}
CITED = {"ok": False, "cited": [1], "invented": [7], "uncited": [2]}


class Script(CustomLLM):
    """Says the same whatever it is asked, a few letters at a time, and keeps what it read."""

    accepts_media: tuple[str, ...] = ("image",)
    says: str = f" {ANSWER}"
    _read: list = PrivateAttr(default_factory=list)

    @property
    def metadata(self):
        return LLMMetadata(is_chat_model=True, context_window=20_000)

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=self.says)

    def stream_complete(self, prompt, formatted=False, **kwargs):
        for at in range(0, len(self.says), 3):
            yield CompletionResponse(text=self.says[: at + 3], delta=self.says[at : at + 3])

    def chat(self, messages, **kwargs):
        self._read.append([block.block_type for block in messages[-1].blocks])
        return super().chat(messages, **kwargs)


@pytest.fixture(scope="module")
def home(make_once):
    make_once.text("texts/tide.txt", "The tide comes in at noon.")
    make_once.text("texts/moon.txt", "The moon pulls the tide.")
    make_once.picture("pictures/red.png", "red")
    make_once.picture("pictures/lime.png", "lime")
    with MultiModalIndex.open(make_once.folder / "index", preset=tiny_preset(), create=True) as index:
        index.ingest([make_once.folder / "texts", make_once.folder / "pictures"], num_workers=0)
    return make_once.folder


@pytest.fixture(autouse=True)
def llm(monkeypatch):
    """The command takes the preset from its name in the index; this one has a script for an LLM."""
    made = Script()
    monkeypatch.setattr("llama_index_mm.index.load_preset", lambda name: replace(tiny_preset(name), llm=lambda: made))
    return made


def call(home, *args, code=0, **options):
    given = ["ask", "--store", str(home / "index"), *(str(arg) for arg in args)]
    result = runner.invoke(app, given, catch_exceptions=False, env={"COLUMNS": "200"}, **options)
    assert result.exit_code == code, result.output
    return result


def test_json(home):
    done = call(home, "The tide comes in?", "-k", 2, "-m", "text", "--json")
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert (told["question"], told["answer"], told["citations"]) == ("The tide comes in?", MENDED["flag"], CITED)
    assert [(one["number"], one["label"], one["start"], one["page"], one["views"]) for one in told["sources"]] == [
        (1, "tide.txt", None, None, None),
        (2, "moon.txt", None, None, None),
    ]
    assert [one["file"] for one in told["sources"]] == [str(home / "texts" / name) for name in ("tide.txt", "moon.txt")]
    assert told["left_out"] == []


def test_documented_fields():
    named = {one.name for kind in (Citation, LeftOut) for one in fields(kind)}
    own = {"question", "answer", "sources", "citations", "left_out", "label", "ok", "cited", "invented", "uncited"}
    assert named | own | {"flag", "strip", "keep"} == documented("ask")


@pytest.mark.parametrize("how", ["keep", "strip", "flag"])
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_what_becomes_of_invented_citations(home, how, stream):
    done = call(home, "tide?", "-k", 2, "-m", "text", "--invented", how, stream)
    question, answer, *sources = done.stdout.splitlines()
    assert (question, answer) == ("tide?", MENDED[how])
    assert [line.split()[:2] for line in sources] == [["[1]", "tide.txt"], ["[2]", "moon.txt"]]
    assert done.stderr == "invented The answer cites what is no source: 7.\n"
    told = json.loads(call(home, "tide?", "-k", 2, "-m", "text", "--invented", how, "--json").stdout)
    assert (told["answer"], told["citations"]) == (MENDED[how], CITED)


def test_a_stream_is_written_as_it_comes(home, monkeypatch):
    written = []
    monkeypatch.setattr(output, "write", written.append)
    call(home, "tide?", "-m", "text", "--invented", "keep", "--stream")
    assert "".join(written) == ANSWER + "\n"
    assert len(written) > 5
    written.clear()
    call(home, "tide?", "-m", "text")  # in a pipe
    assert written == []


def test_pictures_are_bounded(home, llm):
    for most in (2, 1, 0):
        told = json.loads(call(home, "red?", "-k", 2, "-m", "image", "--max-images", most, "--json").stdout)
        assert [one["part"] for one in told["left_out"]] == ["media"] * (2 - most)
        assert llm._read.pop().count("image") == most
    assert "The LLM was not given the media of" in call(home, "red?", "-k", 2, "-m", "image", "--max-images", 1).stderr
    assert call(home, "red?", "-m", "image", "--max-images", 1, "--quiet").stderr.startswith("invented")


def test_the_question_from_standard_input(home):
    assert json.loads(call(home, "-", "--json", input="When?\n").stdout)["question"] == "When?"


def test_json_does_not_stream(home):
    assert "JSON comes as a whole" in call(home, "tide?", "--json", "--stream", code=2).stderr


def test_a_page(home, tmp_path):
    call(home, "tide?", "-k", 2, "-m", "text", "--stream", "--html", tmp_path / "page.html", "--invented", "strip")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "tide.txt" in page
    assert ", and late." in page


def test_control_characters_of_an_answer(home, llm):
    llm.says = "At \x1b[31mnoon\x07."
    for stream in ("--stream", "--no-stream"):
        assert call(home, "tide?", "-m", "text", stream).stdout.splitlines()[1] == r"At \x1b[31mnoon\x07."
