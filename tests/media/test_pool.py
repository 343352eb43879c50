"""Decoding in processes that may be killed. The decoder that misbehaves is a package ``av`` of ours, which only workers see."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llama_index_mm.errors import DecodeError, MissingExtraError, UnsupportedMediaError
from llama_index_mm.media import MediaLimits, load_audio
from llama_index_mm.media import pool as module
from llama_index_mm.media.decode import Pages, RenderedMesh, decode_file, pack, unpack
from llama_index_mm.media.pages import Page
from llama_index_mm.media.pool import DecodePool, default_workers

pytest.importorskip("av")
pytest.importorskip("open3d")

# What it does is in the file's first word. It sleeps as native code does, holding the interpreter.
BAD_DECODER = """
import ctypes, os, signal, sys

class FFmpegError(Exception):
    pass

def open(file, *args, **options):
    import numpy
    word = getattr(file, "read", lambda: __import__("pathlib").Path(file).read_bytes())().split()[0].decode()
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "exit":
        os._exit(3)
    if word == "sleep":
        ctypes.PyDLL(None).sleep(600)
    if word == "eat":
        held = [numpy.ones(1 << 26) for _ in range(1000)]
    if word == "shout":
        os.write(1, b"noise between answers"), print("more", file=sys.stderr), print("and more")
        raise FFmpegError("after a noise")
    raise ZeroDivisionError("one that no decoder should raise")
