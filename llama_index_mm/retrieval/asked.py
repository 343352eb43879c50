"""What an index is asked with to learn what is usual in it: its own texts and media, and everyday phrases."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from numpy.typing import NDArray
from tqdm import tqdm

from llama_index_mm.embeddings.base import EmbeddingSpace, Encoder, Vectors
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.nodes import PREFIX
from llama_index_mm.stores import NodeStore

__all__ = ["PHRASES", "Asked", "asked_of", "document_of", "script_of", "sentence_of"]

_ASKED = 256  # of one kind
_WORDS = 20  # of a text that is asked with
_SIGNS = 40  # the same where words are not set apart by spaces
_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]")

PHRASES: tuple[str, ...] = (
    "a man in a hat on a bench",
    "two women talking at a table",
    "a group of children in a park",
    "an old chair by the wall",
    "a small white dog in the grass",
    "a cat on a roof",
    "three birds over the sea",
    "a red car on a road",
    "an empty street at night",
    "a bowl of fruit in a kitchen",
    "a cup of coffee by the window",
    "a boat on a river",
    "a horse behind a fence",
    "a tall tower",
    "a stone bridge in autumn",
    "people waiting for a bus",
    "heavy rain",
    "loud music from next door",
    "someone laughing",
    "the sound of an engine",
    "a door that closes",
    "footsteps on stairs",
    "church bells",
    "a telephone that rings",
    "a song on the radio",
    "a question about money",
    "the price of a house",
    "news of the election",
    "a report on the economy",
    "how to cook rice",
    "a letter to a friend",
    "the history of a city",
    "the rules of a game",
    "a doctor's advice on sleep",
    "the weather in winter",
    "the train to the north",
    "the results of Sunday's match",
    "a wooden table with four legs",
    "a lamp",
    "a glass bottle",
    "an airplane",
    "a ship with sails",
    "a human figure",
    "a sword",
    "a guitar",
    "a hammer",
    "a pair of glasses",
    "a tree without leaves",
    "a mountain in snow",
    "街上的一个人",
    "公园里的孩子",
    "草地上的狗",
    "路边的汽车",
    "公司的新闻",
    "城市的历史",
    "一首歌",
    "明天的天气",
)
"""Things that people look for, in English and Chinese, which every index is asked, whatever its own texts are."""


@dataclass(frozen=True)
class Asked:
    """Queries of one kind in one space.

    Attributes:
        vectors: ``(n, d)`` float32, of length 1 as far as float16 goes.
        documents: id of the document that each is of; empty for phrases.
        of: fingerprint of the encoder.
        there: nodes there were to take them from.
        scripts: that each is written in, as `script_of` gives it.
    """

    vectors: Vectors
    documents: tuple[str, ...]
    of: str
    there: int
    scripts: tuple[str, ...]

    @cached_property
    def own(self) -> NDArray[np.bool_]:
        """``(n,)`` which are the index's own, and no phrases."""
        return np.array([bool(document) for document in self.documents], dtype=np.bool_)

    @cached_property
    def written(self) -> NDArray[np.str_]:
        """``(n,)`` the scripts."""
        return np.array(self.scripts, dtype=np.str_)


def asked_of(
    store: NodeStore,
    spaces: Sequence[EmbeddingSpace],
    old: Mapping[tuple[str, Modality], Asked],
    prints: Mapping[str, str],
    differs: Callable[[int, int], bool],
    *,
    show_progress: bool = False,
) -> Iterator[tuple[EmbeddingSpace, Modality, Asked, bool]]:
    """For each space and each kind of query part that it can be asked with: queries, and whether they are new ones.

    Args:
        store: where the nodes are.
        spaces: with their encoders.
        old: queries of an earlier time.
        prints: fingerprints that the spaces had then.
        differs: whether two numbers of nodes are so far apart that queries are taken anew.
        show_progress: show a bar on standard error.
    """
    texts: tuple[list[str], list[str], int] | None = None
    pairs = [(space, part) for space in spaces for part in MODALITIES if space.query_encoder(part) is not None]
    for space, part in tqdm(pairs, desc="calibrate", unit="kind", disable=not show_progress):
        encoder = space.query_encoder(part)
        assert encoder is not None
        before = old.get((space.name, part))
        if before is not None and (prints.get(space.name) != space.fingerprint or before.of != encoder.fingerprint):
            before = None
        if part == "text":
            there = _worded(store)
            if before is not None and not differs(before.there, there):
                yield space, part, before, False
                continue
            texts = texts or _texts(store)
            vectors = encoder.encode(texts[0], query=True)
            scripts = tuple(script_of(text) for text in texts[0])
            yield space, part, Asked(_rounded(vectors), tuple(texts[1]), encoder.fingerprint, texts[2], scripts), True
        elif encoder is space.encoders.get(part):  # asked and stored alike
            there = store.partitions().get((space.name, part), 0)
            if before is not None and not differs(before.there, there):
                yield space, part, before, False
            elif there:
                yield space, part, _stored(store, space.name, part, encoder, there), True


