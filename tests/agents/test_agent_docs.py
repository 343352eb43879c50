"""The examples of the docs, run as they stand there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import ToolSelection
from typer.testing import CliRunner

from llama_index_mm import MultiModalIndex
from llama_index_mm.agents import SearchArguments, ShowLimits
from llama_index_mm.cli import app
from llama_index_mm.errors import StoreError
from llama_index_mm.testing import tiny_preset

DOCS = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")


def example(name):
    return re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", DOCS, re.S)[1]


class Looker(FunctionCallingLLM):
    """Searches once, and then tells how many pictures it was shown."""

    @property
    def metadata(self):
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True)

    def _prepare_chat_with_tools(self, tools, chat_history=None, **kwargs):
        return {"messages": chat_history}

    async def astream_chat(self, messages, **kwargs):
        async def pieces():
            shown = [block for one in messages for block in one.blocks if isinstance(block, ImageBlock)]
            text = f"{len(shown)} pictures" if messages[-1].role == "tool" else ""
            yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=text)

        return pieces()

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs):
        if response.message.content:
            return []
        return [ToolSelection(tool_id="1", tool_name="search_media", tool_kwargs={"text": "a boat", "modalities": ["image"]})]

    def chat(self, *args, **kwargs):
        raise NotImplementedError

    achat = stream_chat = complete = stream_complete = acomplete = astream_complete = chat


@pytest.fixture
def index(make, monkeypatch):
    monkeypatch.chdir(make.folder)
    make.path("examples/none")
    make.picture("in/a boat.png", "red")
    make.picture("in/a cat.png", "blue")
    with MultiModalIndex.open("my-index", preset=tiny_preset(), create=True) as made:
        made.ingest("in", num_workers=0)
    monkeypatch.setattr("llama_index_mm.index.load_preset", tiny_preset)
    return make.folder / "my-index"


# LlamaIndex's workflows look at every attribute of an agent, pydantic's deprecated ones included.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
async def test_the_agent_is_shown_pictures(index, capsys):
    names = {"llm": Looker()}
    exec(example("agent"), names)
    try:
        assert str(await names["main"]()) == "2 pictures"
        exec(example("call"), names)
        assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(".png")] == [
            "[1] a boat.png",
            "[2] a cat.png",
        ]
        assert names["more"].raw_output[0].node.metadata["file_name"] == "a boat.png"
    finally:
        names["index"].close()


@pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="needs mcp")
async def test_the_server_shows_the_picture(index):
    names = {}
    exec(example("server"), names)
    with MultiModalIndex.open(index) as opened:
        file, content = await names["look"](opened)
    assert Path(file).name == "a boat.png"
    assert [one.type for one in content] == ["text", "image"]


def test_the_configuration_calls_the_command(tmp_path):
    told = json.loads(example("config"))["mcpServers"]["my-media"]
    assert told["command"] == "llama-index-mm"
    arguments = [one.replace("/home/me", str(tmp_path)) for one in told["args"]]
    assert isinstance(CliRunner().invoke(app, arguments).exception, StoreError)  # all options are known; there is no index


def test_what_the_docs_tell_is_so():
    table = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]+) \|", DOCS, re.M))))
    assert set(SearchArguments.model_fields) | {"search", "get_media", "ask", "index_status"} == table
    limits = ShowLimits()
    told = f"{limits.pictures} pictures of at most {limits.side} pixels a side, {limits.seconds:.0f} seconds of sound, "
    assert told + f"{limits.characters:,} characters" in DOCS
