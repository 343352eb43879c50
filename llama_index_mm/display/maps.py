"""A space on paper: its vectors in two dimensions, coloured by modality."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from llama_index.core.schema import BaseNode
from numpy.typing import NDArray

from llama_index_mm.display.markup import Markup, element
from llama_index_mm.errors import MissingExtraError, QueryError, SpaceError
from llama_index_mm.index import MultiModalIndex
from llama_index_mm.media import MODALITIES, Modality
from llama_index_mm.nodes import PREFIX, AudioMedia, format_seconds
from llama_index_mm.retrieval.plots import check_plot
from llama_index_mm.stores import NodeStore

__all__ = ["METHODS", "Method", "SpaceMap", "space_map"]

Method = Literal["pca", "tsne"]
"""How vectors are brought into two dimensions."""

METHODS: tuple[Method, ...] = get_args(Method)

_COLOURS: Mapping[str, str] = {"text": "#6b7079", "image": "#2f8f5b", "audio": "#a5478f", "mesh": "#d0752b"}
_MARKERS: Mapping[str, str] = {"text": "o", "image": "s", "audio": "^", "mesh": "D"}  # told apart without colour, too
_WIDTH, _HEIGHT, _EDGE = 640, 460, 16  # of the drawing in a notebook
_PERPLEXITY = 30.0
_LABEL = 80  # characters


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """Vectors of a space in two dimensions.

    Attributes:
        space: name of the space.
        method: how the coordinates were made.
        coordinates: ``(n, 2)`` float64.
        modalities: of each point.
        node_ids: of each point.
        labels: file, and seconds of a recording, of each point.
        there: vectors in the space, of which the points are a sample.
        explained: shares of the variance that the two axes hold; None where axes mean nothing, as for t-SNE.
    """

    space: str
    method: Method
    coordinates: NDArray[np.float64]
    modalities: tuple[Modality, ...]
    node_ids: tuple[str, ...]
    labels: tuple[str, ...]
    there: int
    explained: tuple[float, float] | None

    @property
    def note(self) -> str:
        """What to know when looking at it."""
        shown = (
            f"{len(self.node_ids):,} vectors"
            if len(self.node_ids) == self.there
            else (f"{len(self.node_ids):,} of {self.there:,} vectors, drawn at random")
        )
        if self.explained is None:
            return f"t-SNE of {shown}: neighbours are kept, distances and sizes of groups mean nothing"
        first, second = self.explained
        return f"PCA of {shown}: the axes hold {first:.0%} and {second:.0%} of the variance"

    def counts(self) -> dict[Modality, int]:
        """Points of each modality that is there."""
        return {one: count for one in MODALITIES if (count := self.modalities.count(one))}

    def plot(self, path: Path | str) -> None:
        """Draw it, and write it as PNG, SVG or PDF.

        Raises:
            MissingExtraError: matplotlib is not installed.
            QueryError: there is no such folder, or the name ends in no format that can be written.
        """
        figure = check_plot(path).Figure(figsize=(7.5, 5.8), layout="constrained")
        axes = figure.subplots()
        of = np.array(self.modalities)
        for modality, count in self.counts().items():
            x, y = self.coordinates[of == modality].T
            axes.scatter(
                *(x, y),
                s=22,
                marker=_MARKERS[modality],
                color=_COLOURS[modality],
                alpha=0.75,
                linewidths=0.4,
                edgecolors="white",
                label=f"{modality} ({count})",
            )
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#cccccc")
        figure.suptitle(f"Space {self.space}", fontweight="bold", parse_math=False)
        axes.set_title(self.note, fontsize=9, color="#5a5d62", parse_math=False)
        figure.legend(loc="outside lower center", ncols=len(MODALITIES), frameon=False)
        figure.savefig(path, dpi=150)

    def __repr__(self) -> str:
        return f"SpaceMap({self.space!r}, {self.note})"

    def _repr_html_(self) -> str:
        low, high = self.coordinates.min(0), self.coordinates.max(0)
        scale = min((_WIDTH - 2 * _EDGE) / max(high[0] - low[0], 1e-12), (_HEIGHT - 2 * _EDGE) / max(high[1] - low[1], 1e-12))
        middle = (low + high) / 2
        at = (self.coordinates - middle) * [scale, -scale] + [_WIDTH / 2, _HEIGHT / 2]
        points = [
            element(
                "circle",
                element("title", f"{label} ({modality})"),
                cx=f"{x:.1f}",
                cy=f"{y:.1f}",
                r=4,
                fill=_COLOURS[modality],
                fill_opacity=0.75,
                stroke="#fff",
                stroke_width=0.5,
            )
            for (x, y), modality, label in zip(at, self.modalities, self.labels, strict=True)
        ]
        key = [
            element(
                "span",
                element("span", "●", style=f"color:{_COLOURS[modality]}"),
                f" {modality} ({count})",
                style="margin-right:1em",
            )
            for modality, count in self.counts().items()
        ]
        drawing = element(
            "svg",
            *points,
            viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
            width=_WIDTH,
            height=_HEIGHT,
            role="img",
            aria_label=f"Map of the space {self.space}",
            style="max-width:100%;height:auto;background:#fff;border:1px solid #ddd;border-radius:6px",
        )
        head = element("div", element("strong", f"Space {self.space}"), Markup("<br>"), element("small", self.note))
        return element("div", head, element("div", *key), drawing)


def space_map(
    source: MultiModalIndex | NodeStore, space: str, *, method: Method = "pca", sample: int = 2000, seed: int = 0
) -> SpaceMap:
    """Bring the vectors of a space into two dimensions.

    By default these are the two directions in which the vectors differ most (principal components, by singular values of the
    centred vectors); the side with the largest component is up, so that the same vectors give the same map.

    Args:
        source: an index, or a store.
        space: name of the space.
        method: ``"pca"``, or ``"tsne"`` (van der Maaten and Hinton, JMLR 2008), for which scikit-learn has to be installed.
        sample: points at most; more are drawn at random.
        seed: of what is drawn, and of t-SNE.

    Raises:
        SpaceError: the store has no such space, or nothing in it.
        QueryError: no such method, or a sample of less than one.
        MissingExtraError: t-SNE without scikit-learn.

    Example:
        >>> space_map(index, "picture").plot("picture.png")
    """
    if method not in METHODS:
        raise QueryError(f"Unknown method {method!r}; maps are made by: {', '.join(METHODS)}.")
    if sample < 1:
        raise QueryError(f"A map has at least one point, got a sample of {sample}.")
    manifold = _scikit_learn() if method == "tsne" else None
    store = source if isinstance(source, NodeStore) else source.store
    if space not in store.spaces():
        raise SpaceError(f"Space {space!r} is not in this store; it has {sorted(store.spaces())}.")
    by_modality = {one: store.find(modalities=[one], space=space) for one in MODALITIES}
    seqs = np.concatenate(list(by_modality.values()))
    of = np.repeat(np.array(MODALITIES), [len(some) for some in by_modality.values()])
    if not len(seqs):
        raise SpaceError(f"There is nothing in space {space!r} yet. Ingest something first.")
    there = len(seqs)
    chosen = np.arange(there)
    if there > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(there, sample, replace=False))
    seqs, of = seqs[chosen], of[chosen]
    vectors = np.concatenate(
        [store.vectors(space, modality, seqs[of == modality].tolist()) for modality in MODALITIES if (of == modality).any()]
    ).astype(np.float64)
    nodes = store.nodes(seqs.tolist())
    kept = np.array([seq in nodes for seq in seqs.tolist()])  # somebody may have deleted one meanwhile
    seqs, of, vectors = seqs[kept], of[kept], vectors[kept]
    if manifold is None:
        coordinates, explained = _principal(vectors)
    else:
        coordinates, explained = _neighbours(manifold, vectors, seed), None
    found = [nodes[seq] for seq in seqs.tolist()]
    return SpaceMap(
        space=space,
        method=method,
        coordinates=coordinates,
        modalities=tuple(of.tolist()),
        node_ids=tuple(node.node_id for node in found),
        labels=tuple(_label(node) for node in found),
        there=there,
        explained=explained,
    )


def _principal(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Coordinates along the first two principal components, ``(n, 2)``, and the shares of the variance that they hold."""
    centred = vectors - vectors.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    count = min(2, len(sizes))
    axes = axes[:count]
    signs = np.sign(axes[np.arange(count), np.abs(axes).argmax(1)])
    coordinates = np.zeros((len(vectors), 2))
    coordinates[:, :count] = centred @ (axes * signs[:, None]).T
    total = float((sizes**2).sum())
    shares = [float(size**2) / total if total > 0 else 0.0 for size in sizes[:count]] + [0.0, 0.0]
    return coordinates, (shares[0], shares[1])


def _scikit_learn() -> Any:
    try:
        return importlib.import_module("sklearn.manifold")
    except ImportError as error:
        raise MissingExtraError(
            f"t-SNE needs scikit-learn, which can't be imported ({error}). Install it with: pip install scikit-learn; "
            'or take method="pca", which needs nothing.'
        ) from error


def _neighbours(manifold: Any, vectors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    if len(vectors) < 3:
        raise QueryError(f'A t-SNE map takes at least 3 vectors, got {len(vectors)}. Take method="pca".')
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    made = manifold.TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(vectors)
    return np.asarray(made, dtype=np.float64)


def _label(node: BaseNode) -> str:
    file = node.metadata.get(PREFIX + "path") or node.metadata.get("file_path")
    name = Path(str(file)).name if file else " ".join(node.get_content().split()) or node.node_id
    if isinstance(node, AudioMedia) and node.start is not None and node.end is not None:
        name = f"{name}, {format_seconds(node.start)}-{format_seconds(node.end)}"
    return name if len(name) <= _LABEL else name[: _LABEL - 1] + "…"
