"""An LLM that answers from text where it refuses pictures or sounds."""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from json import JSONDecodeError
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    ImageBlock,
    LLMMetadata,
    TextBlock,
    VideoBlock,
)
from llama_index.core.bridge.pydantic import Field, SerializeAsAny, ValidationError
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate

__all__ = ["MediaFallbackLLM", "refuses_media", "with_media_fallback", "without_media"]

_REFUSED = (400, 413, 415, 422)  # what services answer to a request that they can't take
_OTHERWISE = (401, 402, 403, 407, 408, 409, 429)  # of the account, the rate or the time
_ABOUT_MEDIA = re.compile(r"image|audio|picture|vision|multi-?modal|modalit|content.?(block|part|type)", re.IGNORECASE)
_UNREAD = re.compile(r"json|could not be parsed|validation error", re.IGNORECASE)  # how LlamaIndex tells it
_MEDIA = (ImageBlock, AudioBlock, VideoBlock)
_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_R = TypeVar("_R")


def refuses_media(error: BaseException) -> bool:
    """Whether an LLM's error may be about the media in a request, so that it is worth asking again without them.

    Statuses 400, 413, 415 and 422 may be; those of accounts, rates and time-outs are not; others (404 of routers, 500 of
    llama.cpp) are if the message speaks of media. Without a status it may be a `NotImplementedError`, `ValueError` or
    `TypeError`, which integrations raise for blocks that they don't know.
    """
    status = _status(error)
    if status in _REFUSED:
        return True
    if status in _OTHERWISE or isinstance(error, ConnectionError | TimeoutError):
        return False
    if status is None and isinstance(error, NotImplementedError | ValueError | TypeError | FileNotFoundError):
        return True
    return _ABOUT_MEDIA.search(str(error)) is not None


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for holder in (error, response):
        for name in ("status_code", "status", "code"):
            if isinstance(value := getattr(holder, name, None), int) and not isinstance(value, bool):
                return int(value)  # http.HTTPStatus, too
    if isinstance(response, dict):  # of botocore
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return value if type(value) is int else None
    return None


def _is_of_answer(error: Exception) -> bool:
    """Whether it may be that an answer is not the object that was asked for; a second try would hide that."""
    if not isinstance(error, ValueError) or _status(error) is not None:
        return False
    unread = isinstance(error, ValidationError | JSONDecodeError) or _UNREAD.search(str(error)) is not None
    return unread or _ABOUT_MEDIA.search(str(error)) is None


