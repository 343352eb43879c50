"""What can be asked."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.nodes import PREFIX, modality_of_node
from llama_index_mm.retrieval.parts import Part, PartSource, brief, check_part, listed, same

__all__ = ["MediaQuery", "Negative", "filters_of", "parts_of"]

Negative = str | QueryBundle | BaseNode | NodeWithScore
"""Something that is not wanted: words, a query, or a node."""

_MEDIA: tuple[Modality, ...] = ("image", "audio", "mesh")
_WEIGHED = (*MODALITIES, "speech")
_CONSTRAINTS = ("modalities", "spaces", "filters", "language", "between")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}")


@dataclass(eq=False, repr=False)
class MediaQuery(QueryBundle):
    """A question of text, pictures, recordings and meshes, or several of them at once.

    It is a `QueryBundle`, so it goes through LlamaIndex's engines and retrievers as it is. It is never changed by a search.

    A part is a path, the bytes of a file, a file that is open, what is decoded already (for a picture a PIL image, an array of
    pixels or a `Picture`; for a recording a `Waveform`; for a mesh a `Mesh`), or a node: "more like this". A node that is in
    the index is asked with its stored vectors, and so is nearest to itself. A part may be a list of these. Addresses are not
    fetched.

    Texts in ``custom_embedding_strs``, such as HyDE makes, are asked with in place of ``query_str``, by the mean of their
    vectors. ``embedding`` is not looked at: nothing tells of which space it is.

    Attributes:
        query_str: words; may be empty if there is another part.
        image: picture or pictures.
        audio: recording or recordings.
        mesh: mesh or meshes.
        negative: what is not wanted: words, a node, a query of any parts, or a list of these. It lowers what is like it.
        part_weights: weight by kind of part: ``"text"``, ``"image"``, ``"audio"``, ``"mesh"``, and ``"speech"`` for the words
            heard in recordings (default: as ``"audio"``). 1 if not given; 0 leaves the parts out. Several parts of a kind share
            its weight.
        modalities: what to look for; empty for everything if there are words, else for things of the same kind.
        spaces: spaces to search; empty for all that can be asked so.
        filters: metadata filters.
        language: ISO 639-1 code such as ``"de"``, or several. What is said or written in another language is left out; what
            has no language (pictures, meshes, sounds, texts that tell none) is not.
        between: first and last second, the last may be infinite. Only recordings, or spans of them, that overlap this time
            are found, and nothing that has no time.

    Raises:
        QueryError: a part, a weight or a constraint that has no meaning.

    Example:
        >>> MediaQuery("a red chair", image="sketch.png", negative="an armchair", modalities=["mesh"])
    """

    query_str: str = ""
    image: PartSource | Sequence[PartSource] | None = None
    audio: PartSource | Sequence[PartSource] | None = None
    mesh: PartSource | Sequence[PartSource] | None = None
    modalities: Sequence[Modality] = ()
    spaces: Sequence[str] = ()
    filters: MetadataFilters | None = None
    negative: Negative | Sequence[Negative] | None = None
    part_weights: Mapping[str, float] = field(default_factory=dict)
    language: str | Sequence[str] | None = None
    between: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.query_str, str):
            raise QueryError(f"Expected words for query_str, got {type(self.query_str).__name__}. Use image, audio or mesh.")
        for kind in _MEDIA:
            given = getattr(self, kind)
            if isinstance(given, list | tuple):
                checked = [check_part(kind, one) for one in listed(given)]
                setattr(self, kind, tuple(checked) if isinstance(given, tuple) else checked)
            elif listed(given):
                setattr(self, kind, check_part(kind, given))
        self._check_negative()
        self._check_weights()
        self._check_constraints()

    @classmethod
    def like(cls, *nodes: BaseNode | NodeWithScore, text: str = "", **options: Any) -> "MediaQuery":
        """Ask for more like some nodes, each of which becomes the part of its own kind.

        Args:
            *nodes: of any modality; those of text become words.
            text: further words.
            **options: of `MediaQuery`.

        Example:
            >>> MediaQuery.like(results[0], negative=results[3])
        """
        parts: dict[str, Any] = {}
        words = [text] if text else []
        for given in nodes:
            node = given.node if isinstance(given, NodeWithScore) else given
            kind = modality_of_node(node)
            if kind == "text":
                words.append(node.get_content(metadata_mode=MetadataMode.NONE))
            else:
                parts.setdefault(kind, []).append(node)
        return cls("\n".join(words), **parts, **options)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(same(getattr(self, one.name), getattr(other, one.name)) for one in fields(self))

    __hash__ = None  # type: ignore[assignment]  # as QueryBundle

    def __repr__(self) -> str:
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        said = [f"{name}={brief(value)}" for name, value in given.items() if not _is_nothing(value)]
        return f"{type(self).__name__}({', '.join(said)})"

    def _check_negative(self) -> None:
        for one in listed(self.negative):
            if not isinstance(one, str | QueryBundle | BaseNode | NodeWithScore):
                raise QueryError(
                    f"Expected words, a node or a query for negative, got {type(one).__name__}. "
                    "Put a file into a query: negative=MediaQuery(image=...)."
                )
            if isinstance(one, MediaQuery) and listed(one.negative):
                raise QueryError("Expected a negative query without a negative part of its own, got one with. Take it out.")
            if stray := [name for name in _CONSTRAINTS if getattr(one, name, None)]:
                raise QueryError(
                    f"A negative query only tells what is not wanted, got one with {', '.join(stray)}. "
                    "Give these to the query that it belongs to."
                )

    def _check_weights(self) -> None:
        if not isinstance(self.part_weights, Mapping):
            raise QueryError(f"Expected part_weights by kind of part, got {self.part_weights!r}. Give {{'image': 0.5}}.")
        for kind, weight in self.part_weights.items():
            if kind not in _WEIGHED:
                raise QueryError(f"Unknown kind of part {kind!r} in part_weights; there are: {', '.join(_WEIGHED)}.")
            if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
                raise QueryError(f"Expected a number of at least 0 for the weight of {kind}, got {weight!r}.")

    def _check_constraints(self) -> None:
        for name in ("modalities", "spaces"):
            if isinstance(value := getattr(self, name), str):
                raise QueryError(f"Expected a list of {name}, got {value!r}. Write [{value!r}].")
        for modality in self.modalities:
            if modality not in MODALITIES:
                raise QueryError(f"Unknown modality {modality!r}; there are: {', '.join(MODALITIES)}.")
        if self.filters is not None and not isinstance(self.filters, MetadataFilters):
            raise QueryError(
                f"Expected MetadataFilters for filters, got {type(self.filters).__name__}. "
                "Write MetadataFilters(filters=[...])."
            )
        for code in _languages(self):
            if not (isinstance(code, str) and _LANGUAGE.fullmatch(code)):
                raise QueryError(f"Expected an ISO 639-1 code such as 'de' or 'zh' for language, got {code!r}.")
        if self.between is not None and not _is_span(self.between):
            raise QueryError(
                f"Expected (first, last) seconds for between, the first at least 0 and the last greater, got {self.between!r}."
            )


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def _languages(query: QueryBundle) -> list[str]:
    given = getattr(query, "language", None)
    return [given] if isinstance(given, str) else list(given or ())


def _is_span(between: object) -> bool:
    if not (isinstance(between, list | tuple) and len(between) == 2):
        return False
    numbers = all(isinstance(one, int | float) for one in between)
    return numbers and 0 <= between[0] < between[1]


def parts_of(query: QueryBundle) -> tuple[Part, ...]:
    """Take a query apart; what has weight 0, or is empty, is left out. What is not wanted comes last.

    Raises:
        QueryError: nothing is asked, or nothing but what is not wanted.
    """
    weights: Mapping[str, float] = getattr(query, "part_weights", {})
    wanted = list(_numbered(query, weights))
    unwanted = [part for one in listed(getattr(query, "negative", None)) for part in _unwanted(one)]
    if not wanted:
        if unwanted:
            raise QueryError("The query only tells what is not wanted: also give words, a picture, a recording or a mesh.")
        if any(_given(query).values()):
            raise QueryError(f"All parts of the query have weight 0 ({dict(weights)}): give one of them more.")
        raise QueryError("The query is empty: give words, a picture, a recording or a mesh.")
    return (*wanted, *_renumbered(unwanted))


def _given(query: QueryBundle) -> dict[Modality, list[Any]]:
    texts = tuple(text for one in query.embedding_strs if (text := one.strip()))
    given: dict[Modality, list[Any]] = {
        "text": [texts] if texts else [],
        "image": listed(getattr(query, "image", None)) or [check_part("image", one) for one in listed(query.image_path)],
        "audio": listed(getattr(query, "audio", None)),
        "mesh": listed(getattr(query, "mesh", None)),
    }
    return given


def _numbered(query: QueryBundle, weights: Mapping[str, float]) -> Iterator[Part]:
    for kind, values in _given(query).items():
        weight = weights.get(kind, 1.0)
        speech = weights.get("speech", weight) if kind == "audio" else None
        if not (weight or speech):
            continue
        count = len(values)
        for at, value in enumerate(values):
            yield Part(kind, _name(kind, at), value, weight / count, None if speech is None else speech / count)


def _unwanted(one: Negative) -> list[Part]:
    if isinstance(one, str):
        query: QueryBundle = QueryBundle(one)
    else:
        query = one if isinstance(one, QueryBundle) else MediaQuery.like(one)
    return [replace(part, negative=True) for part in _numbered(query, getattr(query, "part_weights", {}))]


def _renumbered(parts: Sequence[Part]) -> Iterator[Part]:
    """Number the parts of several negative queries through."""
    counts: dict[str, int] = {}
    for part in parts:
        at = counts.setdefault(part.kind, 0)
        counts[part.kind] += 1
        yield replace(part, name=_name(part.kind, at))


def _name(kind: str, at: int) -> str:
    return kind if at == 0 else f"{kind} {at + 1}"


def filters_of(query: QueryBundle) -> MetadataFilters | None:
    """All that a query demands of metadata: its filters, its language and its time; None if it demands nothing."""
    groups: list[MetadataFilters] = []
    if (own := getattr(query, "filters", None)) is not None:
        groups.append(own)
    if codes := [code.lower() for code in _languages(query)]:
        groups.append(_any(_entry("language", FilterOperator.IN, codes), _missing("language")))
    if (between := getattr(query, "between", None)) is not None:
        groups += _overlapping(*map(float, between))
    return MetadataFilters(filters=list(groups), condition=FilterCondition.AND) if len(groups) > 1 else next(iter(groups), None)


def _overlapping(start: float, end: float) -> list[MetadataFilters]:
    """Spans begin before the end, and end after the start; where they begin or end with their recording that isn't noted."""
    whole = MetadataFilters(filters=[_missing("end"), _entry("seconds", FilterOperator.GT, start)])
    return [
        _any(_entry("start", FilterOperator.LT, end), _missing("start")),
        _any(_entry("end", FilterOperator.GT, start), whole),
    ]


def _any(*filters: MetadataFilter | MetadataFilters) -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=FilterCondition.OR)


def _entry(key: str, operator: FilterOperator, value: Any) -> MetadataFilter:
    return MetadataFilter(key=PREFIX + key, operator=operator, value=value)


def _missing(key: str) -> MetadataFilter:
    return MetadataFilter(key=PREFIX + key, operator=FilterOperator.IS_EMPTY, value=None)
