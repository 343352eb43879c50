"""How much of the machine one file may take."""

from dataclasses import dataclass

__all__ = ["LIMITS", "MediaLimits"]


@dataclass(frozen=True)
class MediaLimits:
    """Bounds on one file, and on the process that decodes it. What is beyond them is refused with the reason.

    Attributes:
        file_bytes: size of a file.
        pixels: of a picture, width times height, by its header: larger ones are refused before they are decoded.
        seconds: of a recording.
        faces: of a mesh, after polygons became triangles.
        characters: of a text.
        members: files in an archive.
        decode_seconds: that decoding one file may take; a second more is given for each MiB of the file.
        memory_bytes: address space of a decoding process, where the system can bound it (Linux); None for no bound.
    """

    file_bytes: int = 2 << 30
    pixels: int = 100_000_000
    seconds: float = 6 * 3600.0
    faces: int = 20_000_000
    characters: int = 20_000_000
    members: int = 10_000
    decode_seconds: float = 60.0
    memory_bytes: int | None = 8 << 30


LIMITS = MediaLimits()
