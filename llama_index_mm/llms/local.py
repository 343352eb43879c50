"""A small chat model in this process: llama.cpp through ``xllamacpp``, SmolLM2-135M-Instruct unless told otherwise."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import RichPromptTemplate

from llama_index_mm.llms.native import Chunk, check, delta_of, load, wire
from llama_index_mm.llms.prompts import SMALL_QA_PROMPT
from llama_index_mm.models import ensure

__all__ = ["LocalLLM"]


class LocalLLM(LLM):
    """A GGUF chat model that answers in this process, on the CPU, from text only.

    The model is loaded at the first answer, once per object; several threads may ask at the same time, and are answered
    one after the other. At ``temperature=0`` the same request gets the same answer on the same machine. Further keyword
    arguments of a call (``max_tokens``, ``temperature``, ``stop``, ``seed``, ...) go to llama.cpp for that call only.

    llama.cpp's server listens on a random port of the loopback address; it asks for a random key, so that nobody else
    can use it or read the prompts.

    Raises:
        MissingExtraError: at the first answer, if ``xllamacpp`` is not installed.
        ModelError: at the first answer, if the model's file is missing or can't be loaded; later, if the model fails.
        QueryError: a message holds anything but text, or the prompt is longer than ``context_window``.
    """

    model_config = ConfigDict(protected_namespaces=("pydantic_model_",))

    accepts_media: ClassVar[frozenset[str]] = frozenset()
    """What this model takes besides text: nothing."""

    suggested_sources: ClassVar[int] = 1
    """How many passages it should be given; it mixes several up."""

    qa_prompt: ClassVar[RichPromptTemplate] = SMALL_QA_PROMPT
    """Prompt that suits it."""

    model_path: Path | None = Field(
        default=None,
        description="GGUF file of a chat model; None stands for SmolLM2-135M-Instruct, fetched if need be.",
    )
    context_window: int = Field(default=4096, gt=0, description="Tokens that prompt and answer may have together.")
    max_tokens: int = Field(default=256, gt=0, description="Most tokens of an answer.")
    temperature: float = Field(default=0.0, ge=0.0, description="Randomness of the answer; 0 always takes the likeliest.")
    repeat_penalty: float = Field(
        default=1.0, gt=0.0, description="Above 1 makes words that were just used less likely; 1 is off."
    )
    n_threads: int | None = Field(
        default=None, gt=0, description="CPU threads; None stands for half the cores this process may use, 1 to 8."
    )
    instructions: str | None = Field(
        default="You are a helpful assistant. Answer in one or two short sentences.",
        description="System message of a chat that has none; None leaves that to the model's own chat template.",
    )

    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _server: Any = PrivateAttr(default=None)

    @field_serializer("model_path")
    def _plain_path(self, path: Path | None) -> str | None:
        return None if path is None else str(path)

    @classmethod
    def class_name(cls) -> str:
        """Name of this class in LlamaIndex's serialized form."""
        return "LocalLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Limits of the model, in tokens, and its name."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens,
            is_chat_model=True,
            model_name="SmolLM2-135M-Instruct" if self.model_path is None else self.model_path.stem,
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat. ``additional_kwargs`` of the response tells the tokens of prompt and answer."""
        return self._answer(self._request(messages, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a chat piece by piece; closing the generator stops the model."""
        return self._stream(self._request(messages, kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat in a thread; a cancelled call still computes its answer to the end."""
        return await asyncio.to_thread(self._answer, self._request(messages, kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a chat piece by piece, computed in a thread; closing the generator stops the model."""
        return self._astream(self._request(messages, kwargs))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt as a chat of one user message; ``formatted`` changes nothing."""
        return _completion(self._answer(self._request(_chat(prompt), kwargs)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Like :meth:`complete`, piece by piece; closing the generator stops the model."""
        request = self._request(_chat(prompt), kwargs)

        def pieces() -> CompletionResponseGen:
            for response in self._stream(request):
                yield _completion(response)

        return pieces()

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Like :meth:`complete`, in a thread."""
        return _completion(await asyncio.to_thread(self._answer, self._request(_chat(prompt), kwargs)))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Like :meth:`stream_complete`, computed in a thread."""
        request = self._request(_chat(prompt), kwargs)

        async def pieces() -> CompletionResponseAsyncGen:
            async for response in self._astream(request):
                yield _completion(response)

        return pieces()

    def _request(self, messages: Sequence[ChatMessage], options: dict[str, Any]) -> dict[str, Any]:
        """Put a chat in the words of llama.cpp's server."""
        defaults = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "repeat_penalty": self.repeat_penalty,
            "cache_prompt": False,  # what was asked before must not change an answer, not even by rounding
        }
        return {**defaults, **options, "messages": wire(messages, self.instructions)}

    def _loaded(self) -> Any:
        with self._lock:
            if self._server is None:
                path = ensure("smollm2") / "model.gguf" if self.model_path is None else self.model_path
                self._server = load(path, context_window=self.context_window, n_threads=self.n_threads)
            return self._server

    def _answer(self, request: dict[str, Any]) -> ChatResponse:
        answer: Chunk = self._loaded().handle_chat_completions({**request, "stream": False})
        check(answer)
        message = ChatMessage(role=MessageRole.ASSISTANT, content=answer["choices"][0]["message"]["content"] or "")
        return ChatResponse(message=message, raw=answer, additional_kwargs=answer.get("usage", {}))

    def _produce(self, request: dict[str, Any], put: Callable[[Any], None], stop: threading.Event) -> None:
        """Hand over each piece of an answer, then ``None``; an error instead of a piece if it goes wrong."""

        def take(chunk: Chunk) -> bool:
            put(chunk)
            return stop.is_set()

        try:
            self._loaded().handle_chat_completions({**request, "stream": True}, take)
            put(None)
        except Exception as error:  # raised again where the pieces are read
            put(error)

    def _stream(self, request: dict[str, Any]) -> Generator[ChatResponse, None, None]:
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stop = threading.Event()
        threading.Thread(target=self._produce, args=(request, pieces.put, stop), name="LocalLLM").start()
        text = ""
        try:
            while (piece := pieces.get()) is not None:
                if delta := delta_of(piece):
                    text += delta
                    yield _piece(text, delta, piece)
        finally:
            stop.set()

    async def _astream(self, request: dict[str, Any]) -> AsyncGenerator[ChatResponse, None]:
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def put(piece: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        worker = asyncio.create_task(asyncio.to_thread(self._produce, request, put, stop))
        text = ""
        try:
            while (piece := await pieces.get()) is not None:
                if delta := delta_of(piece):
                    text += delta
                    yield _piece(text, delta, piece)
        finally:
            stop.set()
            await worker


def _chat(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=prompt)]


def _piece(text: str, delta: str, raw: Chunk) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=delta, raw=raw)


def _completion(response: ChatResponse) -> CompletionResponse:
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )
