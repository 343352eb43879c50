"""Files that belong to a store: bytes that came without a file, and what was made of media, such as views of a mesh."""

import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode

from llama_index_mm.errors import StoreError
from llama_index_mm.media import digest_bytes
from llama_index_mm.nodes import node_from_json, node_to_json

__all__ = ["MediaFolder"]

_NAME = "media"
_OWN = "mm-own-media://"  # stands for this folder in stored nodes
_SAID = _OWN.replace("/", "\\/")  # the same to readers of JSON: where a node says it by itself


class MediaFolder:
    """Content-addressed files in the folder of a store.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.store_folder = folder
        self.folder = folder.resolve() / _NAME
        self._own = json.dumps(str(self.folder) + "/")[1:-1]  # as it stands in JSON

    def keep(self, data: bytes, suffix: str) -> Path:
        """Write bytes to a file that is named by their digest.

        Raises:
            StoreError: the disk is full or fails.
        """
        digest = digest_bytes(data)
        path = self.folder / digest[:2] / f"{digest}{suffix}"
        if path.is_file():
            return path
        part = path.with_suffix(f".part{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise StoreError(f"{self.folder} can't be written: {error}.") from error
        return path

    def find(self, digest: str) -> Path | None:
        """The file with this content, None if there is none."""
        return next(iter(sorted((self.folder / digest[:2]).glob(f"{digest}*"))), None) if digest else None

    def pack(self, node: BaseNode) -> tuple[str, Mapping[str, Any]]:
        """A node as JSON, in which files of this folder stay with the store when that is moved, and the metadata in it."""
        body = node_to_json(node).replace(_OWN, _SAID)
        if self._own not in body:
            return body, node.metadata
        packed = body.replace(self._own, _OWN)
        return packed, json.loads(packed)["metadata"]

    def unpack(self, body: str, class_name: str) -> BaseNode:
        """Undo `pack`.

        Raises:
            StoreError: it is not what `pack` gave.
        """
        try:
            return node_from_json(body.replace(_OWN, self._own), class_name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"A node in {self.store_folder} is damaged: {error}. Run: llama-index-mm check --store {self.store_folder}"
            ) from error

    def stand_in(self, value: Any) -> Any:
        """A filter's value, in which a path of this folder is what it is in a packed node."""
        if not isinstance(value, str):
            return value
        return value.replace(self._own, _OWN).replace(f"{self.folder}/", _OWN)

    def named_in(self, body: str) -> list[Path]:
        """Files of this folder to which a packed node points."""
        told = dict.fromkeys(re.findall(re.escape(_OWN) + r"(?:[^\"\\]|\\.)*", body))
        return [self.folder / json.loads(f'"{one}"')[len(_OWN) :] for one in told]

    def files(self) -> list[Path]:
        """All files, sorted."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())