def script_of(*texts: str) -> str:
    """The script that most letters of texts are in, by its name in Unicode, such as ``"LATIN"`` or ``"CJK"``.

    Empty where there are no letters, or where the texts are in several scripts.
    """
    found = set()
    for text in texts:
        names = Counter(unicodedata.name(sign, "").partition(" ")[0] for sign in text[:100] if sign.isalpha())
        found.add(max(names, key=lambda name: (names[name], name), default=""))
    return found.pop() if len(found) == 1 else ""


def sentence_of(text: str) -> str:
    """The longest of the first three sentences of a text, and of it 20 words at most, or 40 signs without spaces."""
    sentences = [one.strip() for one in _ENDS.split(text[:2000]) if one.strip()][:3]
    longest = max(sentences, key=len, default="")
    if _SPACELESS.search(longest):
        return longest[:_SIGNS]
    return " ".join(longest.split()[:_WORDS])


def _stored(store: NodeStore, space: str, part: Modality, encoder: Encoder, there: int) -> Asked:
    picked = store.spread(_ASKED, modalities=[part], space=space).tolist()
    vectors = store.vectors(space, part, picked)
    usable = [bool(row.any()) and bool(np.isfinite(row).all()) for row in vectors]
    nodes = store.nodes(picked)
    documents = [document_of(nodes[seq]) if seq in nodes else "" for seq in picked]
    kept = [document for document, good in zip(documents, usable, strict=True) if good]
    return Asked(_rounded(vectors[usable]), tuple(kept), encoder.fingerprint, there, ("",) * len(kept))


def _worded(store: NodeStore) -> int:
    """Nodes that may have words of their own."""
    counts = store.counts()
    return counts.get("text", 0) + counts.get("audio", 0)


def _texts(store: NodeStore) -> tuple[list[str], list[str], int]:
    """Texts to ask with, the documents that they are of, and how many nodes there were to take them from.

    Texts, transcripts and captions come in equal shares as far as there are any. Phrases come to them, as texts may all
    be alike.
    """
    by_modality: list[list[tuple[str, str]]] = []
    for modality in MODALITIES:
        nodes = store.nodes(store.spread(4 * _ASKED, modalities=[modality]).tolist())
        found = [(sentence_of(_words(node)), document_of(node)) for node in nodes.values()]
        by_modality.append([(words, document) for words, document in found if words])
    own: list[tuple[str, str]] = []
    left = sorted((found for found in by_modality if found), key=len)
    for at, found in enumerate(left):
        share = min(len(found), (_ASKED - len(PHRASES) - len(own)) // (len(left) - at))
        own += [found[place] for place in np.linspace(0, len(found) - 1, share).astype(np.int64)]
    every = [*own, *((phrase, "") for phrase in PHRASES)]
    return [words for words, _ in every], [document for _, document in every], _worded(store)


def _words(node: BaseNode) -> str:
    """Words of a node's own: not the title of its file."""
    kind = node.metadata.get(PREFIX + "modality", "text")
    if kind == "audio" and not node.metadata.get(PREFIX + "speech"):
        return ""
    if kind in ("image", "mesh"):
        return str(node.metadata.get(PREFIX + "caption") or "")
    return node.get_content(MetadataMode.NONE)


def document_of(node: BaseNode) -> str:
    """Id of the document that a node is of; a node of none is its own."""
    return node.ref_doc_id or node.node_id


def _rounded(vectors: Vectors) -> Vectors:
    """As they come back from where they are kept."""
    return vectors.astype(np.float16).astype(np.float32)