def without_media(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Copies of messages without pictures, sounds and videos; one that held nothing else says so."""
    copies = []
    for message in messages:
        blocks = [block for block in message.blocks if not isinstance(block, _MEDIA)]
        if message.blocks and not blocks:
            blocks = [TextBlock(text="(Here was a picture or a sound, which can't be given.)")]
        copies.append(message.model_copy(update={"blocks": blocks}))
    return copies


def _has_media(messages: Sequence[ChatMessage]) -> bool:
    return any(isinstance(block, _MEDIA) for message in messages for block in message.blocks)


class _WithoutMedia(BasePromptTemplate):
    """A prompt whose messages are made by another, and lose their media."""

    prompt: SerializeAsAny[BasePromptTemplate]

    def partial_format(self, **kwargs: Any) -> "_WithoutMedia":
        return _around(self.prompt.partial_format(**kwargs))

    def format(self, llm: Any = None, **kwargs: Any) -> str:
        return self.prompt.format(llm=llm, **kwargs)

    def format_messages(self, llm: Any = None, **kwargs: Any) -> list[ChatMessage]:
        messages = without_media(self.prompt.format_messages(llm=llm, **kwargs))
        if self.output_parser is not None and self.prompt.output_parser is None:
            messages = self.output_parser.format_messages(messages)
        return messages

    def get_template(self, llm: Any = None) -> str:
        return self.prompt.get_template(llm=llm)


def _around(prompt: BasePromptTemplate) -> _WithoutMedia:
    return _WithoutMedia(
        prompt=prompt, metadata=prompt.metadata, template_vars=prompt.template_vars, kwargs=prompt.kwargs, output_parser=None
    )


class _Request:
    """What an LLM is asked, and the same without media."""

    def __init__(
        self, full: Any, messages: Callable[[], Sequence[ChatMessage]], plain: Callable[[], Any], *, structured: bool = False
    ) -> None:
        self.full = full
        self._messages = messages
        self._plain = plain
        self._structured = structured
        self._again = False

    def instead(self, error: Exception) -> Any:
        """What to ask after an error; raises the error where asking without media would not help."""
        of_answer = self._structured and _is_of_answer(error)
        if self._again or of_answer or not refuses_media(error) or not _has_media(self._messages()):
            raise error
        self._again = True
        _logger.warning("The LLM refuses pictures or sounds and is asked again with their text: %s", error)
        return self._plain()


def _chat(messages: Sequence[ChatMessage]) -> _Request:
    return _Request(messages, lambda: messages, lambda: without_media(messages))


def _template(prompt: BasePromptTemplate, given: dict[str, Any]) -> _Request:
    return _Request(prompt, lambda: prompt.format_messages(**given), lambda: _around(prompt), structured=True)


def _whole(request: _Request, call: Callable[[Any], _R]) -> _R:
    try:
        return call(request.full)
    except Exception as error:
        other = request.instead(error)
    return call(other)


async def _awhole(request: _Request, call: Callable[[Any], Awaitable[_R]]) -> _R:
    try:
        return await call(request.full)
    except Exception as error:
        other = request.instead(error)
    return await call(other)


def _stream(request: _Request, call: Callable[[Any], Generator[_T, None, None]]) -> Generator[_T, None, None]:
    """Pieces of an answer; what went out can't be taken back, so an error after the first piece stands."""
    given = _whole(request, call)  # some integrations look at the messages at once

    def pieces() -> Generator[_T, None, None]:
        begun = False
        try:
            for piece in given:
                begun = True
                yield piece
            return
        except Exception as error:
            if begun:
                raise
            other = request.instead(error)
        yield from call(other)

    return pieces()


async def _astream(request: _Request, call: Callable[[Any], Awaitable[AsyncGenerator[_T, None]]]) -> AsyncGenerator[_T, None]:
    given = await _awhole(request, call)

    async def pieces() -> AsyncGenerator[_T, None]:
        begun = False
        try:
            async for piece in given:
                begun = True
                yield piece
            return
        except Exception as error:
            if begun:
                raise
            other = request.instead(error)
        async for piece in await call(other):
            yield piece

    return pieces()


class MediaFallbackLLM(FunctionCallingLLM):
    """An LLM that is asked again with text alone where it refuses pictures or sounds: once, with a warning in the log.

    The texts beside the media, transcripts, labels and facts, are in the request already. Errors that have nothing to do with
    media come through (see `refuses_media`), and so do those of the second try. Everything else is the LLM's own: options,
    callbacks, tools, structured output, other attributes.

    Example:
        >>> llm = MediaFallbackLLM(OpenAILike(model="any", api_base="http://localhost:8000/v1", is_chat_model=True))
    """

    llm: SerializeAsAny[LLM] = Field(description="The LLM that is asked.")

    def __init__(self, llm: LLM, **kwargs: Any) -> None:
        names = ("callback_manager", "messages_to_prompt", "completion_to_prompt", "output_parser", "query_wrapper_prompt")
        own = {name: getattr(llm, name) for name in (*names, "system_prompt", "pydantic_program_mode")}
        super().__init__(llm=llm, **{**own, **kwargs})

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex knows this class."""
        return "MediaFallbackLLM"

    def __getattr__(self, name: str) -> Any:
        """What this class does not know is the LLM's own."""
        if name == "llm" or name.startswith("_"):
            return super().__getattr__(name)  # type: ignore[misc]
        return getattr(self.llm, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Engines set ``callback_manager``; calls are told of by the LLM's own."""
        super().__setattr__(name, value)
        if name == "callback_manager":
            self.llm.callback_manager = value

    @property
    def metadata(self) -> LLMMetadata:
        """Of the LLM."""
        return self.llm.metadata

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat."""
        return _whole(_chat(messages), lambda asked: self.llm.chat(asked, **kwargs))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat."""
        return await _awhole(_chat(messages), lambda asked: self.llm.achat(asked, **kwargs))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a chat piece by piece."""
        return _stream(_chat(messages), lambda asked: self.llm.stream_chat(asked, **kwargs))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a chat piece by piece."""
        return await _astream(_chat(messages), lambda asked: self.llm.astream_chat(asked, **kwargs))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is text anyway."""
        return self.llm.complete(prompt, formatted=formatted, **kwargs)

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is text anyway."""
        return await self.llm.acomplete(prompt, formatted=formatted, **kwargs)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        return self.llm.stream_complete(prompt, formatted=formatted, **kwargs)

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece."""
        return await self.llm.astream_complete(prompt, formatted=formatted, **kwargs)

    def structured_predict(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """Answer as an object of a class."""
        return _whole(
            _template(prompt, prompt_args),
            lambda asked: self.llm.structured_predict(output_cls, asked, llm_kwargs=llm_kwargs, **prompt_args),
        )

    async def astructured_predict(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """Answer as an object of a class."""
        return await _awhole(
            _template(prompt, prompt_args),
            lambda asked: self.llm.astructured_predict(output_cls, asked, llm_kwargs=llm_kwargs, **prompt_args),
        )

    def stream_structured_predict(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """Answer as an object of a class that fills up."""
        return _stream(
            _template(prompt, prompt_args),
            lambda asked: self.llm.stream_structured_predict(output_cls, asked, llm_kwargs=llm_kwargs, **prompt_args),
        )

    async def astream_structured_predict(
        self, output_cls: type[Any], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer as an object of a class that fills up."""
        return await _astream(
            _template(prompt, prompt_args),
            lambda asked: self.llm.astream_structured_predict(output_cls, asked, llm_kwargs=llm_kwargs, **prompt_args),
        )

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Tools that the LLM wants to be called."""
        found: list[ToolSelection] = self._calling().get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )
        return found

    def _prepare_chat_with_tools(self, tools: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self._prepare_chat_with_tools_compat(tools, *args, **kwargs)

    def _prepare_chat_with_tools_compat(self, tools: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = self._calling()._prepare_chat_with_tools_compat(tools, *args, **kwargs)
        return prepared

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Any, allow_parallel_tool_calls: bool = False, **kwargs: Any
    ) -> ChatResponse:
        checked: ChatResponse = self._calling()._validate_chat_with_tools_response(
            response, tools, allow_parallel_tool_calls=allow_parallel_tool_calls, **kwargs
        )
        return checked

    def _calling(self) -> Any:
        if not isinstance(self.llm, FunctionCallingLLM):
            raise NotImplementedError(f"{self.llm.class_name()} calls no functions. Give an LLM that does.")
        return self.llm


def with_media_fallback(llm: LLM) -> LLM:
    """Put an LLM into a `MediaFallbackLLM`, unless it is in one; in a structured LLM, the one within."""
    if isinstance(llm, MediaFallbackLLM):
        return llm
    if isinstance(llm, StructuredLLM):
        return llm.model_copy(update={"llm": with_media_fallback(llm.llm)})
    return MediaFallbackLLM(llm)
