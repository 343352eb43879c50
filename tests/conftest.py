"""No test uses the network. Fixtures that make small media files."""

import os
import struct
import wave
from collections.abc import Sequence
from pathlib import Path

os.environ["LLAMA_INDEX_MM_OFFLINE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from PIL import Image

from llama_index_mm.models import MODELS, is_present

CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what lacks its weights or its data. ``@pytest.mark.weights("minilm")`` names models beyond the preset's own."""
    for mark in item.iter_markers("weights"):
        needed = mark.args or [spec.name for spec in MODELS.values() if not spec.optional]
        missing = [name for name in needed if not is_present(name)]
        if missing:
            pytest.skip(f"weights of {', '.join(missing)} are not there; run: llama-index-mm models pull {' '.join(missing)}")
    if item.get_closest_marker("data") and not os.environ.get("LLAMA_INDEX_MM_DATA"):
        pytest.skip("needs the evaluation data; set LLAMA_INDEX_MM_DATA to its folder")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the evaluation data."""
    if not os.environ.get("LLAMA_INDEX_MM_DATA"):
        pytest.skip("needs the evaluation data; set LLAMA_INDEX_MM_DATA to its folder")
    return Path(os.environ["LLAMA_INDEX_MM_DATA"])


class Make:
    """Writes small files of every modality into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def bytes(self, name: str, data: bytes) -> Path:
        path = self.path(name)
        path.write_bytes(data)
        return path

    def text(self, name: str, text: str) -> Path:
        return self.bytes(name, text.encode())

    def picture(self, name: str, colour: object = "red", size: tuple[int, int] = (24, 16), **options: object) -> Path:
        path = self.path(name)
        Image.new("RGB", size, colour).save(path, **options)
        return path

    def wav(self, name: str, samples: np.ndarray, rate: int = 16_000, width: int = 2) -> Path:
        """Samples in [-1, 1], ``(n,)`` or ``(n, channels)``; width in bytes: 1 is unsigned, 2 signed, 4 float."""
        path = self.path(name)
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        if width == 4:
            data = samples.astype("<f4").tobytes()
            form = struct.pack("<HHIIHH", 3, channels, rate, rate * 4 * channels, 4 * channels, 32)
            body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
            path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
            return path
        pcm = np.rint(samples * 127 + 128).astype("u1") if width == 1 else np.rint(samples * 32767).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(rate)
            file.writeframes(pcm.tobytes())
        return path

    def tone(self, name: str, hertz: float = 440.0, seconds: float = 1.0, rate: int = 16_000, width: int = 2) -> Path:
        return self.wav(name, 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate), rate, width)

    def obj(self, name: str, points: Sequence[Sequence[float]] = CORNERS, faces: Sequence[Sequence[int]] = SIDES) -> Path:
        """A mesh, by default a cube of edge 1 out of six squares; faces count from 0."""
        lines = [f"v {x} {y} {z}" for x, y, z in points]
        lines += ["f " + " ".join(str(at + 1) for at in face) for face in faces]
        return self.text(name, "\n".join([*lines, ""]))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes small files into the test's own folder."""
    return Make(tmp_path)


@pytest.fixture(scope="module")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Like `make`, for files that all tests of a module share and none changes."""
    return Make(tmp_path_factory.mktemp("files"))
