"""Nodes that carry one piece of media, built to survive everything LlamaIndex does to nodes.

All state lies where LlamaIndex's serialisers keep it: in path-based `MediaResource`s and in flat metadata under the
``mm_`` prefix, which stays out of the text for the LLM and for embeddings. Stock LlamaIndex code loads these nodes as plain
`Node`; `retype` gives them their class back.
"""

import json
import logging
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)

from llama_index_mm.errors import MediaError, MissingExtraError
from llama_index_mm.media import (
    MeshFacts,
    Modality,
    contact_sheet,
    image_bytes,
    load_audio,
    load_image,
    load_mesh,
    load_picture,
    render_views,
    split_sheet,
    wav_bytes,
)
from llama_index_mm.media.files import check_readable

__all__ = [
    "MAX_SIDE",
    "MAX_VIEWS",
    "PREFIX",
    "TEXT_ONLY",
    "AudioMedia",
    "ImageMedia",
    "MediaNode",
    "MeshMedia",
    "format_seconds",
    "modality_of_node",
    "moved",
    "node_from_json",
    "node_to_json",
    "plain",
    "retype",
    "title_of",
]

PREFIX = "mm_"
TEXT_ONLY = PREFIX + "text_only"  # on copies for an LLM: whether it can't take the media itself
MAX_SIDE = PREFIX + "max_side"  # on copies for an LLM: pixels of the longest side, to which pictures are scaled down
MAX_VIEWS = PREFIX + "max_views"  # on copies for an LLM: how many views of a mesh it is shown
_AUDIO_BLOCK_FORMAT = "wav"
_SEEN_AS_THEY_ARE = ("image/jpeg", "image/png", "image/gif", "image/webp")  # what LLMs that see take
_logger = logging.getLogger(__name__)
_N = TypeVar("_N", bound="MediaNode")


def _fact(key: str, doc: str) -> property:
    """A property that reads one namespaced metadata entry."""

    def read(self: "MediaNode") -> Any:
        return self.metadata.get(PREFIX + key)

    return property(read, doc=doc)


class MediaNode(Node):
    """Base of the nodes that carry media.

    Make them by `create`. ``class_name()`` is core's ``"Node"`` on purpose: document stores, ingestion caches and foreign
    vector stores know that name, load the node with every field, and `retype` turns it back.
    """

    modality: ClassVar[Modality]

    @classmethod
    def create(
        cls: type[_N],
        path: Path | str,
        *,
        digest: str,
        text: str = "",
        id_: str | None = None,
        source: RelatedNodeInfo | None = None,
        metadata: dict[str, Any] | None = None,
        **facts: str | int | float | bool | None,
    ) -> _N:
        """Make a node for the file at ``path``.

        Args:
            path: the media file; stored as given.
            digest: SHA-256 of the file's content, 64 hexadecimal digits.
            text: transcript, labels or facts, for the LLM and for text spaces. Empty: the caption is used, or else the file's
                title.
            id_: node id; random if not given.
            source: the document that this node belongs to.
            metadata: the user's own metadata; seen by the LLM unless excluded.
            **facts: entries under the ``mm_`` prefix, such as ``caption`` or ``url``; ``None`` is left out.
        """
        path = Path(path)
        stated = {PREFIX + key: value for key, value in facts.items() if value is not None}
        own = {
            "file_name": path.name,
            "file_path": str(path),
            **(metadata or {}),
            PREFIX + "modality": cls.modality,
            PREFIX + "path": str(path),
            PREFIX + "digest": digest,
            **stated,
        }
        hidden = _hidden(own)
        fields: dict[str, Any] = {"metadata": own, **cls._resources(path, stated)}
        if id_ is not None:
            fields["id_"] = id_
        node = cls(
            text_resource=MediaResource(text=text or str(facts.get("caption") or "") or title_of(path)),
            excluded_embed_metadata_keys=hidden,
            excluded_llm_metadata_keys=list(hidden),
            **fields,
        )
        if source is not None:
            node.relationships[NodeRelationship.SOURCE] = source
        return node

    @classmethod
    def _resources(cls, path: Path, facts: dict[str, Any]) -> dict[str, MediaResource]:
        return {}

    path = property(lambda self: Path(self.metadata[PREFIX + "path"]), doc="The media file.")
    digest = _fact("digest", "SHA-256 of the media file's content.")
    url = _fact("url", "Where the file came from, None if from a disk.")
    caption = _fact("caption", "What somebody wrote about it, None if nobody did; kept beside a text that says something else.")
    title = property(lambda self: title_of(Path(self.metadata.get("file_name") or self.path)), doc="Words of the file's name.")

    @property
    def text(self) -> str:
        """Transcript, labels or facts; the title if there are none."""
        return (self.text_resource.text if self.text_resource else None) or ""

    def with_facts(self: _N, *, text: str | None = None, **facts: str | int | float | bool | None) -> _N:
        """Give a copy with other text or further ``mm_`` entries; the node itself is left alone."""
        copy = self.model_copy(deep=True)
        for key, value in facts.items():
            if value is not None:
                copy.metadata[PREFIX + key] = value
                for hidden in (copy.excluded_embed_metadata_keys, copy.excluded_llm_metadata_keys):
                    if PREFIX + key not in hidden:
                        hidden.append(PREFIX + key)
        for name, resource in copy._resources(copy.path, copy.metadata).items():
            setattr(copy, name, resource)
        if text is not None:
            copy.text_resource = MediaResource(text=text)
        return copy

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """Blocks for an LLM: the user's metadata if asked for, the text, and the media itself.

        A numbered source of an answer whose file can't be read gives its text, with a warning in the log.

        Raises:
            DecodeError: the media file is gone or broken.
        """
        blocks: list[Any] = list(self.get_metadata_content_blocks(metadata_mode))
        blocks += [TextBlock(text=text) for text in self._said() if text]
        if self.metadata.get(TEXT_ONLY):
            return blocks
        try:
            return blocks + self._media_blocks()
        except (MediaError, MissingExtraError) as error:
            if TEXT_ONLY not in self.metadata:
                raise
            _logger.warning("%s is given to the LLM as text: %s", self.path, error)
            return blocks

    def _said(self) -> list[str]:
        return [self.text]

    def _media_blocks(self) -> list[Any]:
        return []