"""


@pytest.fixture
def bad_decoder(tmp_path_factory, monkeypatch):
    """Makes workers, and only those, decode sound with `BAD_DECODER`."""
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "av.py").write_text(BAD_DECODER)
    module._IDLE.close()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "av", raising=False)
    yield
    module._IDLE.close()


def equal(one, other):
    """Whether two contents are the same, bit for bit."""
    (head, blobs), (other_head, other_blobs) = pack(one), pack(other)
    return head == other_head and list(map(bytes, blobs)) == list(map(bytes, other_blobs))


@pytest.fixture
def files(make):
    return {
        make.picture("red.png", "red", (1500, 40)): "image",
        make.tone("whistle.wav", 800): "audio",
        make.obj("stool.obj"): "mesh",
    }


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_comes_out_is_what_decoding_here_gives(files, workers):
    with DecodePool(workers) as pool:
        found = {path: pool.submit(path, modality) for path, modality in files.items()}
        for path, modality in files.items():
            assert equal(found[path].result(), decode_file(path, modality))


def test_content_crosses_as_bytes(files):
    contents = [decode_file(path, modality) for path, modality in files.items()]
    contents.append(Pages((Page("iv", "Grüße"), Page("1", ""))))
    for content in contents:
        head, blobs = pack(content)
        assert equal(unpack(head, [bytearray(blob) for blob in blobs]), content)


def test_of_another_kind():
    with pytest.raises(DecodeError, match="'smell'"):
        unpack({"kind": "smell"}, [])


def test_facts_of_a_mesh_are_typed(make):
    with DecodePool(1) as pool:
        content = pool.submit(make.obj("stool.obj"), "mesh").result()
    assert isinstance(content, RenderedMesh)
    assert content.facts == decode_file(make.folder / "stool.obj", "mesh").facts


def test_bad_files_are_told_and_the_rest_goes_on(make):
    good = make.picture("good.png")
    bad = make.text("bad.png", "no picture")
    with DecodePool(1) as pool:
        first, second = pool.submit(bad, "image"), pool.submit(good, "image")
        with pytest.raises(DecodeError, match=r"^bad\.png can't be decoded"):
            first.result()
        assert second.result().width == 24
        with pytest.raises(DecodeError, match="missing"):
            pool.submit(make.folder / "gone.png", "image").result()


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("crash", r"The decoder crashed on bad\.wav \(SIGSEGV\)"),
        ("exit", r"The decoder crashed on bad\.wav \(exit status 3\)"),
        ("sleep", r"bad\.wav took longer than 1 s to decode.*MediaLimits\.decode_seconds"),
        ("eat", r"bad\.wav needs more memory to be decoded than 4,294,967,296 bytes \(MediaLimits\.memory_bytes\)"),
        ("shout", r"bad\.wav can't be decoded.*after a noise"),
        ("raise", r"bad\.wav can't be decoded: ZeroDivisionError: one that no decoder should raise"),
    ],
)
def test_decoder_that_misbehaves_costs_one_file(make, bad_decoder, word, reason):
    if word == "eat" and sys.platform != "linux":
        pytest.skip("the address space is bounded on Linux only")
    bad, good = make.text("bad.wav", word + " " * 100), make.picture("good.png")
    limits = MediaLimits(decode_seconds=1.0 if word == "sleep" else 30.0, memory_bytes=4 << 30)
    with DecodePool(1, limits) as pool:
        futures = [pool.submit(path, kind) for path, kind in ((good, "image"), (bad, "audio"), (good, "image"))]
        assert futures[0].result().width == 24
        began = time.monotonic()
        with pytest.raises(DecodeError, match=reason):
            futures[1].result()
        assert time.monotonic() - began < 30
        assert futures[2].result().width == 24


def test_missing_package_is_an_error_of_the_installation(make, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "av.py").write_text("raise ImportError('not there')")
    module._IDLE.close()
    monkeypatch.syspath_prepend(folder)
    with DecodePool(1) as pool, pytest.raises(MissingExtraError, match=r"llama-index-mm\[audio\]"):
        pool.submit(make.tone("a.wav"), "audio").result()
    module._IDLE.close()


def test_error_of_a_kind_keeps_its_class(make, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("other")
    (folder / "av.py").write_text(
        "class FFmpegError(Exception):\n    pass\n"
        "def open(*args, **options):\n    from llama_index_mm.errors import UnsupportedMediaError\n"
        "    raise UnsupportedMediaError('is of no kind')\n"
    )
    module._IDLE.close()
    monkeypatch.syspath_prepend(folder)
    with DecodePool(1) as pool, pytest.raises((UnsupportedMediaError, DecodeError), match="is of no kind"):
        pool.submit(make.tone("a.wav"), "audio").result()
    module._IDLE.close()


def test_workers_are_used_again(files):
    path = next(iter(files))
    with DecodePool(1) as pool:
        pool.submit(path, "image").result()
        first = {worker._process.pid for worker in module._IDLE._workers}
    with DecodePool(1) as pool:
        pool.submit(path, "image").result()
    assert {worker._process.pid for worker in module._IDLE._workers} == first


def test_worker_that_ended_meanwhile_is_replaced(files):
    path = next(iter(files))
    with DecodePool(1) as pool:
        pool.submit(path, "image").result()
        for worker in module._IDLE._workers:
            worker._process.terminate()
            worker._process.wait()
        assert pool.submit(path, "image").result().width == 1500


def test_closing_stops_what_is_under_way(make, bad_decoder):
    slow = make.text("slow.wav", "sleep")
    pool = DecodePool(1)
    under_way, waiting = pool.submit(slow, "audio"), pool.submit(slow, "audio")
    time.sleep(1)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 5
    assert under_way.done()
    with pytest.raises(DecodeError, match="stopped"):
        under_way.result()
    assert waiting.done()


def test_decoded_content_is_bounded(make, monkeypatch):
    """Files wait in their decoders while too much that was decoded is not taken; whoever came first never waits."""
    monkeypatch.setattr(module, "_HELD_BYTES", 40_000)  # a second of sound is 64,000 bytes
    paths = [make.tone(f"{at}.wav", 400 + at) for at in range(6)]
    with DecodePool(3) as pool:
        futures = [pool.submit(path, "audio") for path in paths]
        deadline = time.monotonic() + 20
        while not futures[0].done() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        assert [future.done() for future in futures] == [True] + [False] * 5
        for path, future in zip(paths, futures, strict=True):
            np.testing.assert_array_equal(future.result().samples, load_audio(path).samples)


def test_many_threads_share_a_pool(make):
    paths = [make.picture(f"{at}.png", (at, 0, 0)) for at in range(40)]
    found = {}

    def work(some):
        for path in some:
            found[path] = pool.submit(path, "image").result().image.getpixel((0, 0))[0]

    with DecodePool(2) as pool:
        threads = [threading.Thread(target=work, args=[paths[at::4]]) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[path] for path in paths] == list(range(40))


def test_numbers_of_workers():
    assert 1 <= default_workers() <= 8
    with pytest.raises(ValueError, match="at least 0, got -1"):
        DecodePool(-1)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_nothing_stays_behind_when_the_program_is_killed(make, tmp_path):
    """A program that is killed leaves no workers: those without work see the end of their input."""
    path = make.picture("red.png")
    code = (
        "import os, sys, time\n"
        "from llama_index_mm.media import pool\n"
        "with pool.DecodePool(1) as p:\n"
        f"    p.submit({str(path)!r}, 'image').result()\n"
        "print(pool._IDLE._workers[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(module.__file__).parents[2])
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _lives(pid):
        time.sleep(0.1)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
