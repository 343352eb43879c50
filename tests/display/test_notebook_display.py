"""What a real IPython shell shows."""

import asyncio
import html
import re

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, Response, StreamingResponse
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import BaseModel
from test_html import HOSTILE, Page

from llama_index_mm import show
from llama_index_mm.answers import NumberSources
from llama_index_mm.display import Section, Shown
from llama_index_mm.errors import QueryError
from llama_index_mm.nodes import AudioMedia, ImageMedia, MeshMedia

shells = pytest.importorskip("IPython.core.interactiveshell")
DIGEST = "0" * 64


@pytest.fixture(scope="module")
def ipython(tmp_path_factory):
    """One shell, which cleans up after itself when Python ends."""
    from traitlets.config import Config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        yield shells.InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shells.InteractiveShell.clear_instance()


@pytest.fixture
def shell(ipython):
    yield ipython
    if "llama_index_mm" in ipython.extension_manager.loaded:
        ipython.run_line_magic("unload_ext", "llama_index_mm")


@pytest.fixture
def loaded(shell):
    shell.run_line_magic("load_ext", "llama_index_mm")
    return shell


@pytest.fixture
def found(make):
    """A picture and a text, as a retriever gives them."""
    node = ImageMedia.create(make.picture("sea.png"), digest=DIGEST, text="a shore")
    return [NodeWithScore(node=node, score=0.8), NodeWithScore(node=TextNode(text="the tide"), score=0.4)]


def shown(shell, value):
    """HTML that the shell makes of a value; None if it leaves it at plain text."""
    data, _ = shell.display_formatter.format(value)
    assert "text/plain" in data
    return data.get("text/html")


def inside(markup):
    """The page in the frame of an output."""
    frame = Page(markup).one("iframe")
    return Page(frame["srcdoc"])


def test_nothing_changes_before_the_extension_is_loaded(shell, found):
    assert shown(shell, found) is None
    assert shown(shell, Response("yes", source_nodes=found)) is None


def test_lists_of_results(loaded, found):
    page = inside(shown(loaded, found))
    assert [one["text"] for one in page.all("h3")] == ["sea.png", "A text without a file"]
    assert page.one("img")["src"].startswith("data:image/jpeg;base64,")


def test_one_result_and_media_nodes(loaded, found, make):
    assert [one["text"] for one in inside(shown(loaded, found[0])).all("h3")] == ["sea.png"]
    media = [
        found[0].node,
        AudioMedia.create(make.tone("hum.wav"), digest=DIGEST),
        MeshMedia.create(make.obj("cube.obj"), digest=DIGEST, views=str(make.picture("views.png"))),
    ]
    for node in media:
        assert [one["text"] for one in inside(shown(loaded, node)).all("h3")] == [node.path.name]
    assert len(inside(shown(loaded, media)).all("article")) == 3


@pytest.mark.parametrize("other", [[], [1, 2], ["text"], [TextNode(text="x")], (1,), "text", {}, TextNode(text="x")])
def test_all_else_is_left_to_ipython(loaded, other):
    assert shown(loaded, other) is None


def test_mixed_lists_are_left_to_ipython(loaded, found):
    assert shown(loaded, [*found, "text"]) is None


def test_responses_with_their_sources(loaded, found):
    class Told(BaseModel):
        built: int

    numbered = NumberSources().postprocess_nodes(found, QueryBundle("q"))
    for response, answer in (
        (Response("So it is [2].", source_nodes=numbered), "So it is [2]."),
        (PydanticResponse(Told(built=1850), source_nodes=numbered), '{"built":1850}'),
        (AgentChatResponse(response="As said [1].", source_nodes=numbered), "As said [1]."),
        (Response(None, source_nodes=numbered), "The answer is empty."),
    ):
        page = inside(shown(loaded, response))
        assert page.one("div", "answer")["text"] == f"Answer{answer}"
        links = [(one["text"], one["href"]) for one in page.all("a")]
        assert links == [(number, f"#s1-n{number}") for number in re.findall(r"\[(\d)\]", answer)]
        assert [one["id"] for one in page.all("article")] == ["s1-n1", "s1-n2"]


def test_responses_without_sources_are_left_to_ipython(loaded):
    assert shown(loaded, Response("hello")) is None
    assert shown(loaded, PydanticResponse(None)) is None


def test_a_stream_is_shown_once_it_is_finished(loaded, found):
    read = []
    response = StreamingResponse((read.append(one) or one for one in ("So ", "it is.")), source_nodes=found)
    assert shown(loaded, response) is None
    assert read == []  # showing it takes nothing out of it
    response.print_response_stream()
    assert inside(shown(loaded, response)).one("div", "answer")["text"] == "AnswerSo it is."