class ImageMedia(MediaNode):
    """A picture. Its text is its labels or caption; its content block is the picture."""

    modality: ClassVar[Modality] = "image"

    @classmethod
    def _resources(cls, path: Path, facts: dict[str, Any]) -> dict[str, MediaResource]:
        return {"image_resource": MediaResource(path=path, mimetype=facts.get(PREFIX + "mimetype"))}

    def _media_blocks(self) -> list[Any]:
        check_readable(self.path)
        mimetype = self.metadata.get(PREFIX + "mimetype")
        longest = self.metadata.get(MAX_SIDE)
        if longest is not None:
            picture = load_picture(self.path, longest=longest)
            if max(picture.width, picture.height) > longest or mimetype not in (None, *_SEEN_AS_THEY_ARE):
                return [ImageBlock(image=image_bytes(picture.image), image_mimetype="image/jpeg")]
        return [ImageBlock(path=self.path, image_mimetype=mimetype)]


class AudioMedia(MediaNode):
    """A recording, or the span of one. Its text is the transcript; its content block is the sound of the span as WAV."""

    modality: ClassVar[Modality] = "audio"

    @classmethod
    def _resources(cls, path: Path, facts: dict[str, Any]) -> dict[str, MediaResource]:
        return {"audio_resource": MediaResource(path=path, mimetype=facts.get(PREFIX + "mimetype"))}

    start = _fact("start", "First second of the span; None: the recording's beginning.")
    end = _fact("end", "Second at which the span ends; None: the recording's end.")
    seconds = _fact("seconds", "Length of the whole recording in seconds.")
    language = _fact("language", "ISO 639-1 code of the language spoken, None where nothing is.")
    speech = property(
        lambda self: bool(self.metadata.get(PREFIX + "speech")),
        doc="Whether words were heard; the text is then a transcript.",
    )

    def _media_blocks(self) -> list[Any]:
        sound = load_audio(self.path, start=self.start, end=self.end)
        return [AudioBlock(audio=wav_bytes(sound), format=_AUDIO_BLOCK_FORMAT)]


class MeshMedia(MediaNode):
    """A 3D model. Its text is a line of facts; its content block is a sheet of six views.

    Where the text says something else, the facts are a block of their own. A sheet whose file is gone is rendered anew.
    """

    modality: ClassVar[Modality] = "mesh"

    @classmethod
    def _resources(cls, path: Path, facts: dict[str, Any]) -> dict[str, MediaResource]:
        views = facts.get(PREFIX + "views")
        return {"image_resource": MediaResource(path=Path(views), mimetype="image/png")} if views else {}

    @property
    def views(self) -> Path | None:
        """PNG with six views in three columns and two rows, if they were rendered."""
        views = self.metadata.get(PREFIX + "views")
        return Path(views) if views else None

    @property
    def facts(self) -> MeshFacts | None:
        """Counts and size, if they were measured."""
        names = ("vertices", "faces", "closed", "size_x", "size_y", "size_z")
        if any(self.metadata.get(PREFIX + name) is None for name in names):
            return None
        vertices, faces, closed, *size = (self.metadata[PREFIX + name] for name in names)
        return MeshFacts(vertices, faces, (size[0], size[1], size[2]), closed)

    def _said(self) -> list[str]:
        line = str(self.facts or "")
        return [self.text, "" if line in self.text else line]

    def _media_blocks(self) -> list[Any]:
        if self.views is None:
            return []
        longest, most = self.metadata.get(MAX_SIDE), self.metadata.get(MAX_VIEWS)
        if self.views.exists():
            check_readable(self.views)
            if longest is most is None:
                return [ImageBlock(path=self.views, image_mimetype="image/png")]
            sheet = load_image(self.views)
        else:  # a cache, or a store that was copied without its files, may know views that are gone
            sheet = contact_sheet(render_views(load_mesh(self.path)))
        if most is not None:
            views = split_sheet(sheet)[:most]
            sheet = contact_sheet(views)
            sheet = sheet.crop((0, 0, min(sheet.width, len(views) * views[0].width), sheet.height))
        return [ImageBlock(image=image_bytes(sheet, longest=longest, kind="PNG"), image_mimetype="image/png")]


