"""What can be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_mm.errors import QueryError
from llama_index_mm.media import MODALITIES, Modality

__all__ = ["MediaQuery", "parts_of"]


@dataclass
class MediaQuery(QueryBundle):
    """A question of text, a picture, a recording, a mesh, or several of them at once.

    It is a `QueryBundle`, so it goes through LlamaIndex's engines and retrievers as it is.

    Attributes:
        query_str: words; may be empty if there is another part.
        image: path of a picture.
        audio: path of a recording.
        mesh: path of a mesh.
        modalities: what to look for; empty for everything if there are words, else for things of the same kind.
        spaces: spaces to search; empty for all that can be asked so.
        filters: metadata filters.

    Example:
        >>> MediaQuery("a red chair", image="sketch.png", modalities=["mesh"])
    """

    query_str: str = ""
    image: Path | str | None = None
    audio: Path | str | None = None
    mesh: Path | str | None = None
    modalities: Sequence[Modality] = ()
    spaces: Sequence[str] = ()
    filters: MetadataFilters | None = None

    def __post_init__(self) -> None:
        for modality in self.modalities:
            if modality not in MODALITIES:
                raise QueryError(f"Unknown modality {modality!r}; there are: {', '.join(MODALITIES)}.")


def parts_of(query: QueryBundle) -> dict[Modality, str | Path]:
    """Take a query apart: words under ``"text"``, paths under the other modalities; empty parts are left out.

    Raises:
        QueryError: nothing is asked.
    """
    given: dict[Modality, str | Path | None] = {
        "text": query.query_str.strip(),
        "image": getattr(query, "image", None) or query.image_path,
        "audio": getattr(query, "audio", None),
        "mesh": getattr(query, "mesh", None),
    }
    parts = {modality: value for modality, value in given.items() if value}
    if not parts:
        raise QueryError("The query is empty: give words, a picture, a recording or a mesh.")
    return parts
