"""What the web page does with an index: searches, answers that stream, and how things are."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llama_index.core.base.response.schema import Response, StreamingResponse
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import NodeWithScore

from llama_index_mm.answers import check_citations, citations_of, left_out_of
from llama_index_mm.errors import QueryError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.llms import LocalLLM
from llama_index_mm.media import MODALITIES, suffixes
from llama_index_mm.nodes import PREFIX, AudioMedia, MediaNode, modality_of_node, retype
from llama_index_mm.retrieval import MediaQuery, reasons_of
from llama_index_mm.server.web_api import (
    Accepted,
    Answered,
    Asked,
    Failure,
    Finding,
    Found,
    NotGiven,
    NotTaken,
    Reason,
    Sources,
    Status,
    Waiting,
    Words,
)
from llama_index_mm.server.web_errors import RefusedError, failure_of, readable, refusal_of
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.server.web_media import Form, MediaDesk, Ready, address_of
from llama_index_mm.server.web_uploads import Uploads

__all__ = ["AnswerEvent", "WebService"]

AnswerEvent = Waiting | Sources | Words | Answered | Failure
"""One line of an answer that streams."""

_RESULTS = 12  # of a search that doesn't say
_MOST_SOURCES = 10
_PROBLEMS = 20  # files that could not be indexed, of which is told
_SHOWN_TEXT = 4_000  # characters
_ANSWERS = 4  # at a time, of an LLM elsewhere
_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class WebService:
    """An index, apart from HTTP. Everything that computes runs in threads of its own, of which there are few.

    Args:
        index: what is searched. It has to stay open.
        llm: what answers; default is the preset's own.
        limits: on what is done at a time, and on what is kept.
    """

    def __init__(self, index: MultiModalIndex, llm: LLM | None, limits: WebLimits) -> None:
        self._index, self._limits = index, limits
        self.desk = MediaDesk(index.store, limits)
        self.uploads = Uploads(limits)
        self._llm = llm if llm is not None else index.preset.llm() if index.preset.llm is not None else None
        answers = limits.answers or (1 if isinstance(self._llm, LocalLLM) else _ANSWERS)
        self._searching = ThreadPoolExecutor(limits.searches, thread_name_prefix="search")
        self._showing = ThreadPoolExecutor(limits.searches, thread_name_prefix="show")
        self._answering = ThreadPoolExecutor(answers, thread_name_prefix="answer")
        self._turns = asyncio.Semaphore(answers)
        self._at_once = answers
        self._searches = self._answers = 0
        self._closing = threading.Event()

    def close(self) -> None:
        """Stop: what has not begun never will, an answer ends at its next word."""
        self._closing.set()
        self.uploads.close()
        for threads in (self._searching, self._showing, self._answering):
            threads.shutdown(wait=True, cancel_futures=True)

    async def search(self, asked: Asked) -> Found:
        """Search in a thread.

        Raises:
            RefusedError: too many wait, or what is asked with is not there.
            QueryError: nothing is asked, or it can't be asked so.
        """
        began = time.monotonic()
        count = self._count(asked.k or _RESULTS, self._limits.results)
        if self._searches >= self._limits.searches + self._limits.waiting_searches:
            raise RefusedError(503, "Too many searches wait. Try again in a moment.")
        self._searches += 1
        try:
            results = await _in(self._searching, lambda: self._search(asked, count))
        finally:
            self._searches -= 1
        return Found(results=results, seconds=round(time.monotonic() - began, 3))

    async def show(self, form: Form, node_id: str) -> Ready:
        """Make media ready, in a thread."""
        return await _in(self._showing, lambda: self.desk.ready(form, node_id))

    async def answer(self, asked: Asked) -> AsyncGenerator[AnswerEvent, None]:
        """Answer a question, piece by piece. Closing the generator stops the answer at its next word.

        Raises:
            RefusedError, QueryError: before the first event, as `search`; later trouble is the last event.
        """
        began = time.monotonic()
        if self._llm is None:
            raise QueryError("There is no LLM here that answers; search instead. (The preset of this index has none.)")
        if not asked.text.strip():
            raise QueryError("Expected a question in words.")
        if asked.k is not None:
            self._count(asked.k, _MOST_SOURCES)
        query = await _in(self._searching, lambda: self._query(asked))
        events = self._streamed(query, asked, began)
        return _with_first(await events.__anext__(), events)  # it has its place in the queue now, or was refused

    async def _streamed(self, query: MediaQuery, asked: Asked, began: float) -> AsyncGenerator[AnswerEvent, None]:
        stop = threading.Event()
        if self._answers >= self._at_once + self._limits.waiting_answers:
            raise RefusedError(503, "Too many questions wait. Try again in a moment.")
        with self._counted():
            before = max(0, self._answers - self._at_once)
            yield Waiting(before=before)
            await self._turns.acquire()
            events: asyncio.Queue[AnswerEvent] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def put(event: AnswerEvent) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(events.put_nowait, event)

            try:
                work = loop.run_in_executor(self._answering, self._produce, query, asked, began, put, stop)
            except BaseException:
                self._turns.release()
                raise
            work.add_done_callback(lambda _: self._turns.release())  # not before the thread has ended
            try:
                if before:
                    yield Waiting(before=0)
                while True:
                    event = await events.get()
                    yield event
                    if isinstance(event, Answered | Failure):
                        break
            finally:
                stop.set()

    def _produce(
        self,
        query: MediaQuery,
        asked: Asked,
        began: float,
        put: Callable[[AnswerEvent], None],
        stop: threading.Event,
    ) -> None:
        """Answer in a thread, whatever the LLM: few of them stream without blocking the event loop."""
        try:
            given: dict[str, Any] = {"modalities": asked.modalities}
            engine = self._index.as_query_engine(
                self._llm, similarity_top_k=asked.k, streaming=True, invented_citations="strip", **given
            )
            self._go_on(stop)
            response = engine.query(query)
            put(Sources(results=self._findings(response.source_nodes)))
            said = ""
            pieces = response.response_gen if isinstance(response, StreamingResponse) else iter([str(response)])
            try:
                for piece in pieces:
                    self._go_on(stop)
                    if piece:
                        said += piece
                        put(Words(text=readable(piece)))
            finally:
                if (close := getattr(pieces, "close", None)) is not None:
                    close()
            whole = Response(said, source_nodes=response.source_nodes, metadata=response.metadata)
            left_out = [NotGiven(node_id=one.node_id, part=one.part, reason=one.reason) for one in left_out_of(response)]
            put(
                Answered(
                    text=readable(said.strip()),
                    cited=check_citations(whole).cited,
                    left_out=tuple(left_out),
                    seconds=round(time.monotonic() - began, 3),
                )
            )
        except Exception as error:
            if refusal_of(error) is None:
                _logger.exception("An answer failed.")
            put(failure_of(error))

    def _go_on(self, stop: threading.Event) -> None:
        if stop.is_set() or self._closing.is_set():
            raise RefusedError(503, "The answer was stopped.")

    def status(self) -> Status:
        """How things are."""
        store, preset = self._index.store, self._index.preset
        failed = store.sources(status="failed")
        names = [(Path(one.path).name, one) for one in failed[:_PROBLEMS]]
        problems = (NotTaken(name=readable(name), reason=readable(one.reason.replace(one.path, name))) for name, one in names)
        counts = store.counts()
        limits = self._limits
        return Status(
            preset=preset.name,
            nodes={kind: counts.get(kind, 0) for kind in MODALITIES},
            files=len(store.sources(status="indexed")),
            not_taken=len(failed),
            problems=tuple(problems),
            spaces=tuple(sorted(store.spaces())),
            answers_with=None if self._llm is None else self._llm.metadata.model_name or self._llm.class_name(),
            searches=self._searches,
            answers=self._answers,
            accepts=Accepted(
                upload_bytes=limits.uploads.file_bytes,
                endings={kind: suffixes(kind) for kind in MODALITIES if kind != "text"},
                results=limits.results,
                characters=limits.characters,
            ),
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._answers += 1
        try:
            yield
        finally:
            self._answers -= 1

    def _count(self, asked: int, most: int) -> int:
        if asked > most:
            raise QueryError(f"Expected at most {most} results, got {asked}.")
        return asked

    def _query(self, asked: Asked) -> MediaQuery:
        """Make a query; uploads and nodes are looked up by their ids."""
        if len(asked.text) > self._limits.characters:
            raise QueryError(f"Expected at most {self._limits.characters:,} characters, got {len(asked.text):,}.")
        parts: dict[str, list[Any]] = {}
        for upload in map(self.uploads.get, asked.uploads):
            parts.setdefault(upload.modality, []).append(upload.value)
        words = [asked.text.strip()] if asked.text.strip() else []
        for node in map(self.desk.node, asked.like):
            kind = modality_of_node(node)
            if kind == "text":
                words.append(node.get_content())
            else:
                parts.setdefault(kind, []).append(node)
        if not words and not parts:
            raise QueryError("Type what to look for, or add a picture, a sound or a 3D model.")
        return MediaQuery("\n".join(words), modalities=asked.modalities, **parts)  # type: ignore[arg-type]

    def _search(self, asked: Asked, count: int) -> tuple[Finding, ...]:
        found = self._index.as_retriever(similarity_top_k=count).retrieve(self._query(asked))
        return self._findings(found)

    def _findings(self, found: Sequence[NodeWithScore]) -> tuple[Finding, ...]:
        numbers = {one_node.node.node_id: one.number for one, one_node in zip(citations_of(found), found, strict=False)}
        return tuple(self._finding(one, numbers.get(one.node.node_id, at)) for at, one in enumerate(found, 1))

    def _finding(self, found: NodeWithScore, number: int) -> Finding:
        # What an LLM was given is changed for it; people see what is in the index.
        node = self.desk.allowed.node(found.node.node_id) or retype(found.node)
        told = node.metadata
        file = told.get(PREFIX + "path") or told.get("file_path")
        name = (Path(str(file)).name if file else "") or str(told.get("file_name") or "A text without a file")
        sound = node if isinstance(node, AudioMedia) else None
        page = told.get("page_label")
        titled = isinstance(node, MediaNode) and node.text == node.title
        text = "" if titled else node.get_content().strip()
        return Finding(
            number=number,
            node_id=node.node_id,
            modality=modality_of_node(node),
            name=readable(name),
            text=readable(text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT].rstrip() + " …"),
            score=found.score,
            start=sound.start if sound else None,
            end=sound.end if sound else None,
            seconds=sound.seconds if sound else None,
            language=told.get(PREFIX + "language"),
            speech=bool(sound and sound.speech),
            page=None if page is None else readable(str(page)),
            picture=address_of(node, "picture"),
            sound=address_of(node, "sound"),
            mesh=address_of(node, "mesh"),
            reasons=tuple(
                Reason(
                    part=one.part,
                    space=one.space,
                    share=one.contribution,
                    score=one.score,
                    weight=one.weight,
                    raw=one.raw,
                    negative=one.negative,
                )
                for one in reasons_of(found.node)
            ),
        )


async def _in(threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


async def _with_first(first: AnswerEvent, rest: AsyncGenerator[AnswerEvent, None]) -> AsyncGenerator[AnswerEvent, None]:
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()
