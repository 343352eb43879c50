import logging
from http import HTTPStatus

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LLMMetadata,
    TextBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.tools import FunctionTool

from llama_index_mm.answers import MediaFallbackLLM, adapt_to_llm, with_media_fallback
from llama_index_mm.answers.fallback import refuses_media, without_media
from llama_index_mm.errors import QueryError

PICTURE = ChatMessage(role="user", blocks=[TextBlock(text="a door"), ImageBlock(image=b"x", image_mimetype="image/png")])


class Status(Exception):
    def __init__(self, status, text="no"):
        super().__init__(text)
        self.status_code = status


class Picky(FunctionCallingLLM):
    """Raises at media: at once, or, in streams, before or after the first piece; calls the tool it is given."""

    error: object = None
    after: int = 0
    accepts_media: tuple = ("image",)
    _asked: list = PrivateAttr(default_factory=list)

    @property
    def metadata(self):
        return LLMMetadata(
            context_window=9000, num_output=7, is_chat_model=True, is_function_calling_model=True, model_name="p"
        )

    def _check(self, messages):
        self._asked.append([[block.block_type for block in message.blocks] for message in messages])
        if any(block.block_type != "text" for message in messages for block in message.blocks):
            raise self.error

    def chat(self, messages, tools=None, **_):
        self._check(messages)
        extra = {"tool_calls": [{"time": "noon"}]} if tools else {}
        return ChatResponse(message=ChatMessage(role="assistant", content="noon", additional_kwargs=extra))

    async def achat(self, messages, **kwargs):
        return self.chat(messages, **kwargs)

    def stream_chat(self, messages, **_):
        def pieces():
            if not self.after:
                self._check(messages)
            for at, word in enumerate(("no", "on"), 1):
                yield ChatResponse(message=ChatMessage(role="assistant", content="noon"[: 2 * at]), delta=word)
                if self.after:
                    self._check(messages)

        return pieces()

    async def astream_chat(self, messages, **_):
        async def pieces():
            for piece in self.stream_chat(messages):
                yield piece

        return pieces()

    def complete(self, prompt, formatted=False, **_):
        return CompletionResponse(text="whole")

    async def acomplete(self, prompt, formatted=False, **_):
        return CompletionResponse(text="whole")

    def stream_complete(self, prompt, formatted=False, **_):
        return iter([CompletionResponse(text="piece", delta="piece")])

    async def astream_complete(self, prompt, formatted=False, **_):
        async def pieces():
            yield CompletionResponse(text="piece", delta="piece")

        return pieces()

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, **_):
        return {"messages": [*(chat_history or []), *([user_msg] if user_msg else [])], "tools": list(tools)}

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **_):
        calls = response.message.additional_kwargs.get("tool_calls", [])
        return [ToolSelection(tool_id="1", tool_name="Answer", tool_kwargs=call) for call in calls]


class Answer(BaseModel):
    """When."""

    time: str


