"""What an adapter is fitted on: items of the new modality, each with what it belongs with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from numpy.typing import NDArray

from llama_index_mm.embeddings.base import Encoder, Vectors
from llama_index_mm.embeddings.cache import payload_digest
from llama_index_mm.embeddings.payloads import part_payload
from llama_index_mm.errors import AlignmentError
from llama_index_mm.media import Mesh, digest_bytes, digest_file, load_mesh, render_views
from llama_index_mm.nodes import AudioMedia, MediaNode

__all__ = [
    "Encoded",
    "Pair",
    "digest_of",
    "digest_pairs",
    "labelled",
    "numbered",
    "paired",
    "payload_of",
    "split_groups",
    "with_views",
]


@dataclass(frozen=True)
class Pair:
    """An item of the new modality, and something in the space that it belongs with.

    Attributes:
        item: what the source's encoder takes, or a path or node of it.
        target: what the target's encoder takes, or a path or node of it; a text for an encoder of texts.
        key: what is the same for all that belong together; the content of the target if not given. All items with a label
            belong together, and so do two captions with one key.
        group: what must not be torn apart when some pairs are held out: the pairs of one recording, or of one class where it
            shall be measured on classes that were never seen. The content of the item if not given.
    """

    item: Any
    target: Any
    key: str = ""
    group: str = ""


def labelled(items: Sequence[Any], labels: Sequence[str], *, unseen: bool = False) -> list[Pair]:
    """Pairs of items with labels or captions.

    Args:
        items: of the new modality.
        labels: a text for each; items of equal text belong together.
        unseen: hold out whole labels, to tell how well things are found that it was not trained on.
    """
    _check_lengths(items, labels)
    groups = labels if unseen else [""] * len(labels)
    return [Pair(item, label, group=group) for item, label, group in zip(items, labels, groups, strict=True)]


def paired(items: Sequence[Any], others: Sequence[Any]) -> list[Pair]:
    """Pairs of items with items of a modality that the space has, such as thermal pictures with photos of the same."""
    _check_lengths(items, others)
    return [Pair(item, other) for item, other in zip(items, others, strict=True)]


def with_views(meshes: Sequence[Mesh | Path | str]) -> list[Pair]:
    """Pairs of meshes with their own rendered views: an encoder of meshes learns what an encoder of pictures sees.

    Nobody has to label anything (distillation across modalities: Gupta, Hoffman and Malik, "Cross Modal Distillation for
    Supervision Transfer", CVPR 2016, arXiv:1507.00448). Rendering takes the extra ``mesh``, and some 50 ms a mesh.
    """
    loaded = [mesh if isinstance(mesh, Mesh) else load_mesh(mesh) for mesh in meshes]
    return [Pair(mesh, render_views(mesh)) for mesh in loaded]


def payload_of(given: Any, encoder: Encoder) -> Any:
    """What the encoder takes, of an item as it was given: paths and nodes are loaded, the rest is taken as it is.

    Raises:
        DecodeError: a file can't be decoded.
    """
    return part_payload(given, encoder.payload) if isinstance(given, Path | BaseNode) else given


def digest_of(given: Any) -> str:
    """Digest of the content of an item: 32 hexadecimal digits.

    Raises:
        EncodeError: it is of a kind whose content is not known; give it as a file, or name ``key`` and ``group``.
    """
    if isinstance(given, Path):
        return digest_file(given)[:32]
    if isinstance(given, MediaNode):
        span = (given.start, given.end) if isinstance(given, AudioMedia) else ()
        return digest_bytes(f"{given.digest} {span}".encode())[:32]
    if isinstance(given, BaseNode):
        return payload_digest(given.get_content(MetadataMode.EMBED)).hex()[:32]
    return payload_digest(given).hex()[:32]


@dataclass(frozen=True)
class Encoded:
    """Pairs as vectors: each item and each target once.

    Attributes:
        features: ``(i, s)`` float32, of the items, by the source's encoder.
        targets: ``(t, d)`` float32, of the targets.
        keys: ``(t,)`` number of the key of each target.
        pairs: ``(n, 2)`` numbers of item and target.
        groups: ``(n,)`` number of the group of each pair.
        digest: of all contents, keys and groups.
    """

    features: Vectors
    targets: Vectors
    keys: NDArray[np.int64]
    pairs: NDArray[np.int64]
    groups: NDArray[np.int64]
    digest: str

    def together(self, items: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these belong together.

        Args:
            items: ``(a,)`` numbers of items.
            targets: ``(b,)`` numbers of targets.

        Returns:
            ``(a, b)`` bool.
        """
        count = int(self.keys.max()) + 1
        known = np.unique(self.pairs[:, 0] * count + self.keys[self.pairs[:, 1]])
        asked = items[:, None] * count + self.keys[targets]
        at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        found: NDArray[np.bool_] = known[at] == asked
        return found

    def part(self, chosen: NDArray[np.bool_]) -> "Encoded":
        """Some of the pairs ``(n,)``, with the items and targets of these alone."""
        pairs = self.pairs[chosen]
        items, first = np.unique(pairs[:, 0], return_inverse=True)
        targets, second = np.unique(pairs[:, 1], return_inverse=True)
        return Encoded(
            self.features[items],
            self.targets[targets],
            self.keys[targets],
            np.stack([first, second], 1),
            self.groups[chosen],
            self.digest,
        )


def numbered(names: Sequence[str]) -> tuple[NDArray[np.int64], dict[str, int]]:
    """A number for each name, by first occurrence."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64), numbers


def digest_pairs(rows: Sequence[tuple[str, ...]]) -> str:
    """Digest of pairs, each told as texts: 16 hexadecimal digits."""
    return hashlib.sha256("\x1e".join("\x1f".join(row) for row in rows).encode()).hexdigest()[:16]


def split_groups(data: Encoded, share: float, *, seed: int = 0) -> NDArray[np.bool_]:
    """Choose pairs to hold out: whole groups, and of each key the same share as far as that goes.

    Groups whose first pair has a key that other groups have too are drawn from each key in turn, the others together.

    Args:
        data: the pairs.
        share: of the groups, in (0, 1).
        seed: the same seed chooses the same.

    Returns:
        ``(n,)`` bool, True for what is held out.

    Raises:
        AlignmentError: there are too few groups to have some on either side.
    """
    numbers, first = np.unique(data.groups, return_index=True)
    if not 0 < share < 1:
        raise AlignmentError(f"Expected a share in (0, 1) to hold out, got {share}.")
    if len(numbers) < 2:
        raise AlignmentError(
            f"Expected at least two groups of pairs, got {len(numbers)}: one to fit on and one to measure on. "
            "Give more pairs, or other groups."
        )
    rng = np.random.default_rng(seed)
    keys = data.keys[data.pairs[first, 1]]
    _, place, count = np.unique(keys, return_inverse=True, return_counts=True)
    stratum = np.where(count[place] > 1, keys, -1)
    order = np.lexsort((rng.permutation(len(numbers)), stratum))
    steps = np.floor(np.arange(len(numbers) + 1) * share + rng.random())
    taken = order[np.diff(steps) > 0]
    if not len(taken):
        taken = order[:1]
    if len(taken) == len(numbers):
        taken = taken[1:]
    held: NDArray[np.bool_] = np.isin(data.groups, numbers[taken])
    return held


def _check_lengths(one: Sequence[Any], two: Sequence[Any]) -> None:
    if len(one) != len(two):
        raise AlignmentError(f"Expected something to go with each item, got {len(one)} items and {len(two)}.")
