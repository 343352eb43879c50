"""Mesh files changed at random, read in a process of its own: each is read or refused, nothing else.

LLAMA_INDEX_MM_FUZZ_SECONDS=180 makes it run for three minutes; each round then begins with other examples.
"""

import logging
import multiprocessing
import os
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mesh_files import CUBES

from llama_index_mm.errors import DecodeError, MissingExtraError
from llama_index_mm.media import load_mesh, render_views

SECONDS = float(os.environ.get("LLAMA_INDEX_MM_FUZZ_SECONDS", "0"))
WAIT = 20.0  # seconds after which one file of some 100 bytes counts as a hang
MEMORY = 6 << 30  # bytes of address space of the child, of which libraries take most

NUMBERS = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 10**18, 2**63, -1, -2, -9]
WORDS = [
    *map(str, NUMBERS),
    "nan",
    "inf",
    "-inf",
    "1e30",
    "1e-30",
    "1e308",
    "1e999",
    "0.5",
    "",
    "x",
    "null",
    "[]",
    "{}",
    '"',
    "-",
]
WORDS += ["OFF", "v", "f", "vertex", "solid", "endsolid", "element face 9", "property list int int a", "\\\n", "#", "/", "//"]
PACKED = [struct.pack(form, number % 2**32) for number in NUMBERS for form in ("<I", ">I")]
PACKED += [struct.pack("<f", value) for value in (float("nan"), float("inf"), 3e38, 1e-45, -0.0)]


def child(pipe):
    """Read files until there are no more; tell what became of each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while path := pipe.recv():
        try:
            mesh = load_mesh(path)
            vertices, faces = mesh.vertices, mesh.faces
            fine = len(faces) and faces.min() >= 0 and faces.max() < len(vertices) and np.isfinite(vertices).all()
            size = mesh.facts().size
            views = render_views(mesh, size=8)
            pipe.send("read" if fine and len(views) == 6 and np.isfinite(size).all() else f"not fine: {mesh}")
        except MissingExtraError:
            pipe.send("read")
        except DecodeError as error:
            pipe.send("memory" if isinstance(error.__cause__, MemoryError) else "refused")
        except BaseException as error:
            pipe.send(f"{type(error).__name__}: {error}")


class Reader:
    """A child process; another one after a crash."""

    def __init__(self):
        self._process = None

    def __call__(self, path: Path) -> str:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=child, args=(other,), daemon=True)
            self._process.start()
            other.close()
            self._pipe.send(str(path))  # the first takes as long as the imports
            self._pipe.poll(120)
            self._pipe.recv()
        try:
            self._pipe.send(str(path))
            if self._pipe.poll(WAIT):
                return self._pipe.recv()
            result = "hang"
        except (EOFError, OSError):
            self._process.join(WAIT)
            result = f"crash, exit code {self._process.exitcode}"
        self.close()
        return result

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


@pytest.fixture(scope="module")
def read():
    reader = Reader()
    yield reader
    reader.close()


@st.composite
def changes(draw, data: bytes) -> bytes:
    """A file in which one to four things were changed."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 64)))
        match draw(st.sampled_from(["flip", "cut", "drop", "repeat", "word", "packed", "splice"])):
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[to:]
            case "repeat":
                data = data[:to] + data[at:to] * draw(st.integers(1, 50)) + data[to:]
            case "word":  # in place of the word that begins there
                begin = max(data.rfind(mark, 0, at) for mark in (b" ", b"\n", b":")) + 1
                ends = [found for mark in (b" ", b"\n", b",", b"}") if (found := data.find(mark, begin)) >= 0]
                data = data[:begin] + draw(st.sampled_from(WORDS)).encode() + data[min(ends, default=len(data)) :]
            case "packed":
                data = data[:at] + draw(st.sampled_from(PACKED)) + data[at + 4 :]
            case "splice":
                other = CUBES[draw(st.sampled_from(sorted(CUBES)))]
                data = data[:at] + other[min(at, len(other)) :]
    return data


@pytest.mark.parametrize("suffix", ["glb", "gltf", "obj", "off", "ply", "stl"])
def test_changed_files_are_read_or_refused(make, read, suffix):
    names = sorted(name for name in CUBES if name.endswith(suffix))
    path = make.path(f"changed.{suffix}")
    seen = Counter()

    def check(data):
        path.write_bytes(data)
        result = read(path)
        seen[result] += 1
        assert result in ("read", "refused"), result

    def rounds(examples, **options):
        options = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
        changed = st.sampled_from(names).flatmap(lambda name: changes(CUBES[name]))
        return settings(max_examples=examples, **options)(given(changed)(check))

    rounds(40, derandomize=True)()
    until = time.monotonic() + SECONDS / 6
    while time.monotonic() < until:
        seed(time.monotonic_ns())(rounds(500))()
    logging.getLogger(__name__).info("%s: %s", suffix, dict(seen))
    assert seen["refused"] > 0
