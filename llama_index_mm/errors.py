"""Every error this package raises on purpose.

    MultiModalError
    ├── MissingExtraError      a package of an optional extra is not installed        (also ImportError)
    ├── MediaError             a file can't be taken as the media it should be        (also ValueError)
    │   ├── UnsupportedMediaError   no decoder for this kind of file
    │   └── DecodeError             the file is broken, empty or not what its name says
    ├── ModelError             weights are missing, wrong or can't be fetched         (also RuntimeError)
    ├── EncodeError            an encoder was given what it can't encode, or gave what it must not  (also ValueError)
    ├── SpaceError             vectors or queries of another embedding space          (also ValueError)
    ├── StoreError             the store is missing, damaged or of another version    (also RuntimeError)
    │   └── StoreLockedError        somebody else is writing to it
    ├── FilterError            a metadata filter that has no meaning                  (also ValueError)
    ├── QueryError             a query that can't be planned                          (also ValueError)
    ├── AlignmentError         a modality that can't be fitted to a space, or must not join it  (also ValueError)
    └── ClusterError           a cluster can't be reached, or has no room for what is to run on it  (also RuntimeError)

Each message says what was expected, what came, and what to do.
"""

__all__ = [
    "AlignmentError",
    "ClusterError",
    "DecodeError",
    "EncodeError",
    "FilterError",
    "MediaError",
    "MissingExtraError",
    "ModelError",
    "MultiModalError",
    "QueryError",
    "SpaceError",
    "StoreError",
    "StoreLockedError",
    "UnsupportedMediaError",
]


class MultiModalError(Exception):
    """Base of all errors of this package."""


class MissingExtraError(MultiModalError, ImportError):
    """A package that belongs to one of the optional extras is not installed."""


class MediaError(MultiModalError, ValueError):
    """A file can't be taken as the media it should be."""


class UnsupportedMediaError(MediaError):
    """There is no decoder for this kind of file."""


class DecodeError(MediaError):
    """The file is broken, empty or not what its name says."""


class ModelError(MultiModalError, RuntimeError):
    """Weights are missing, wrong or can't be fetched."""


class EncodeError(MultiModalError, ValueError):
    """An encoder was given what it can't encode, or gave vectors that it must not give."""


class SpaceError(MultiModalError, ValueError):
    """Vectors, encoders or queries belong to another embedding space than the one at hand."""


class StoreError(MultiModalError, RuntimeError):
    """The store is missing, damaged, or of a version that this package can't read."""


class StoreLockedError(StoreError):
    """Somebody else is writing to the store."""


class FilterError(MultiModalError, ValueError):
    """A metadata filter that has no meaning."""


class QueryError(MultiModalError, ValueError):
    """A query that can't be planned or answered."""


class AlignmentError(MultiModalError, ValueError):
    """A modality can't be fitted to a space from what was given, or an adapter is too bad to join it."""


class ClusterError(MultiModalError, RuntimeError):
    """The cluster can't be reached, or has no room for what is to run on it."""
