"""Planted data: what the right adapter is is known."""

import numpy as np

from llama_index_mm.embeddings.base import Encoder, fingerprint, unit


class Given(Encoder):
    """An encoder whose items are arrays, and are their own vectors."""

    payload = "image"

    def __init__(self, dimension, name="given"):
        self.dimension = dimension
        self.fingerprint = fingerprint(name, dimension)
        self.calls = 0

    def _encode(self, items, *, query):
        self.calls += len(items)
        return np.stack(items)


def cloud(n, d, seed=0):
    """Unit vectors all over the sphere."""
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def rotated(n=200, d=16, noise=0.0, seed=0):
    """Vectors of the space, and the same as an encoder of another modality sees them: rotated, with noise."""
    target = cloud(n, d, seed)
    rng = np.random.default_rng([seed, 1])
    return unit(target @ rotation(d, seed) + noise * rng.normal(size=target.shape)), target


def kinked(n=600, d=8, seed=0):
    """The space knows the absolute values of what the source sees: no linear map will do."""
    source = cloud(n, d, seed)
    return source, unit(np.abs(source) - np.abs(source).mean(0))
