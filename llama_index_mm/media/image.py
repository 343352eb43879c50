"""Files and bytes to upright RGB pixels, by Pillow."""

import io
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from llama_index_mm.errors import DecodeError
from llama_index_mm.media.files import check_readable
from llama_index_mm.media.limits import LIMITS, MediaLimits

__all__ = ["image_bytes", "load_image"]


def load_image(source: Path | str | bytes, *, limits: MediaLimits = LIMITS) -> Image.Image:
    """Decode a picture to RGB, upright by its EXIF orientation, transparent parts on white.

    The first frame of an animation is taken; 16-bit greys are scaled to 8 bits.

    Args:
        source: a path, or the encoded bytes.
        limits: on bytes and pixels.

    Raises:
        DecodeError: the file is missing, empty, broken or truncated, is beyond the limits, or is no picture.
    """
    if isinstance(source, bytes):
        name, opened = "the picture given as bytes", io.BytesIO(source)
        return _decode(opened, name, limits)
    path = Path(source)
    check_readable(path, limits)
    with path.open("rb") as file:
        return _decode(file, path.name, limits)


def _decode(file: IO[bytes], name: str, limits: MediaLimits) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd EXIF blocks, and of sizes that the limits bound already.
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                if image.width * image.height > limits.pixels:
                    raise DecodeError(
                        f"{name} has {image.width} x {image.height} pixels; at most {limits.pixels:,} are "
                        "decoded. Scale it down."
                    )
                image.load()
                return _to_rgb(_upright(image))
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, at the opening already
        raise DecodeError(
            f"{name} has too many pixels ({error}); at most {limits.pixels:,} are decoded. Scale it down."
        ) from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise DecodeError(f"{name} can't be decoded as a picture: {error}. Is it complete, and what its name says?") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an EXIF block that can't be read says nothing of the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit greys; convert("L") would clip them
        grey = np.asarray(image, dtype=np.float64)
        span = grey.max() - grey.min()
        return Image.fromarray(((grey - grey.min()) * (255.0 / span if span > 0 else 0.0)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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
