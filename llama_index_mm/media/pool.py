"""Processes that decode files, so that a decoder which crashes or hangs costs one file."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_index_mm import errors
from llama_index_mm.errors import DecodeError, MissingExtraError
from llama_index_mm.media.decode import Content, decode_file, unpack
from llama_index_mm.media.files import Modality
from llama_index_mm.media.limits import LIMITS, MediaLimits

__all__ = ["DecodePool", "Decoding", "default_workers"]

_MIB = 1 << 20
_HELD_BYTES = 1 << 30  # of decoded content that waits for its turn
_ERRORS: dict[str, type[Exception]] = {one: getattr(errors, one) for one in ("DecodeError", "UnsupportedMediaError")}
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from llama_index_mm.media.worker import main; main()"
# One thread each: the processor belongs to the encoders, and there are several workers.
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class _DiedError(Exception):
    """A worker ended without an answer."""


class _TooSlowError(Exception):
    """A worker was killed, as its time was up."""


def default_workers() -> int:
    """How many decoding processes there are unless told: one for each processor that this process may use, at most 8.

    They run at a lower priority: while the models compute they get little, and in between all processors.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


class Decoding:
    """A file on its way through a decoder."""

    def __init__(self, future: "Future[Content]", held: "_Held", ticket: int) -> None:
        self._future = future
        self._held = held
        self._ticket = ticket

    def result(self) -> Content:
        """Wait for what `decode_file` gives, and take it.

        Raises:
            DecodeError: what is wrong with the file; also where the decoder crashed or took too long.
            MissingExtraError: what decodes such files is not installed.
        """
        try:
            return self._future.result()
        finally:
            self._held.take(self._ticket)

    def done(self) -> bool:
        """Whether `result` would not have to wait."""
        return self._future.done()

    @staticmethod
    def wait_for_any(some: "Iterable[Decoding]", seconds: float) -> None:
        """Wait until one of several is done, or for so many seconds."""
        wait([one._future for one in some], timeout=seconds, return_when=FIRST_COMPLETED)


class DecodePool:
    """Decodes files in processes of their own.

    A process that crashes or takes too long is killed and replaced; its file is told with the reason. Content that is decoded
    but not taken yet is bounded by bytes: further files wait.

    Args:
        workers: number of processes; 0 decodes in the calling thread, without any such protection; None is one for each
            processor, at most 8.
        limits: on files, and on the processes.

    Example:
        >>> with DecodePool(2) as pool:
        ...     picture = pool.submit("boat.jpg", "image").result()
    """

    def __init__(self, workers: int | None = None, limits: MediaLimits = LIMITS) -> None:
        self.workers = default_workers() if workers is None else workers
        if self.workers < 0:
            raise ValueError(f"Expected a number of workers of at least 0, got {workers}.")
        self._limits = limits
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decode") if self.workers else None
        self._busy: set[_Worker] = set()
        self._lock = threading.Lock()
        self._held = _Held(_HELD_BYTES)
        self._closed = False

    def submit(self, path: Path | str, modality: Modality) -> Decoding:
        """Begin to decode a file, as `decode_file` does."""
        ticket = self._held.ticket()
        if self._threads is not None:
            return Decoding(self._threads.submit(self._decode, Path(path), modality, ticket), self._held, ticket)
        future: Future[Content] = Future()
        try:
            future.set_result(decode_file(path, modality, self._limits))
        except Exception as error:
            future.set_exception(error)
        return Decoding(future, self._held, ticket)

    def close(self) -> None:
        """Stop: what has not begun never will, and what has is killed."""
        with self._lock:
            self._closed = True
            for worker in self._busy:
                worker.kill()
        self._held.open()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(self, path: Path, modality: Modality, ticket: int) -> Content:
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # the worker will say what is wrong
        seconds = self._limits.decode_seconds + size / _MIB
        task = {"path": str(path), "modality": modality, "limits": asdict(self._limits), "seconds": seconds}
        reason = ""
        for attempt in range(2):  # a worker may have ended for another reason, such as having been idle
            worker = self._worker(fresh=attempt > 0)
            try:
                head, blobs = worker.ask(task, seconds, self._held, ticket)
            except _TooSlowError:
                worker.close()
                raise DecodeError(
                    f"{path.name} took longer than {seconds:.0f} s to decode, which is the limit (MediaLimits.decode_seconds)."
                ) from None
            except _DiedError as died:
                worker.close()
                reason = str(died)
            except BaseException:
                worker.close()
                raise
            else:
                _IDLE.put(worker)
                return _content(head, blobs)
            finally:
                with self._lock:
                    self._busy.discard(worker)
        raise DecodeError(f"The decoder crashed on {path.name} ({reason}). The file is broken, or made to do that.")

    def _worker(self, *, fresh: bool) -> "_Worker":
        with self._lock:
            if self._closed:
                raise DecodeError("The run was stopped.")
            worker = (None if fresh else _IDLE.take()) or _Worker()
            self._busy.add(worker)
            return worker


