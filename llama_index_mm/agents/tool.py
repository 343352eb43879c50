"""The tool by which LlamaIndex's agents find media."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import ValidationError
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools.types import AsyncBaseTool, ToolMetadata, ToolOutput
from typing_extensions import Unpack

from llama_index_mm.agents.allowed import AllowedFiles
from llama_index_mm.agents.arguments import SearchArguments, told
from llama_index_mm.agents.shown import ShowLimits, blocks_of
from llama_index_mm.answers import NumberSources
from llama_index_mm.errors import EncodeError, FilterError, MediaError, QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import Modality
from llama_index_mm.retrieval import MediaQuery
from llama_index_mm.retrieval.options import RetrieverOptions
from llama_index_mm.stores import NodeStore

__all__ = ["BAD_CALL", "MediaRetrieverTool"]

BAD_CALL = (ValidationError, QueryError, FilterError, MediaError, EncodeError)  # what arguments can be to blame for

_PARTS: tuple[Modality, ...] = ("image", "audio", "mesh")
_DESCRIPTION = (
    "Searches a collection of pictures, recordings, 3D models and texts, by words or by an example. Gives the best results "
    "with their file, time span, score and text, and shows their pictures. Find more like a result by giving its id as image, "
    "audio or mesh."
)


class MediaRetrieverTool(AsyncBaseTool):
    """Search for agents: words, examples and conditions in; numbered sources, pictures and seconds of sound out.

    The output's blocks are for the LLM: `FunctionAgent` passes them on as they are, `ReActAgent` their text. ``raw_output`` has
    the nodes, numbered, so that ``citations_of(output.raw_output)`` tells the sources. A call with wrong arguments gives an
    output with ``is_error`` and a text by which an LLM can mend it, and no exception. The arguments are those of
    `SearchArguments`.

    Args:
        retriever: what searches. A call that asks for more results than it gives gets what it gives.
        store: the store whose nodes and files may be named in a call; None for none.
        media_roots: further folders whose files may be named in a call. All other paths are refused.
        llm_media: what the agent's LLM can take besides text, of ``"image"`` and ``"audio"``.
        limits: on what is shown of results.
        node_postprocessors: such as `MediaRerank`; sources are numbered after them.
        name: by which the LLM calls it.
        description: from which the LLM knows when to.

    Raises:
        QueryError: a kind of medium that is unknown, or a folder that is none.

    Example:
        >>> tool = MediaRetrieverTool.from_index(index)
        >>> agent = FunctionAgent(tools=[tool], llm=llm)
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        *,
        store: NodeStore | None = None,
        media_roots: Sequence[Path | str] = (),
        llm_media: Collection[str] = ("image",),
        limits: ShowLimits | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        name: str = "search_media",
        description: str = _DESCRIPTION,
    ) -> None:
        if unknown := sorted(set(llm_media) - {"image", "audio"}):
            raise QueryError(f"Unknown media {unknown} in llm_media; there are: image, audio. Mesh views are images.")
        self._make: Callable[[int], BaseRetriever] = lambda k: retriever
        self._allowed = AllowedFiles(store, media_roots)
        self._llm_media = tuple(llm_media)
        self._limits = limits or ShowLimits()
        self._postprocessors = tuple(node_postprocessors)
        self._metadata = ToolMetadata(name=name, description=description, fn_schema=SearchArguments)

    @classmethod
    def from_index(
        cls,
        index: MultiModalIndex,
        *,
        similarity_top_k: int = 5,
        media_roots: Sequence[Path | str] = (),
        llm_media: Collection[str] = ("image",),
        limits: ShowLimits | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        name: str = "search_media",
        description: str = _DESCRIPTION,
        **options: Unpack[RetrieverOptions],
    ) -> "MediaRetrieverTool":
        """Make the tool of an index; it follows what the index learns and takes in later.

        Args:
            index: what is searched, and whose files may be named.
            similarity_top_k: how many results a call gets that doesn't say.
            media_roots: as in the class, and so on.
            llm_media: likewise.
            limits: likewise.
            node_postprocessors: likewise.
            name: likewise.
            description: likewise.
            **options: of ``index.as_retriever``.
        """

        def make(k: int) -> BaseRetriever:
            return index.as_retriever(similarity_top_k=k or similarity_top_k, **options)

        tool = cls(
            make(0),
            store=index.store,
            media_roots=media_roots,
            llm_media=llm_media,
            limits=limits,
            node_postprocessors=node_postprocessors,
            name=name,
            description=description,
        )
        tool._make = make
        return tool

    @property
    def metadata(self) -> ToolMetadata:
        """Name, description and schema of the arguments."""
        return self._metadata

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Search; see `SearchArguments`. Words may be given alone, in first place."""
        try:
            asked, query, retriever = self._asked(args, kwargs)
            found = retriever.retrieve(query)
            for one in self._postprocessors:
                found = one.postprocess_nodes(found, query_bundle=query)
            return self._told(asked, found, _given(args, kwargs))
        except BAD_CALL as error:
            return self._refused(error, _given(args, kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Like `call`, off the event loop. When it is cancelled, no further step is begun."""
        try:
            asked, query, retriever = await asyncio.to_thread(self._asked, args, kwargs)
            found = await retriever.aretrieve(query)
            for one in self._postprocessors:
                found = await one.apostprocess_nodes(found, query_bundle=query)
            return await asyncio.to_thread(self._told, asked, found, _given(args, kwargs))
        except BAD_CALL as error:
            return self._refused(error, _given(args, kwargs))

    def query_of(self, asked: SearchArguments) -> MediaQuery:
        """The query that arguments stand for.

        Raises:
            QueryError: a file that may not be named, a language that is no code, or nothing is asked.
        """
        given: dict[str, Any] = {
            kind: self._allowed.find(kind, name) for kind in _PARTS if (name := getattr(asked, kind).strip())
        }
        if not given and not asked.text.strip():
            raise QueryError("Nothing is asked. Give text, image, audio or mesh.")
        return MediaQuery(
            asked.text,
            modalities=tuple(asked.modalities),
            filters=asked.metadata_filters,
            language=tuple(asked.language) or None,
            **given,
        )

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[SearchArguments, MediaQuery, BaseRetriever]:
        if len(args) > 1 or (args and "text" in kwargs):
            raise QueryError(f"Expected text alone in first place, got {len(args)} values. Give arguments by their names.")
        asked = SearchArguments.model_validate(_given(args, kwargs))
        return asked, self.query_of(asked), self._make(asked.top_k)

    def _told(self, asked: SearchArguments, found: list[NodeWithScore], given: dict[str, Any]) -> ToolOutput:
        found = found[: asked.top_k] if asked.top_k else found
        return ToolOutput(
            tool_name=self._metadata.get_name(),
            blocks=blocks_of(found, allowed=self._allowed, llm_media=self._llm_media, limits=self._limits),
            raw_input=given,
            raw_output=NumberSources(llm_media=self._llm_media).postprocess_nodes(found),
        )

    def _refused(self, error: Exception, given: dict[str, Any]) -> ToolOutput:
        reason = told(error) if isinstance(error, ValidationError) else str(error)
        return ToolOutput(
            tool_name=self._metadata.get_name(),
            content=f"This call can't be answered: {reason}",
            raw_input=given,
            raw_output=[],
            is_error=True,
            exception=error,
        )


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names; text may stand alone in first place."""
    return {**({"text": args[0]} if args else {}), **kwargs}