ERRORS = [
    ValueError("Unsupported content block type"),
    NotImplementedError("audio"),
    Status(400),
    Status(415),
    Status(404, "No endpoints found that support image input"),
    Status(500, "image input is not supported"),
]
OTHERS = [Status(401), Status(429, "too many images"), Status(500), ConnectionError("image"), RuntimeError("out of memory")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_every_door_asks_again_with_text(error, caplog):
    llm = MediaFallbackLLM(Picky(error=error))
    assert refuses_media(error)
    assert llm.chat([PICTURE]).message.content == "noon"
    assert (await llm.achat([PICTURE])).message.content == "noon"
    assert [piece.delta for piece in llm.stream_chat([PICTURE])] == ["no", "on"]
    assert [piece.delta async for piece in await llm.astream_chat([PICTURE])] == ["no", "on"]
    assert llm.llm._asked == [[["text", "image"]], [["text"]]] * 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4


@pytest.mark.parametrize("error", OTHERS, ids=repr)
async def test_other_errors_come_through(error):
    llm = MediaFallbackLLM(Picky(error=error))
    assert not refuses_media(error)
    with pytest.raises(type(error)):
        llm.chat([PICTURE])
    with pytest.raises(type(error)):
        await llm.achat([PICTURE])
    with pytest.raises(type(error)):
        list(llm.stream_chat([PICTURE]))
    with pytest.raises(type(error)):
        [piece async for piece in await llm.astream_chat([PICTURE])]
    assert len(llm.llm._asked) == 4


async def test_streams_that_refuse_at_once_are_asked_again(caplog):
    """Integrations such as Ollama's look at the messages before they give a stream."""

    class Eager(Picky):
        def stream_chat(self, messages, **_):
            self._check(messages)
            return iter([ChatResponse(message=ChatMessage(role="assistant", content="noon"), delta="noon")])

        async def astream_chat(self, messages, **_):
            given = self.stream_chat(messages)

            async def pieces():
                for piece in given:
                    yield piece

            return pieces()

    llm = MediaFallbackLLM(Eager(error=ValueError("Unsupported content block type")))
    assert [piece.delta for piece in llm.stream_chat([PICTURE])] == ["noon"]
    assert [piece.delta async for piece in await llm.astream_chat([PICTURE])] == ["noon"]
    assert llm.llm._asked == [[["text", "image"]], [["text"]]] * 2


async def test_text_is_asked_once():
    class Broken(Picky):
        def stream_chat(self, messages, **_):
            self._check(messages)

            def pieces():
                raise ValueError("image")
                yield

            return pieces()

        async def astream_chat(self, messages, **_):
            given = self.stream_chat(messages)

            async def pieces():
                for piece in given:
                    yield piece

            return pieces()

    llm = MediaFallbackLLM(Broken(error=Status(400)))
    with pytest.raises(ValueError, match="image"):
        list(llm.stream_chat([PICTURE]))
    with pytest.raises(ValueError, match="image"):
        [piece async for piece in await llm.astream_chat([PICTURE])]
    assert llm.llm._asked == [[["text", "image"]], [["text"]]] * 2


async def test_what_went_out_stands():
    llm = MediaFallbackLLM(Picky(error=ValueError("image"), after=1))
    stream = llm.stream_chat([PICTURE])
    assert next(stream).delta == "no"
    with pytest.raises(ValueError, match="image"):
        next(stream)
    with pytest.raises(ValueError, match="image"):
        [piece async for piece in await llm.astream_chat([PICTURE])]


def test_an_error_without_media_comes_through():
    class Broken(Picky):
        def _check(self, messages):
            super()._check([])
            raise Status(400)

    llm = MediaFallbackLLM(Broken())
    with pytest.raises(Status):
        llm.chat([ChatMessage(content="text")])
    assert len(llm.llm._asked) == 1
    with pytest.raises(Status):  # and that of the second try
        llm.chat([PICTURE])
    assert len(llm.llm._asked) == 3


PROMPT = RichPromptTemplate(
    "{% chat role='user' %}{% for m in messages %}{% for b in m.blocks %}{% if b.block_type == 'image' %}"
    "{{ b.inline_url() | image }}{% else %}{{ b.text }}{% endif %}{% endfor %}{% endfor %}{{ asked }}{% endchat %}"
)


async def test_structured_answers():
    llm = MediaFallbackLLM(Picky(error=Status(400)))
    given = {"messages": [PICTURE], "asked": "When?"}
    assert llm.structured_predict(Answer, PROMPT, **given) == Answer(time="noon")
    assert await llm.astructured_predict(Answer, PROMPT, **given) == Answer(time="noon")
    assert llm.llm._asked == [[["text", "image", "text"]], [["text", "text"]]] * 2
    assert llm.predict(PROMPT, **given) == "noon"
    assert await llm.apredict(PROMPT, **given) == "noon"
    structured = with_media_fallback(Picky(error=Status(400)).as_structured_llm(Answer))
    assert type(structured).__name__ == "StructuredLLM"
    assert structured.chat([PICTURE]).raw == Answer(time="noon")


async def test_an_object_that_can_not_be_read_is_no_refusal():
    """The LLM took the picture; asking again without it would give an answer that has not seen it."""

    class Vague(Picky):
        reply: dict = {"when": "in the image"}  # noqa: RUF012

        def _check(self, messages):
            self._asked.append([[block.block_type for block in message.blocks] for message in messages])

        def chat(self, messages, tools=None, **_):
            self._check(messages)
            extra = {"tool_calls": [self.reply] if self.reply else []}
            return ChatResponse(message=ChatMessage(role="assistant", content="a door", additional_kwargs=extra))

        def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **_):
            if not response.message.additional_kwargs["tool_calls"]:
                raise ValueError("Expected at least one tool call, but got 0 tool calls.")
            return super().get_tool_calls_from_response(response)

    given = {"messages": [PICTURE], "asked": "When?"}
    for reply in ({"when": "in the image"}, {}):
        llm = MediaFallbackLLM(Vague(reply=reply))
        with pytest.raises(ValueError, match=r"validation error|at least one tool call"):
            llm.structured_predict(Answer, PROMPT, **given)
        with pytest.raises(ValueError, match=r"validation error|at least one tool call"):
            await llm.astructured_predict(Answer, PROMPT, **given)
        assert llm.llm._asked == [[["text", "image", "text"]]] * 2


async def test_a_block_that_structured_output_does_not_know_is_one():
    llm = MediaFallbackLLM(Picky(error=ValueError("Unsupported content block type: ImageBlock")))
    assert llm.structured_predict(Answer, PROMPT, messages=[PICTURE], asked="When?") == Answer(time="noon")
    assert llm.llm._asked == [[["text", "image", "text"]], [["text", "text"]]]


def test_tools():
    llm = MediaFallbackLLM(Picky(error=Status(400)))
    tool = FunctionTool.from_defaults(lambda time: f"at {time}", name="Answer", description="when")
    response = llm.chat_with_tools([tool], user_msg=PICTURE)
    assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(response)] == [{"time": "noon"}]
    assert llm.predict_and_call([tool], user_msg=PICTURE).response == "at noon"
    with pytest.raises(NotImplementedError, match="MockLLM calls no functions"):
        MediaFallbackLLM(MockLLM()).chat_with_tools([tool], user_msg="?")


