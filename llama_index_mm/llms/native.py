"""llama.cpp's server in this process: loading a model quietly, and reading what comes back."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

from llama_index_mm._optional import require
from llama_index_mm.errors import ModelError, QueryError

__all__ = ["Chunk", "check", "delta_of", "load", "wire"]

Chunk: TypeAlias = dict[str, Any]
"""An answer of the server, or a piece of a streamed one, in the form of OpenAI's chat completions."""

_QUIET = -1  # verbosity at which llama.cpp writes nothing at all
_MOST_THREADS = 8  # small models get no faster beyond

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def load(path: Path, *, context_window: int, n_threads: int | None) -> Any:
    """Load a GGUF model and start its server; it answers one request at a time, and queues the others.

    The server also listens on a random port of the loopback address, which can't be turned off. It asks for a random
    key there, so that nobody else can use it or read the prompts.

    Args:
        path: the GGUF file; ``~`` stands for the home folder.
        context_window: tokens that prompt and answer may have together.
        n_threads: CPU threads; ``None`` stands for half the cores this process may use, 1 to 8.

    Raises:
        MissingExtraError: ``xllamacpp`` is not installed.
        ModelError: the file is missing or can't be loaded.
    """
    xllamacpp = require("xllamacpp", extra="offline")
    path = path.expanduser()
    if not path.is_file():
        raise ModelError(f"There is no model file {path}. Give the path of a GGUF chat model as model_path.")
    params = xllamacpp.CommonParams()
    params.verbosity = _QUIET
    params.model.path = str(path)
    params.n_ctx = context_window
    params.n_parallel = 1
    params.cache_ram_mib = 0  # no copies of earlier prompts in memory
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads or _threads()
    params.ui = params.endpoint_slots = False
    params.cors_origins = "http://localhost"
    params.api_keys = [secrets.token_hex(32)]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelError(
            f"{path} can't be loaded. It has to be a whole GGUF file of a chat model that the installed xllamacpp "
            f"knows, and memory has to suffice for it and {context_window} tokens. xllamacpp says: {error}"
        ) from error


def wire(messages: Sequence[ChatMessage], instructions: str | None) -> list[dict[str, str]]:
    """Put a chat in the words of the server.

    Args:
        messages: the chat; a role that the server may not know counts as the user.
        instructions: system message put first if the chat has none.

    Raises:
        QueryError: there are no messages, or one holds anything but text.
    """
    if not messages:
        raise QueryError("A chat needs at least one message, and there is none.")
    chat = [{"role": _ROLES.get(message.role, "user"), "content": _text(message)} for message in messages]
    if instructions and all(message["role"] != "system" for message in chat):
        chat.insert(0, {"role": "system", "content": instructions})
    return chat


def check(answer: Chunk) -> None:
    """Raise what an answer says went wrong, if anything did.

    Raises:
        QueryError: the prompt is too long, or the request is not understood.
        ModelError: anything else.
    """
    error = answer.get("error")
    if error is None:
        return
    if error.get("type") == "exceed_context_size_error":
        raise QueryError(
            f"The prompt has {error.get('n_prompt_tokens', 'too many')} tokens, and the context window "
            f"{error.get('n_ctx', 'fewer')}. Retrieve fewer or shorter passages, or raise context_window."
        )
    if error.get("code") == 400:
        raise QueryError(f"llama.cpp refuses the request: {error.get('message', error)}")
    raise ModelError(f"llama.cpp failed: {error.get('message', error)}")


def delta_of(piece: Any) -> str:
    """Text that a piece of a stream adds; raises the error that it brings."""
    if isinstance(piece, Exception):
        raise piece
    check(piece)
    choices = piece.get("choices")
    return (choices[0].get("delta", {}).get("content") or "") if choices else ""


def _threads() -> int:
    """Half the usable cores: a thread that waits for a busy core holds up all others at every layer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, 1), _MOST_THREADS)


def _text(message: ChatMessage) -> str:
    texts = []
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            raise QueryError(
                f"LocalLLM takes text only, and a message holds a {type(block).__name__}. Ask through "
                "index.as_query_engine(), which turns media to text for it, or use a model that takes media."
            )
        texts.append(block.text)
    return "\n".join(texts)
