"""How many pictures a file holds, told from its structure, without decoding them, and in bounded time."""

import struct
from typing import IO

from PIL import Image

from llama_index_mm.errors import DecodeError

__all__ = ["MOST_FRAMES", "count_frames", "survey"]

MOST_FRAMES = 10_000  # that are counted
_MOST_BLOCKS = 2_000_000  # of a GIF that are walked through; about a second
_COMMENT_BYTES = 1 << 20  # of a GIF's comments; Pillow's time grows with their square
_EXIF_BYTES = 4 << 20  # of a JPEG's EXIF segments, which Pillow joins likewise


def survey(file: IO[bytes]) -> int | None:
    """Walk through a GIF, TIFF or JPEG before a decoder sees it, and leave the file at its beginning.

    Returns:
        Frames of a GIF and pages of a TIFF, ``10_000`` for that many or more; ``None`` for other files.

    Raises:
        DecodeError: there are more than 1 MiB of comments (GIF) or 4 MiB of EXIF (JPEG), more than any program writes.
    """
    head = file.read(4)
    frames = None
    if head == b"GIF8":
        file.seek(0)
        frames = _walk_gif(file)
    elif head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        file.seek(0)
        frames = _walk_tiff(file)
    elif head[:2] == b"\xff\xd8":
        file.seek(2)
        _walk_jpeg(file)
    file.seek(0)
    return frames


def count_frames(image: Image.Image, surveyed: int | None) -> int:
    """Give the number of frames or pages, at least 1, out of what `survey` told and what the opened picture's header says.

    Layers (PSD) and sizes (ICO, ICNS) are not frames.
    """
    if surveyed is None:
        surveyed = 1 if image.format == "PSD" else int(getattr(image, "n_frames", 1))
    return max(1, min(surveyed, MOST_FRAMES))


def _walk_gif(file: IO[bytes]) -> int:
    """Frames of a GIF by its blocks; stops at whatever is no block."""
    head = file.read(13)
    if len(head) < 13:
        return 0
    _skip_palette(file, head[10])
    frames = blocks = comments = 0
    while frames < MOST_FRAMES and blocks < _MOST_BLOCKS:
        kind = file.read(1)
        if kind == b"\x2c":
            _skip_palette(file, (file.read(9) or b"\0")[-1])
            file.seek(1, 1)
            frames += 1
            blocks += _skip_blocks(file, _MOST_BLOCKS - blocks)[0]
        elif kind == b"\x21":
            label = file.read(1)
            passed, size = _skip_blocks(file, _MOST_BLOCKS - blocks)
            blocks += passed
            comments += size if label == b"\xfe" else 0
            if comments > _COMMENT_BYTES:
                raise DecodeError(f"has more than {_COMMENT_BYTES:,} bytes of comments. Save it without them.")
        else:
            break
    return frames


def _skip_palette(file: IO[bytes], flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)


def _skip_blocks(file: IO[bytes], most: int) -> tuple[int, int]:
    """Go past a chain of sub-blocks; give how many there were and their bytes."""
    passed = size = 0
    length = int.from_bytes(file.read(1), "little")
    while length and passed < most:
        block = file.read(length + 1)  # with the next one's length
        passed += 1
        size += length
        length = block[length] if len(block) > length else 0
    return passed + 1, size


def _walk_jpeg(file: IO[bytes]) -> None:
    """Add up the EXIF segments that come before the pixels."""
    exif = 0
    while len(marker := file.read(4)) == 4 and marker[0] == 0xFF and marker[1] not in (0xDA, 0xFF):
        length = int.from_bytes(marker[2:], "big") - 2
        if length < 0:
            return
        name = file.read(min(6, length))
        exif += length if marker[1] == 0xE1 and name == b"Exif\0\0" else 0
        if exif > _EXIF_BYTES:
            raise DecodeError(f"has more than {_EXIF_BYTES:,} bytes of EXIF. Save it without them.")
        file.seek(length - len(name), 1)


def _walk_tiff(file: IO[bytes]) -> int:
    """Directories of a TIFF or BigTIFF; a chain that bites its tail ends there."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    count, entry, link = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "L")
    seen: set[int] = set()
    at = _number(link, head[8 if big else 4 :])
    while at and at not in seen and at < 1 << 62 and len(seen) < MOST_FRAMES:
        file.seek(at)
        entries = _number(count, file.read(struct.calcsize(count)))
        if not 0 < entries <= 65_535:
            break
        seen.add(at)
        file.seek(entries * entry, 1)
        at = _number(link, file.read(struct.calcsize(link)))
    return len(seen)


def _number(form: str, data: bytes) -> int:
    """The number at the beginning of the bytes, or 0 where they end too early."""
    size = struct.calcsize(form)
    return int(struct.unpack(form, data[:size])[0]) if len(data) >= size else 0
