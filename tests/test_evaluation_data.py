"""What the offline preset claims, on real media with ground truth; runs where LLAMA_INDEX_MM_DATA points to them."""

import csv
import random

import numpy as np
import pytest

from llama_index_mm.media import load_audio, load_image
from llama_index_mm.presets import load_preset

pytestmark = [pytest.mark.data, pytest.mark.weights]


@pytest.fixture(scope="module")
def spaces():
    return {space.name: space for space in load_preset("offline").spaces}


def rows(path, count):
    with path.open(encoding="utf-8") as file:
        return random.Random(0).sample(list(csv.DictReader(file)), count)


def nearest_is_of_the_same(vectors, labels):
    """Share of the items whose nearest other item has their label, among items that have another of it."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2)
    nearest = similarity.argmax(1)
    asked = [at for at, label in enumerate(labels) if labels.count(label) > 1]
    return sum(labels[nearest[at]] == labels[at] for at in asked) / len(asked)


def test_voices(data, spaces):
    some = rows(data / "speech" / "transcripts.csv", 40)
    vectors = spaces["speaker"].encoders["audio"].encode([load_audio(data / "speech" / row["file"]) for row in some])
    assert nearest_is_of_the_same(vectors, [row["speaker"] for row in some]) > 0.9


def test_sounds(data, spaces):
    some = rows(data / "sounds" / "labels.csv", 60)
    vectors = spaces["sound"].encoders["audio"].encode([load_audio(data / "sounds" / row["file"]) for row in some])
    assert nearest_is_of_the_same(vectors, [row["label"] for row in some]) > 0.6


def test_captions_find_their_photos(data, spaces):
    some = rows(data / "photos" / "captions.csv", 60)
    files = sorted({row["file"] for row in some})
    picture = spaces["picture"]
    photos = picture.encoders["image"].encode([load_image(data / "photos" / file) for file in files])
    captions = picture.query_encoder("text").encode([row["caption"] for row in some], query=True)
    best = np.argsort(-captions @ photos.T, axis=1)[:, :10]
    assert np.mean([row["file"] in [files[at] for at in order] for row, order in zip(some, best, strict=True)]) > 0.5