def test_an_asynchronous_stream_is_shown_once_it_is_finished(loaded, found):
    async def told():
        yield "So "
        yield "it is."

    async def run():
        response = AsyncStreamingResponse(told(), source_nodes=found)
        assert shown(loaded, response) is None
        with pytest.raises(QueryError, match="Read an asynchronous stream to its end first"):
            show(response)
        stream = response.async_response_gen()
        assert await anext(stream) == "So "
        assert shown(loaded, response) is None
        async for _ in stream:
            pass
        return response

    response = asyncio.run(run())
    assert inside(shown(loaded, response)).one("div", "answer")["text"] == "AnswerSo it is."


def test_a_chat_engine_that_streams(loaded, found):
    response = StreamingAgentChatResponse(source_nodes=found)
    assert shown(loaded, response) is None
    response.is_done, response.response = True, "So it is."
    assert inside(shown(loaded, response)).one("div", "answer")["text"] == "AnswerSo it is."


def test_unloading_brings_back_what_was_there(shell, found):
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(list, lambda value: f"<b>{len(value)}</b>")
    shell.run_line_magic("load_ext", "llama_index_mm")
    assert "<iframe" in shown(shell, found)
    shell.run_line_magic("unload_ext", "llama_index_mm")
    assert shown(shell, found) == "<b>2</b>"
    assert shown(shell, found[0]) is None
    formatter.pop(list)
    shell.run_line_magic("load_ext", "llama_index_mm")
    assert "<iframe" in shown(shell, found[0])


def test_loading_twice_is_loading_once(loaded, found):
    import llama_index_mm

    llama_index_mm.load_ipython_extension(loaded)
    llama_index_mm.unload_ipython_extension(loaded)
    assert shown(loaded, found) is None
    llama_index_mm.unload_ipython_extension(loaded)


def test_a_cell_that_ends_in_results(loaded, found, capsys):
    from IPython.utils.capture import capture_output

    loaded.user_ns["found"] = found
    with capture_output(display=True) as captured:
        assert loaded.run_cell("from IPython.display import display\ndisplay(found)").success
    assert "<iframe" in captured.outputs[0].data["text/html"]


def test_the_frame_lets_nothing_out(loaded, found):
    frame = Page(shown(loaded, found)).one("iframe")
    assert frame["sandbox"] == "allow-scripts"  # and no allow-same-origin, which would give it the notebook
    assert Page(show(found, interactive=False)._repr_html_()).one("iframe")["sandbox"] == ""
    page = Page(frame["srcdoc"])
    assert page.one("base")["href"] == "about:srcdoc"  # links to cards stay in the frame
    (policy,) = [one["content"] for one in page.all("meta") if "content" in one and "default-src" in one["content"]]
    assert policy.startswith("default-src 'none';")
    assert policy.endswith("; base-uri about:")


def test_hostile_text_stays_in_the_attribute(loaded):
    node = ImageMedia.create(f"/none/{HOSTILE}.png", digest=DIGEST, text=HOSTILE, metadata={HOSTILE: HOSTILE})
    response = Response(HOSTILE, source_nodes=[NodeWithScore(node=node)])
    for markup in (shown(loaded, response), show(response, title=HOSTILE)._repr_html_()):
        outer = Page(markup)
        assert [one["tag"] for one in outer.elements] == ["div", "iframe"]
        assert not inside(markup).all("script")


def test_show_and_save(found, tmp_path):
    made = show(found, title="the sea")
    assert isinstance(made, Shown)
    assert repr(made) == "Shown('the sea', 2 results)"
    path = made.save(tmp_path / "out" / "sea.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.one("title")["text"] == page.one("h1")["text"] == page.one("h2")["text"] == "the sea"
    assert "unseen" in page.all("header")[0]["class"]  # the same words stand below
    assert not page.all("base")
    assert show([Section("a", found), Section("b", [])]).title == "Results"
    assert show(Section("a", found)).title == "a"


def test_show_reads_a_stream_to_its_end(found):
    response = StreamingResponse((one for one in ("So ", "it is.")), source_nodes=found)
    assert show(response).sections[0].answer == "So it is."
    assert response.response_txt == "So it is."


def test_what_was_asked_with_is_shown(found, make):
    page = inside(show(found, query_media=make.picture("asked.png"))._repr_html_())
    assert page.one("figure", "asked")["text"] == "Asked with asked.png"


def test_the_bytes_of_an_output_are_bounded(found):
    markup = show(found, max_bytes=10)._repr_html_()
    assert not inside(markup).all("img")
    assert "limit is 10 bytes" in html.unescape(markup)


@pytest.mark.parametrize("value", ["text", 7, None, [1], Response, iter(())])
def test_what_can_not_be_shown(value):
    with pytest.raises(QueryError, match="Expected nodes, results of a retriever, sections or a finished response, got"):
        show(value)