def _content(head: dict[str, Any], blobs: list[bytearray]) -> Content:
    if "error" not in head:
        return unpack(head, blobs)
    if head["error"] == "MissingExtraError":
        raise MissingExtraError(head["message"])
    raise _ERRORS.get(head["error"], DecodeError)(head["message"])


class _Worker:
    """One process that decodes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([str(one) for one in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pipesize=_MIB,
            env={**os.environ, **_THREADS},
        )
        self._rest = b""

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def ask(self, task: dict[str, Any], seconds: float, held: "_Held", ticket: int) -> tuple[dict[str, Any], list[bytearray]]:
        """Send a task and wait for the answer.

        Raises:
            _DiedError: the process ended.
            _TooSlowError: it was killed.
        """
        with self._killed_after(seconds):
            self._write(json.dumps(task).encode() + b"\n")
            head = json.loads(self._line())
        held.wait_for(ticket, sum(head["blobs"]))  # meanwhile the content stays in the worker
        with self._killed_after(seconds):
            return head, [self._exactly(size) for size in head["blobs"]]

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except _DiedError:
            if late.is_set():
                raise _TooSlowError from None
            raise
        finally:
            timer.cancel()

    def _write(self, data: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while data:
                data = data[pipe.write(data) :]
        except OSError:
            raise self._died() from None

    def _line(self) -> bytes:
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            pipe = self._process.stdout
            assert pipe is not None
            parts.append(pipe.read(_MIB))
            if not parts[-1]:
                raise self._died()
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        done = min(size, len(self._rest))
        data[:done], self._rest = self._rest[:done], self._rest[done:]
        pipe: Any = self._process.stdout
        with memoryview(data) as view:
            while done < size:
                count = pipe.readinto(view[done:])
                if not count:
                    raise self._died()
                done += count
        return data

    def _died(self) -> _DiedError:
        self.kill()
        status = self._process.wait()
        return _DiedError(signal.Signals(-status).name if status < 0 else f"exit status {status}")

    def kill(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """End the process, and close what leads to it."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _Idle:
    """Workers without work, for whoever comes next; starting one takes half a second."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self.close)

    def put(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.append(worker)

    def take(self) -> _Worker | None:
        with self._lock:
            if self._owner != os.getpid():  # after a fork the pipes belong to the other process
                self._workers, self._owner = [], os.getpid()
            while self._workers:
                worker = self._workers.pop()
                if worker.alive:
                    return worker
                worker.close()
        return None

    def close(self) -> None:
        with self._lock:
            if self._owner == os.getpid():
                for worker in self._workers:
                    worker.close()
            self._workers.clear()


_IDLE = _Idle()


class _Held:
    """Bounds the bytes of decoded content that nobody has taken yet. Who came first never waits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._on_their_way: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._changed = threading.Condition()
        self._is_open = False

    def ticket(self) -> int:
        """A place in the queue."""
        with self._changed:
            self._count += 1
            self._on_their_way.add(self._count)
            return self._count

    def wait_for(self, ticket: int, size: int) -> None:
        """Wait until content of so many bytes may come."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_open
                    or sum(self._sizes.values()) + size <= self._most
                    or ticket == min(self._on_their_way, default=ticket)
                )
            )
            self._sizes[ticket] = size

    def take(self, ticket: int) -> None:
        """Tell that the content of a ticket was taken, or never will be."""
        with self._changed:
            self._on_their_way.discard(ticket)
            self._sizes.pop(ticket, None)
            self._changed.notify_all()

    def open(self) -> None:
        """Keep nobody waiting any more."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()