_MEDIA: dict[str, type[MediaNode]] = {cls.modality: cls for cls in (ImageMedia, AudioMedia, MeshMedia)}
_CORE: dict[str, type[BaseNode]] = {
    cls.class_name(): cls for cls in (Node, TextNode, ImageNode, IndexNode, Document, ImageDocument)
}


def _hidden(metadata: dict[str, Any]) -> list[str]:
    """Entries that are for filters and citations; as text, a file's name counts only through the title."""
    return [key for key in metadata if key.startswith(PREFIX) or key in ("file_name", "file_path")]


def title_of(path: Path) -> str:
    """Words of a file's name: ``Sea-shore_2.ogg`` gives ``Sea shore 2``; the whole name where there are none."""
    return " ".join(path.stem.replace("_", " ").replace("-", " ").split()) or path.name


def modality_of_node(node: BaseNode) -> Modality:
    """Tell which modality a node carries; nodes of LlamaIndex's own with a picture or a sound in them count as such."""
    if isinstance(node, MediaNode):
        return node.modality
    stated = node.metadata.get(PREFIX + "modality")
    if stated in _MEDIA:
        return _MEDIA[stated].modality
    if isinstance(node, ImageNode):
        return "image" if node.image or node.image_path or node.image_url else "text"
    if isinstance(node, Node):
        return "image" if node.image_resource else "audio" if node.audio_resource else "text"
    return "text"


def retype(node: BaseNode) -> BaseNode:
    """Give a node its media class back if a store loaded it as a plain `Node`; other nodes are returned as they are."""
    cls = _MEDIA.get(str(node.metadata.get(PREFIX + "modality", "")))
    if cls is None or isinstance(node, cls) or not isinstance(node.metadata.get(PREFIX + "path"), str):
        return node
    kept = {name: getattr(node, name) for name in type(node).model_fields if name in cls.model_fields}
    if isinstance(node, TextNode):  # a store that knows TextNode only: the text field becomes the text resource
        kept["text_resource"] = MediaResource(text=node.text)
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
            kept[name] = kept[name] or _hidden(node.metadata)  # such stores may forget these, too
    fresh = cls(**kept)
    for name, resource in cls._resources(fresh.path, fresh.metadata).items():
        if getattr(fresh, name) is None:
            setattr(fresh, name, resource)
    return fresh


def moved(node: BaseNode, path: Path) -> BaseNode:
    """Give a copy that points to another file of the same content."""
    copy = node.model_copy(deep=True)
    old = Path(copy.metadata.get("file_name") or copy.metadata.get(PREFIX + "path", ""))
    copy.metadata |= {"file_name": path.name, "file_path": str(path), PREFIX + "path": str(path)}
    if isinstance(copy, MediaNode):
        for name, resource in copy._resources(path, copy.metadata).items():
            setattr(copy, name, resource)
        if copy.text == title_of(old):
            copy.text_resource = MediaResource(text=title_of(path))
    return copy


def node_to_json(node: BaseNode) -> str:
    """Serialise a node without its embedding, with the class that it has."""
    return _encode(node.to_dict(exclude={"embedding"}))


def plain(value: Any) -> Any:
    """What `json` can't write: NumPy's numbers and arrays as numbers and lists; URLs, paths and dates as texts."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


_encode = json.JSONEncoder(default=plain).encode


def node_from_json(text: str, class_name: str) -> BaseNode:
    """Undo `node_to_json`: the node comes back as the class that it was."""
    fields = json.loads(text)
    # A class that is not known here, with a text of its own, is some kind of text node.
    return retype(_CORE.get(class_name, TextNode if "text" in fields else Node).from_dict(fields))


def format_seconds(seconds: float) -> str:
    """Seconds as people read them: ``75.2`` gives ``1:15``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
