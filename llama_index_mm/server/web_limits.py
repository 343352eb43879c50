"""How much visitors of the web page may ask of the machine."""

from dataclasses import dataclass, field

from llama_index_mm.media import MediaLimits

__all__ = ["WebLimits"]


@dataclass(frozen=True)
class WebLimits:
    """Bounds on what a server takes, keeps and does at a time. What is beyond them is refused with the reason.

    Attributes:
        uploads: on each file that is asked with, and on the process that decodes it; ``file_bytes`` bounds what is received.
        upload_seconds: in which a file has to arrive.
        uploads_at_once: files that arrive or are decoded at a time, two of them decoded; others wait.
        kept_uploads: decoded files that are kept for further searches; the oldest go first.
        kept_upload_bytes: that they may take together.
        kept_media_bytes: of pictures, sounds and meshes that are kept ready to be sent.
        sound_seconds: of a result that can be played.
        side: pixels of a picture's longest side.
        results: that may be asked for at once.
        characters: of a question.
        request_bytes: of a request that is no upload.
        searches: at a time; each takes a thread.
        waiting_searches: that may wait for their turn.
        answers: at a time; None for one where the LLM runs in this process, else four.
        waiting_answers: questions that may wait for their turn.
    """

    uploads: MediaLimits = field(
        default_factory=lambda: MediaLimits(
            file_bytes=64 << 20,
            pixels=50_000_000,
            seconds=300.0,
            faces=1_000_000,
            decode_seconds=20.0,
            memory_bytes=4 << 30,
        )
    )
    upload_seconds: float = 120.0
    uploads_at_once: int = 8
    kept_uploads: int = 32
    kept_upload_bytes: int = 256 << 20
    kept_media_bytes: int = 128 << 20
    sound_seconds: float = 300.0
    side: int = 960
    results: int = 50
    characters: int = 4_000
    request_bytes: int = 64 << 10
    searches: int = 2
    waiting_searches: int = 200
    answers: int | None = None
    waiting_answers: int = 16
