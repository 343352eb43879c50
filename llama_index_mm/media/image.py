"""Files and bytes to upright RGB pixels, by Pillow."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from llama_index_mm._optional import require
from llama_index_mm.errors import DecodeError, MissingExtraError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.formats import PICTURES, UNSIGNED, content_of
from llama_index_mm.media.frames import count_frames, survey
from llama_index_mm.media.limits import LIMITS, MediaLimits
from llama_index_mm.media.regular import open_regular

__all__ = ["PICTURE_SIDE", "Picture", "image_bytes", "load_image", "load_picture"]

PICTURE_SIDE = 1024  # pixels of the longest side that encoders get: more than any encoder here looks at

_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations whose width is stored as height
_BLOCK = 2048  # pixels of a side, in which greys of many bits are gone through
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")


@dataclass(frozen=True)
class Picture:
    """A decoded picture, and what its file holds.

    Attributes:
        image: upright RGB pixels; of an animation or a file of many pages, the first.
        width: pixels of the upright picture in the file, before it was scaled down.
        height: likewise.
        frames: pictures in the file: frames, or pages; 10,000 stands for that many or more.
    """

    image: Image.Image
    width: int
    height: int
    frames: int = 1


def load_image(source: Path | str | bytes, *, longest: int | None = None, limits: MediaLimits = LIMITS) -> Image.Image:
    """Give the pixels of `load_picture` alone."""
    return load_picture(source, longest=longest, limits=limits).image


def load_picture(source: Path | str | bytes, *, longest: int | None = None, limits: MediaLimits = LIMITS) -> Picture:
    """Decode a picture to RGB, upright by its EXIF orientation, transparent parts on white.

    The content tells the format, not the name. The first frame of an animation is taken. Greys of more than 8 bits are
    spread so that the darkest becomes 0 and the lightest 255; what is no number becomes 0. Colours are taken as they are
    stored, without colour profiles.

    Args:
        source: a path, or the encoded bytes.
        longest: pixels of the longest side, to which larger pictures are scaled down; ``None`` keeps the size. JPEGs are
            decoded at a half, a quarter or an eighth where that is still enough, which is several times faster.
        limits: on bytes and pixels.

    Raises:
        DecodeError: the file is missing, empty, broken or truncated, is beyond the limits, or is no picture.
        MissingExtraError: it is HEIC, and pillow-heif is not installed.
    """
    if longest is not None and longest < 1:
        raise ValueError(f"Expected longest to be 1 pixel or more, got {longest}.")
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "the picture given as bytes", "", longest, limits)
    path = Path(source)
    check_readable(path, limits)
    with open_regular(path) as file:
        return _decode(file, path.name, path.suffix.lower(), longest, limits)


def _decode(file: IO[bytes], name: str, suffix: str, longest: int | None, limits: MediaLimits) -> Picture:
    try:
        with _quiet():
            frames = survey(file)
            with _open(file, suffix) as image:
                _check_size(image, limits)
                return _picture(image, count_frames(image, frames), longest, limits)
    except DecodeError as error:
        raise DecodeError(f"{name} {error}") from error
    except MissingExtraError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, at the opening already
        raise DecodeError(f"{name} has too many pixels; at most {limits.pixels:,} are decoded. Scale it down.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise DecodeError(f"{name} can't be decoded as a picture: {_reason(file, error)}") from error


def _reason(file: IO[bytes], error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError, ValueError):
            file.seek(0)
            if (content := content_of(file.read(512))) is not None:
                return f"it seems to hold {content}. Is it complete, and what its name says?"
        return "its content is of no format that is known here. Is it complete, and what its name says?"
    return f"{error or type(error).__name__}. Is it complete, and what its name says?"


def _open(file: IO[bytes], suffix: str) -> Image.Image:
    """Open by the parsers of the table only: none that runs programs, reads other files or unpacks without bound."""
    head = file.read(64)
    file.seek(0)
    if _is_heif(head):
        heif: Any = require("pillow_heif", extra="heic")
        opened: Image.Image = heif.HeifImageFile(file)
        return opened
    Image.init()  # does nothing but the first time
    formats = [kind for kind, endings in PICTURES.items() if kind in Image.OPEN and (kind not in UNSIGNED or suffix in endings)]
    return Image.open(file, formats=formats)


def _is_heif(head: bytes) -> bool:
    """Whether the brands are of HEVC pictures; those of AV1 pictures (AVIF) are for Pillow."""
    if head[4:8] != b"ftyp":
        return False
    if head[8:12] in (b"mif1", b"msf1"):
        listed = head[16 : int.from_bytes(head[:4], "big")]
        return not any(brand in listed for brand in _AVIF_BRANDS)
    return head[8:12] in _HEIF_BRANDS


def _check_size(image: Image.Image, limits: MediaLimits) -> None:
    """Refuse by the header, before anything is decoded."""
    width, height = image.size
    if width * height > limits.pixels:
        raise DecodeError(f"has {width} x {height} pixels; at most {limits.pixels:,} are decoded. Scale it down.")
    tags: Any = getattr(image, "tag_v2", {})  # a TIFF's tiles have a size of their own
    tile = tags.get(322, 1), tags.get(323, 1)
    if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > limits.pixels:
        raise DecodeError(f"has tiles of {tile[0]} x {tile[1]} pixels; at most {limits.pixels:,} are decoded. Save it anew.")


def _picture(image: Image.Image, frames: int, longest: int | None, limits: MediaLimits) -> Picture:
    stored = image.size
    drafted = longest is not None and image.format in ("JPEG", "MPO") and image.draft(None, _scaled(stored, longest))
    image.load()
    if not drafted:
        stored = image.size  # a TIFF is upright only now, and an icon's size is that of the picture in it
        _check_size(image, limits)
    orientation = _orientation(image)
    width, height = reversed(stored) if orientation in _LYING else stored
    rgb = _to_rgb(image)
    if longest is not None:
        rgb = _shrink(rgb, _scaled(stored, longest))
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return Picture(rgb, width, height, frames)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an EXIF block that can't be read says nothing of the pixels
        return 1


def _scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """The size within ``longest`` with the same ratio of sides; never larger, never 0."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # greys of 16 and 32 bits; convert("L") would clip them
        return Image.fromarray(_spread(image)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, (0, 0), rgba)
        return white
    return image.convert("RGB")


