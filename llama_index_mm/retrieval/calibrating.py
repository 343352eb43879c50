"""When an index's calibration is made: on request, and where what it was made from is not what is there any more."""

import logging
import time
from collections.abc import Collection, Sequence

from llama_index_mm.embeddings.base import EmbeddingSpace
from llama_index_mm.retrieval.calibration import Calibration, calibrate
from llama_index_mm.retrieval.calibration_report import CalibrationReport, report_of
from llama_index_mm.stores import NodeStore

__all__ = ["calibrated", "follow", "follow_reembedding"]

_LOG = logging.getLogger(__name__)


def calibrated(
    store: NodeStore, spaces: Sequence[EmbeddingSpace], *, show_progress: bool = False, anew: bool = False
) -> tuple[Calibration, CalibrationReport]:
    """Calibrate an index, and keep what was learned with it.

    Args:
        store: of the index.
        spaces: with their encoders.
        show_progress: show a bar on standard error.
        anew: keep nothing of what was learned before.

    Raises:
        StoreLockedError: somebody else is writing; told before anything is encoded.
    """
    began = time.monotonic()
    store.note_sources([])  # writes nothing, but only where it may
    old = None if anew else Calibration.load(store)
    made = calibrate(store, spaces, old=old, show_progress=show_progress)
    made.save(store)
    return made, report_of(store, spaces, made, time.monotonic() - began)


def follow(store: NodeStore, spaces: Sequence[EmbeddingSpace], *, show_progress: bool = False) -> Calibration | None:
    """Calibrate an index that has changed much; None where it has not.

    It comes after work that is done and stored, and so fails with a warning in the log: the index keeps the calibration that
    it has.
    """
    return _follow(store, spaces, Calibration.load(store) or Calibration.empty(), show_progress)


def follow_reembedding(
    store: NodeStore, spaces: Sequence[EmbeddingSpace], encoded: Collection[str], *, show_progress: bool = False
) -> None:
    """Learn anew what was known of spaces whose vectors are others now; like `follow`, but only if the index was calibrated.

    Args:
        store: of the index.
        spaces: with their encoders.
        encoded: names of the spaces that were encoded anew.
        show_progress: show a bar on standard error.
    """
    old = Calibration.load(store)
    if old is not None:
        prints = {name: mark for name, mark in old.prints.items() if name not in encoded}
        _follow(store, spaces, Calibration(old.fits, old.asked, prints, old.counts), show_progress)


def _follow(store: NodeStore, spaces: Sequence[EmbeddingSpace], old: Calibration, show_progress: bool) -> Calibration | None:
    """A new calibration; None if that is not needed, or fails."""
    if not old.stale(store, spaces):
        return None
    try:
        made = calibrate(store, spaces, old=old, show_progress=show_progress)
        made.save(store)
    except Exception as error:  # an encoder may be a service, and raise whatever its client raises
        _LOG.warning(
            "The index in %s could not be calibrated (%s: %s); all else is done. Try again: llama-index-mm calibrate %s",
            store.name,
            type(error).__name__,
            error,
            store.name,
        )
        return None
    return made
