"""A process that decodes files for another one, and that may be killed.

`DecodePool` starts it. It reads tasks from standard input, one JSON object a line, and writes answers to standard output: a
line of JSON, then the bytes that the line tells the sizes of. Nothing is pickled, so a decoder that was taken over by a hostile
file can't make the other process run anything.
"""

import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import IO, Any

from llama_index_mm.errors import MultiModalError
from llama_index_mm.media.decode import decode_file, pack
from llama_index_mm.media.limits import MediaLimits

__all__ = ["main"]

_IDLE_SECONDS = 60.0  # without a task, after which the process ends
_GRACE_SECONDS = 30.0  # beyond the time limit, after which the system ends a process that nobody killed
_NICE = 10  # the process that encodes goes first


def main() -> None:
    """Serve until standard input ends, or until there was nothing to do for a while."""
    answers = os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("w") as nowhere:  # what libraries print must not get between answers
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides when to stop
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    while task := _next_task():
        limits = MediaLimits(**task["limits"])
        _bound(limits)
        with _deadline(task["seconds"] + _GRACE_SECONDS):
            head, blobs = _answer(task, limits)
        _send(answers, head, blobs)


def _next_task() -> Any:
    if sys.platform != "win32" and not select.select([sys.stdin.buffer], [], [], _IDLE_SECONDS)[0]:
        return None
    line = sys.stdin.buffer.readline()
    return json.loads(line) if line else None


def _bound(limits: MediaLimits) -> None:
    """Bound the address space, and leave no core dumps, where the system can do that."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limits.memory_bytes is not None and sys.platform == "linux":
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, hard))


@contextlib.contextmanager
def _deadline(seconds: float) -> Any:
    """Let the system end this process after a time, even inside a decoder that never comes back."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(task: dict[str, Any], limits: MediaLimits) -> tuple[dict[str, Any], list[Any]]:
    try:
        return pack(decode_file(task["path"], task["modality"], limits))
    except Exception as error:
        return _refusal(Path(task["path"]).name, error, limits), []


def _refusal(name: str, error: Exception, limits: MediaLimits) -> dict[str, Any]:
    chain: BaseException | None = error
    while chain is not None:  # decoders wrap whatever they meet
        if isinstance(chain, MemoryError):
            bound = f"{limits.memory_bytes:,} bytes (MediaLimits.memory_bytes)" if limits.memory_bytes else "there is"
            return {"error": "DecodeError", "message": f"{name} needs more memory to be decoded than {bound}."}
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, MultiModalError):
        return {"error": type(error).__name__, "message": str(error)}
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return {"error": "DecodeError", "message": f"{name} can't be decoded: {reason}."}


def _send(answers: IO[bytes], head: dict[str, Any], blobs: list[Any]) -> None:
    sizes = [memoryview(blob).nbytes for blob in blobs]
    answers.write(json.dumps({**head, "blobs": sizes}).encode() + b"\n")
    for blob in blobs:
        answers.write(blob)
    answers.flush()
