"""Files that visitors ask with: received within bounds, decoded in another process, and never kept as files."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from llama_index_mm.errors import MediaError, UnsupportedMediaError
from llama_index_mm.media import Modality, Picture, Waveform, contact_sheet, image_bytes, modality_of, wav_bytes
from llama_index_mm.media.decode import Content, RenderedMesh
from llama_index_mm.media.pool import DecodePool
from llama_index_mm.nodes import format_seconds
from llama_index_mm.server.web_errors import RefusedError, readable
from llama_index_mm.server.web_kept import Kept
from llama_index_mm.server.web_limits import WebLimits
from llama_index_mm.server.web_media import Ready

__all__ = ["Upload", "Uploads"]

_DECODERS = 2  # processes
_LONGEST_NAME = 120  # characters of a name that is shown
_PREVIEW_SIDE = 320  # pixels


@dataclass(frozen=True)
class Upload:
    """A file that was decoded.

    Attributes:
        name: as the visitor calls it; only shown.
        modality: of it.
        facts: size, length or counts, in words.
        value: what a `MediaQuery` is asked with.
        preview: a picture, or the sound.
        size: bytes that it takes in memory.
    """

    name: str
    modality: Modality
    facts: str
    value: Any
    preview: Ready
    size: int


class Uploads:
    """Receives files and keeps them decoded, within bounds.

    A file lies on disk only while it is decoded: in a folder of its own, under a name that is made here, of which nothing but
    the ending comes from the visitor.

    Args:
        limits: on files, on what is received at a time, and on what is kept.
    """

    def __init__(self, limits: WebLimits) -> None:
        self._limits = limits
        self._kept: Kept[Upload] = Kept(limits.kept_upload_bytes, limits.kept_uploads)
        self._pool = DecodePool(_DECODERS, limits.uploads)
        self._threads = ThreadPoolExecutor(limits.uploads_at_once, thread_name_prefix="upload")
        self._turns = asyncio.Semaphore(limits.uploads_at_once)

    async def receive(self, name: str, body: AsyncIterator[bytes]) -> tuple[str, Upload]:
        """Receive and decode a file; gives its id, by which it is had while newer ones leave it room.

        Args:
            name: of the file, by which its kind is known.
            body: its bytes, as they arrive.

        Raises:
            UnsupportedMediaError: no decoder takes files of this name.
            DecodeError: the file is broken, or beyond the limits.
            RefusedError: it is a text, has too many bytes, or is too slow.
        """
        shown = _shown(name)
        modality = _modality(shown)
        with tempfile.TemporaryDirectory(prefix="llama-index-mm-upload-") as folder:
            path = Path(folder) / f"upload{PurePosixPath(shown).suffix.lower()}"
            try:
                async with self._turns:
                    await asyncio.wait_for(self._write(path, body), self._limits.upload_seconds)
                    work = partial(self._decode, path, shown, modality)
                    upload = await asyncio.get_running_loop().run_in_executor(self._threads, work)
            except asyncio.TimeoutError:
                raise RefusedError(408, f"{shown} took longer than {self._limits.upload_seconds:.0f} s to arrive.") from None
            except MediaError as error:
                raise type(error)(str(error).replace(str(path), shown).replace(path.name, shown)) from None
        upload_id = secrets.token_urlsafe(18)
        if not self._kept.put(upload_id, upload, upload.size):
            raise RefusedError(413, f"{shown} takes {upload.size:,} bytes in memory, which is more than is kept here.")
        return upload_id, upload

    def get(self, upload_id: str) -> Upload:
        """The file of an id.

        Raises:
            RefusedError: it is not there, or no longer.
        """
        upload = self._kept.get(upload_id)
        if upload is None:
            raise RefusedError(404, "This file is no longer kept here. Add it again.")
        return upload

    def drop(self, upload_id: str) -> None:
        """Let a file go."""
        self._kept.drop(upload_id)

    def close(self) -> None:
        """Stop decoding, and let all files go."""
        self._pool.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._kept.clear()

    def _decode(self, path: Path, shown: str, modality: Modality) -> Upload:
        return _upload(shown, modality, self._pool.submit(path, modality).result())

    async def _write(self, path: Path, body: AsyncIterator[bytes]) -> None:
        count = 0
        with path.open("xb") as file:
            async for piece in body:
                count += len(piece)
                if count > self._limits.uploads.file_bytes:
                    raise RefusedError(413, f"At most {self._limits.uploads.file_bytes:,} bytes of a file are taken here.")
                file.write(piece)


def _shown(name: str) -> str:
    """The last part of a name, whatever system it comes from, without what is no letter of a name."""
    last = readable(name).replace("\\", "/").rpartition("/")[2]
    shown = "".join(one for one in last if one.isprintable()).strip()
    return shown if len(shown) <= _LONGEST_NAME else "…" + shown[-_LONGEST_NAME:]


def _modality(name: str) -> Modality:
    modality = modality_of(Path(name))
    if modality == "text":
        raise UnsupportedMediaError(
            f"{name} is a text. Put its words into the field, or give a picture, a sound or a 3D model."
        )
    return modality


def _upload(name: str, modality: Modality, content: Content) -> Upload:
    if isinstance(content, Picture):
        image = content.image
        preview = Ready(image_bytes(image, longest=_PREVIEW_SIDE), "image/jpeg")
        facts = f"{content.width} × {content.height} pixels"
        return Upload(name, modality, facts, content, preview, 3 * image.width * image.height)
    if isinstance(content, Waveform):
        preview = Ready(wav_bytes(content), "audio/wav")
        size = content.samples.nbytes + len(preview.data)
        return Upload(name, modality, format_seconds(content.seconds), content, preview, size)
    if not isinstance(content, RenderedMesh):
        raise UnsupportedMediaError(f"{name} is neither a picture nor a sound nor a 3D model.")
    preview = Ready(image_bytes(contact_sheet(list(content.views)), longest=2 * _PREVIEW_SIDE), "image/jpeg")
    size = content.mesh.vertices.nbytes + content.mesh.faces.nbytes + len(preview.data)
    return Upload(name, modality, f"{len(content.mesh.faces):,} faces", content.mesh, preview, size)
