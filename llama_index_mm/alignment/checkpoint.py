"""Tensors with what is told of them in one safetensors file, put in place at once: a run that is killed leaves it whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index_mm._optional import require
from llama_index_mm.errors import AlignmentError

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(path: Path, run: str, tensors: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Write a file that a run goes on from; the folder is made if need be.

    Args:
        path: of the file; what was there is replaced.
        run: digest of all that decides the result.
        tensors: torch tensors by name.
        told: what JSON can hold.
    """
    safetensors: Any = require("safetensors.torch", extra="align")
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}")
    half.write_bytes(safetensors.save(dict(tensors), metadata={"state": json.dumps({**told, "run": run})}))
    half.replace(path)


def read_checkpoint(path: Path, run: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read what `write_checkpoint` wrote; None if there is nothing.

    Returns:
        What was told, and the tensors.

    Raises:
        AlignmentError: it is broken, or of another run.
    """
    if not path.exists():
        return None
    safetensors: Any = require("safetensors", extra="align")
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            told: dict[str, Any] = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            found = told.pop("run")
    except Exception as error:  # safetensors raises its own kind
        raise AlignmentError(f"{path} can't be read ({error}). Delete it to begin anew.") from error
    if found != run:
        raise AlignmentError(
            f"{path} is of a run on other data, with other options or encoders. Give another folder, or delete it."
        )
    return told, tensors