async def test_everything_else_is_the_llms_own():
    inner = Picky(system_prompt="Be brief.", error=Status(400))
    llm = MediaFallbackLLM(inner)
    assert (llm.metadata, llm.system_prompt, llm.accepts_media) == (inner.metadata, "Be brief.", ("image",))
    assert llm.complete("x").text == (await llm.acomplete("x")).text == "whole"
    assert [piece.delta for piece in llm.stream_complete("x")] == ["piece"]
    assert [piece.delta async for piece in await llm.astream_complete("x")] == ["piece"]
    manager = CallbackManager([])
    llm.callback_manager = manager
    assert inner.callback_manager is manager
    with pytest.raises(AttributeError):
        llm.nothing  # noqa: B018
    assert with_media_fallback(llm) is llm
    assert adapt_to_llm(llm) == adapt_to_llm(inner)
    assert MediaFallbackLLM.class_name() == "MediaFallbackLLM"


def test_messages_without_media():
    alone = ChatMessage(role="user", blocks=[AudioBlock(audio=b"x", format="wav")])
    empty = ChatMessage(role="assistant", blocks=[])
    plain = without_media([PICTURE, alone, empty])
    assert [message.content for message in plain] == ["a door", "(Here was a picture or a sound, which can't be given.)", None]
    assert [len(message.blocks) for message in (PICTURE, alone, empty)] == [2, 1, 0]


def test_status_of_other_clients():
    class Botocore(Exception):
        response = {"ResponseMetadata": {"HTTPStatusCode": 400}}  # noqa: RUF012

    class Google(Exception):
        code = 400

    class Httpx(Exception):
        response = Status(429)

    class GoogleCore(Exception):
        code = HTTPStatus.TOO_MANY_REQUESTS

    refused = [refuses_media(error("image")) for error in (Botocore, Google, Httpx, GoogleCore)]
    assert refused == [True, True, False, False]


def named(kind, model):
    """An LLM that says it is an integration, with the name of a model."""

    class Named(MockLLM):
        @classmethod
        def class_name(cls):
            return kind

        @property
        def metadata(self):
            return LLMMetadata(model_name=model, context_window=8000, num_output=-1)

    return Named()


@pytest.mark.parametrize(
    ("kind", "name", "media", "known_by"),
    [
        ("openai_llm", "gpt-4o-mini", ("image",), "model"),
        ("openai_llm", "gpt-4o-audio-preview", ("audio",), "model"),
        ("openai_llm", "gpt-3.5-turbo", (), "model"),
        ("openai_llm", "o1-mini", (), "model"),
        ("openai_responses_llm", "gpt-5-mini", ("image",), "model"),
        ("Anthropic_LLM", "claude-sonnet-4-20250514", ("image",), "model"),
        ("Anthropic_LLM", "claude-2.1", (), "model"),
        ("GenAI", "gemini-2.5-flash", ("image",), "model"),
        ("Ollama_llm", "llava:13b", ("image",), "model"),
        ("Ollama_llm", "qwen2.5vl:7b", ("image",), "model"),
        ("Ollama_llm", "llama3.1", (), "model"),
        ("MistralAI_LLM", "pixtral-12b", ("image",), "model"),
        ("MistralAI_LLM", "open-mistral-7b", (), "model"),
        ("Bedrock_Converse_LLM", "anthropic.claude-3-haiku-20240307-v1:0", ("image",), "model"),
        ("OpenAILike", "Qwen/Qwen2.5-Omni-7B", ("image", "audio"), "model"),
        ("OpenAILike", "our-own", ("image",), "default"),
        ("Unheard_of", "anything", ("image",), "default"),
    ],
)
def test_what_a_model_takes_by_its_name(kind, name, media, known_by):
    can = adapt_to_llm(named(kind, name))
    assert (can.media, can.known_by) == (media, known_by)
    assert (can.context_tokens, can.answer_tokens, can.source_tokens) == (8000, 256, 8000 - 256 - 512)


def test_who_knows_better_says_so():
    can = adapt_to_llm(named("openai_llm", "gpt-3.5-turbo"), llm_media=["audio"])
    assert (can.image, can.audio, can.known_by) == (False, True, "given")
    assert adapt_to_llm(Picky()).known_by == "accepts_media"
    for wrong in (["video"], "image", ["image", "mesh"]):
        with pytest.raises(QueryError, match="Expected llm_media of 'image' and 'audio'"):
            adapt_to_llm(Picky(), llm_media=wrong)


@pytest.mark.parametrize("module", ["openai", "openai_like"])
def test_names_of_the_integrations_that_are_here(module):
    """The table goes by class_name(), which must be what the integration says."""
    package = pytest.importorskip(f"llama_index.llms.{module}")
    llm = package.OpenAI(model="gpt-4o", api_key="k") if module == "openai" else package.OpenAILike(model="llava", api_key="k")
    assert adapt_to_llm(llm).known_by == "model"
