"""What the web page's JSON API takes and gives. The schemas are served at ``/api/openapi.json``."""

from typing import Annotated, Literal

from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field

from llama_index_mm.media import Modality

__all__ = [
    "Accepted",
    "Answered",
    "Asked",
    "Failure",
    "FailureBody",
    "Finding",
    "Found",
    "NotGiven",
    "NotTaken",
    "Reason",
    "Sources",
    "Status",
    "Uploaded",
    "Waiting",
    "Words",
]

_Id = Annotated[str, Field(min_length=1, max_length=4096)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class Asked(_Given):
    """A search or a question: words, files that were uploaded, results to find more like, or several of these at once."""

    text: str = Field(default="", max_length=4_000, description="Words.")
    uploads: tuple[_Id, ...] = Field(default=(), max_length=4, description="Ids that /api/uploads gave.")
    like: tuple[_Id, ...] = Field(default=(), max_length=4, description="Ids of results.")
    modalities: tuple[Modality, ...] = Field(default=(), max_length=4, description="What to look for; empty for everything.")
    k: int | None = Field(default=None, ge=1, description="How many results; the server's status tells how many at most.")


class Reason(_Told):
    """What one channel said of a result."""

    part: str = Field(description="Part of the query: text, image, audio, mesh, or speech for words heard in a recording.")
    space: str = Field(description="Embedding space that was searched.")
    share: float = Field(description="Of the score; the shares add up to it. Negative is what was taken away.")
    score: float = Field(description="In [0, 1].")
    weight: float
    raw: float | None = Field(description="Similarity, in [-1, 1].")
    negative: bool = Field(description="Whether the part is what is not wanted.")


class Finding(_Told):
    """A result, or a source of an answer."""

    number: int = Field(description="From 1, the best first; answers cite by it.")
    node_id: str
    modality: Modality
    name: str = Field(description="Of the file, without its folder.")
    text: str = Field(description="Transcript, labels, facts or text; empty where it has none but its file's name.")
    score: float | None = Field(description="In [0, 1].")
    start: float | None = Field(description="First second of a recording's span.")
    end: float | None = Field(description="Second at which it ends.")
    seconds: float | None = Field(description="Length of the whole recording.")
    language: str | None = Field(description="ISO 639-1 code of what is said or written.")
    speech: bool = Field(description="Whether words were heard; the text is then a transcript.")
    page: str | None = Field(description="Of a document, as it is labelled there.")
    picture: str | None = Field(description="Address of the picture, or of six views of a mesh, as JPEG.")
    sound: str | None = Field(description="Address of the span as WAV.")
    mesh: str | None = Field(description="Address of the mesh to turn, as JSON.")
    reasons: tuple[Reason, ...] = Field(description="Parts of the score, the greatest first.")


class Found(_Told):
    """What ``/api/search`` gives."""

    results: tuple[Finding, ...]
    seconds: float = Field(description="That the search took, waiting included.")


class Uploaded(_Told):
    """A file that was received, decoded, and can be asked with until newer ones take its place."""

    upload: str = Field(description="Its id.")
    name: str
    modality: Modality
    facts: str = Field(description="Size, length or counts, in words.")
    picture: str | None = Field(description="Address of the picture, or of six views of a mesh, as JPEG.")
    sound: str | None = Field(description="Address of the sound as WAV.")


class Waiting(_Told):
    """Event of an answer: it waits for its turn, or, with 0 before it, has begun."""

    event: Literal["waiting"] = "waiting"
    before: int


class Sources(_Told):
    """Event of an answer: what it is made from. Comes before the first words."""

    event: Literal["sources"] = "sources"
    results: tuple[Finding, ...]


class Words(_Told):
    """Event of an answer: its next words."""

    event: Literal["words"] = "words"
    text: str


class NotGiven(_Told):
    """Something that was found and that the LLM was not given."""

    node_id: str
    part: str
    reason: str


class Answered(_Told):
    """Last event of an answer."""

    event: Literal["answered"] = "answered"
    text: str = Field(description="The whole answer.")
    cited: tuple[int, ...] = Field(description="Numbers of sources that it cites; citations of others were taken out.")
    left_out: tuple[NotGiven, ...]
    seconds: float = Field(description="That it took, waiting included.")


class FailureBody(_Told):
    """What went wrong."""

    code: str = Field(description="A word for programs, such as not_found or too_large.")
    message: str = Field(description="What was expected, what came, what to do.")


class Failure(_Told):
    """Every error has this form; in an answer that has begun to stream it is the last event."""

    event: Literal["error"] = "error"
    error: FailureBody


class NotTaken(_Told):
    """A file that could not be indexed."""

    name: str
    reason: str


class Accepted(_Told):
    """What the server takes."""

    upload_bytes: int
    endings: dict[str, tuple[str, ...]] = Field(description="Of file names, by modality.")
    results: int = Field(description="At most, of a search.")
    characters: int = Field(description="At most, of a question.")


class Status(_Told):
    """What ``/api/status`` gives."""

    preset: str
    nodes: dict[str, int] = Field(description="Results that there are, by modality.")
    files: int
    not_taken: int = Field(description="Files that could not be indexed.")
    problems: tuple[NotTaken, ...] = Field(description="The first of them.")
    spaces: tuple[str, ...]
    answers_with: str | None = Field(description="The LLM that answers; null if there is none.")
    searches: int = Field(description="Under way or waiting.")
    answers: int = Field(description="Under way or waiting.")
    accepts: Accepted
