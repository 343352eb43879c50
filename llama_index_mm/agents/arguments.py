"""What an LLM may ask a search tool with: few arguments, all of them optional, each described."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, ValidationError
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from pydantic import BeforeValidator

from llama_index_mm.media import Modality

__all__ = ["MOST_RESULTS", "SearchArguments", "SearchFilter", "told"]

MOST_RESULTS = 20
_LONGEST = 4_000  # characters of words; encoders read all of them, at some milliseconds each

_EXAMPLE = "the id of a result, the name of a file of the collection, or a path that is allowed"


def _words(given: Any) -> Any:
    return "" if given is None else given


def _several(given: Any) -> Any:
    """A list of what is given; LLMs give one alone, or null for none."""
    if given is None or given == "":
        return []
    if isinstance(given, list | tuple):
        return list(given)  # ReActAgent's parser gives lists of a class of its own, which pydantic can't copy
    return [given] if isinstance(given, str | dict) else given


def _number(given: Any) -> Any:
    return 0 if given is None else given


Text = Annotated[str, Field(max_length=_LONGEST, description="What to look for, in words."), BeforeValidator(_words)]
Image = Annotated[str, BeforeValidator(_words), Field(description=f"Find what looks like this picture: {_EXAMPLE}.")]
Audio = Annotated[str, BeforeValidator(_words), Field(description=f"Find what sounds like this recording: {_EXAMPLE}.")]
Mesh = Annotated[str, BeforeValidator(_words), Field(description=f"Find what is shaped like this 3D model: {_EXAMPLE}.")]
Modalities = Annotated[
    Sequence[Modality],
    BeforeValidator(_several),
    Field(description="Only results of these kinds; empty for all of them. Speech is audio, 3D models are mesh."),
]
Languages = Annotated[
    Sequence[str],
    BeforeValidator(_several),
    Field(description="Only what is said or written in these languages, as codes such as en or de; empty for all."),
]
TopK = Annotated[
    int,
    Field(ge=0, le=MOST_RESULTS, description=f"How many results, up to {MOST_RESULTS}; 0 for the usual number."),
    BeforeValidator(_number),
]


class SearchFilter(BaseModel):
    """One condition on the metadata of results."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(min_length=1, description="Name of the metadata, such as file_name.")
    operator: Literal["==", "!=", ">", ">=", "<", "<=", "in", "nin", "contains", "text_match"] = Field(
        default="==", description="in and nin take a list; contains looks into a list, text_match into a text."
    )
    value: float | str | list[str] | list[float] = Field(description="What to compare with.")

    @property
    def wanted(self) -> Any:
        """The value; for in and nin always a list."""
        return [self.value] if self.operator in ("in", "nin") and not isinstance(self.value, list) else self.value


Filters = Annotated[
    Sequence[SearchFilter],
    BeforeValidator(_several),
    Field(description="Conditions on metadata, all of which must hold."),
]


class SearchArguments(BaseModel):
    """Arguments of a search.

    LLMs are taken as they are: null stands for nothing, and a single value where a list is expected is a list of one. The
    schema has no references and no titles, which small models stumble over.

    Raises:
        ValidationError: an argument that is unknown, or of the wrong kind; `told` makes it a line to answer with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text = ""
    image: Image = ""
    audio: Audio = ""
    mesh: Mesh = ""
    modalities: Modalities = ()
    filters: Filters = ()
    language: Languages = ()
    top_k: TopK = 0

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema that an LLM sees, in one piece."""
        schema = super().model_json_schema(*args, **kwargs)
        plain: dict[str, Any] = _plain(schema, schema.pop("$defs", {}))
        return plain

    @property
    def metadata_filters(self) -> MetadataFilters | None:
        """The filters as LlamaIndex knows them; None if there are none."""
        if not self.filters:
            return None
        return MetadataFilters(
            filters=[
                MetadataFilter(key=one.key, operator=FilterOperator(one.operator), value=one.wanted) for one in self.filters
            ]
        )


def _plain(schema: Any, defs: dict[str, Any]) -> Any:
    """A schema with what it refers to in place, and without titles."""
    if isinstance(schema, list):
        return [_plain(one, defs) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(defs[schema["$ref"].rpartition("/")[2]], defs)
    return {key: _plain(value, defs) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}


def told(error: ValidationError) -> str:
    """What is wrong with arguments, in a line that an LLM can mend its call by."""
    wrong = [f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors(include_url=False)]
    return f"{'; '.join(dict.fromkeys(wrong))}. The arguments are: {', '.join(SearchArguments.model_fields)}."
