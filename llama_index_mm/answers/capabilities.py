"""What an LLM can take besides text."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from llama_index.core.base.llms.base import BaseLLM

from llama_index_mm.errors import QueryError

__all__ = ["LLMCapabilities", "adapt_to_llm"]

_KINDS = ("image", "audio")
_NONE = "(?!)"

_GPT_SEES = r"gpt-4o(?!.*audio)|gpt-4\.|gpt-4-(turbo|vision)|gpt-5|chatgpt-4o|o1(?!-(mini|preview))|o3(?!-mini)|o4"
_GPT_HEARS = r"gpt-4o.*audio|gpt-audio"
_CLAUDE_SEES = r"claude-(3|sonnet|opus|haiku|[4-9])"
_OPEN_SEES = (
    r"llava|bakllava|[-_]vl\b|vl[-_:]|vision|pixtral|gemma-?3(?!.*[:-](270m|1b))|gemma-?[4-9]|minicpm-?[vo]"
    r"|internvl|moondream|smolvlm|idefics|paligemma|molmo|phi-?(3\.5|4).*(vision|multimodal)|omni|llama-?4|mistral-small-?3\.[1-9]|glm-4\.\dv"
)
_OPEN_HEARS = r"omni|qwen2?-?audio|ultravox|voxtral|minicpm-?o|phi-?4-multimodal|gemma-?3n"
_MISTRAL_SEES = r"pixtral|mistral-(medium|small)-(latest|2503|2505|2506|2508)|mistral-large-(latest|2512)"
_ROUTED_SEES = "|".join((_GPT_SEES, _CLAUDE_SEES, _OPEN_SEES, r"gemini", r"grok-.*vision|grok-4", _MISTRAL_SEES))
_ROUTED_HEARS = "|".join((_GPT_HEARS, _OPEN_HEARS, r"gemini"))

# class_name() -> (models that see, models that hear), by their names, searched for without regard to case. Read out of the
# integrations themselves: where one raises at an AudioBlock whatever the model (Anthropic, Gemini, GenAI, Ollama, MistralAI:
# "Unsupported content block type") nothing may be said to hear; Bedrock Converse drops sounds with a warning; OpenAI's
# Responses API takes no input_audio. Whoever knows better says so by llm_media.
_KNOWN: dict[str, tuple[str, str]] = {
    "Anthropic_LLM": (_CLAUDE_SEES, _NONE),
    "Bedrock_Converse_LLM": (_CLAUDE_SEES + r"|nova-(lite|pro|premier)|llama3-2-(11|90)b|llama4|pixtral", _NONE),
    "GenAI": (r"gemini", _NONE),
    "Gemini_LLM": (r"gemini", _NONE),
    "Groq": (_OPEN_SEES + r"|scout|maverick", _NONE),
    "HuggingFace_LLM": (_NONE, _NONE),
    "LlamaCPP_llm": (_NONE, _NONE),
    "MistralAI_LLM": (_MISTRAL_SEES, _NONE),
    "Ollama_llm": (_OPEN_SEES, _NONE),
    "OpenAILike": (_ROUTED_SEES, _ROUTED_HEARS),
    "OpenAILikeResponses": (_ROUTED_SEES, _NONE),
    "OpenRouter_LLM": (_ROUTED_SEES, _ROUTED_HEARS),
    "azure_openai_llm": (_GPT_SEES, _GPT_HEARS),
    "azure_openai_responses_llm": (_GPT_SEES, _NONE),
    "litellm_llm": (_ROUTED_SEES, _ROUTED_HEARS),
    "openai_llm": (_GPT_SEES, _GPT_HEARS),
    "openai_responses_llm": (_GPT_SEES, _NONE),
}
_ANY_MODEL = {"OpenAILike", "OpenAILikeResponses", "OpenRouter_LLM", "litellm_llm"}  # whose names may say nothing


@dataclass(frozen=True)
class LLMCapabilities:
    """What an LLM can take.

    Attributes:
        image: whether it takes pictures.
        audio: whether it takes sounds.
        context_tokens: that question, sources and answer may have together.
        answer_tokens: that are kept for the answer.
        known_by: where this comes from: ``"given"``, ``"accepts_media"``, ``"model"`` or ``"default"``.
    """

    image: bool
    audio: bool
    context_tokens: int
    answer_tokens: int
    known_by: str

    @property
    def media(self) -> tuple[str, ...]:
        """Of ``"image"`` and ``"audio"``, those that it takes."""
        return tuple(kind for kind in _KINDS if getattr(self, kind))

    @property
    def source_tokens(self) -> int:
        """Tokens that sources may have so that prompt, a short question and answer fit beside them."""
        return max(0, self.context_tokens - self.answer_tokens - 512)


def adapt_to_llm(llm: BaseLLM, *, llm_media: Collection[str] | None = None) -> LLMCapabilities:
    """Tell what an LLM can take besides text, without asking it.

    In this order: what is given; the LLM's own ``accepts_media``; for integrations of LlamaIndex that are known here, the name
    of the model; else pictures and no sounds, as most chat models have it today. A guess that is wrong costs one refused call,
    if the LLM is in a `MediaFallbackLLM`.

    Args:
        llm: of LlamaIndex.
        llm_media: of ``"image"`` and ``"audio"``, what it takes, where you know better.

    Raises:
        QueryError: ``llm_media`` holds anything else.
    """
    while isinstance(inner := getattr(llm, "llm", None), BaseLLM):  # one around another
        llm = inner
    facts = llm.metadata
    known_by = "given"
    media = llm_media
    if media is None and (stated := getattr(llm, "accepts_media", None)) is not None:
        media, known_by = stated, "accepts_media"
    if media is None and llm.class_name() in _KNOWN:
        patterns = zip(_KINDS, _KNOWN[llm.class_name()], strict=True)
        media = [kind for kind, pattern in patterns if re.search(pattern, facts.model_name, re.IGNORECASE)]
        known_by = "model"
        if not media and llm.class_name() in _ANY_MODEL:
            media = None
    if media is None:
        media, known_by = ("image",), "default"
    if isinstance(media, str) or set(media) - set(_KINDS):
        raise QueryError(f"Expected llm_media of 'image' and 'audio', got {media!r}. Mesh views are images.")
    answer = facts.num_output if facts.num_output > 0 else 256
    return LLMCapabilities("image" in media, "audio" in media, facts.context_window, answer, known_by)