def _spread(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Greys to ``(height, width)`` uint8: the least finite value is 0, the greatest 255."""
    low, high = np.inf, -np.inf
    for box in _blocks(image.size):
        grey = np.asarray(image.crop(box), dtype=np.float64)
        finite = grey[np.isfinite(grey)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    spread = np.zeros((image.height, image.width), np.uint8)
    if high > low:
        for left, top, right, bottom in _blocks(image.size):
            grey = np.asarray(image.crop((left, top, right, bottom)), dtype=np.float64)
            grey = np.nan_to_num(np.clip(grey, low, high), nan=low)
            spread[top:bottom, left:right] = np.rint((grey - low) * (255.0 / (high - low)))
    return spread


def _blocks(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and bottom of blocks that cover a picture, so that no more than one is held in 64 bits."""
    for top in range(0, size[1], _BLOCK):
        for left in range(0, size[0], _BLOCK):
            yield left, top, min(left + _BLOCK, size[0]), min(top + _BLOCK, size[1])


_decoding = 0
_hushed = contextlib.ExitStack()
_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hush what Pillow says of odd EXIF blocks and of sizes that the limits bound already.

    Filters of warnings belong to the whole process: the first thread in sets them, the last one out puts them back.
    """
    global _decoding
    with _lock:
        _decoding += 1
        if _decoding == 1:
            _hushed.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif")
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if _decoding == 0:
                _hushed.close()


def image_bytes(image: Image.Image, *, longest: int | None = None, kind: str = "JPEG") -> bytes:
    """Encode a picture, scaled down so that its longest side has at most ``longest`` pixels.

    Args:
        image: an RGB picture.
        longest: pixels of the longest side; ``None`` keeps the size.
        kind: Pillow's name of the format, ``"JPEG"`` (quality 85) or ``"PNG"``.
    """
    if longest is not None and max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=85)
    return buffer.getvalue()
