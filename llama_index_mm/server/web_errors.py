"""Errors of the web page: what is told to whom, and as which status."""

from llama_index_mm.errors import (
    MediaError,
    MissingExtraError,
    MultiModalError,
    QueryError,
    StoreLockedError,
    UnsupportedMediaError,
)
from llama_index_mm.server.web_api import Failure, FailureBody

__all__ = ["RefusedError", "failure_of", "readable", "refusal_of"]

_CODES = {
    400: "bad_request",
    401: "token_needed",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    408: "too_slow",
    411: "length_needed",
    413: "too_large",
    415: "unsupported",
    416: "no_such_range",
    421: "unknown_host",
    422: "not_understood",
    500: "failed",
    503: "busy",
}


class RefusedError(MultiModalError):
    """A request that is not done, and the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def code(self) -> str:
        """A word for programs."""
        return _CODES.get(self.status, "failed")


def refusal_of(error: Exception) -> RefusedError | None:
    """What a visitor is told of an error; None for one that says nothing to them, or too much."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, UnsupportedMediaError):
        return RefusedError(415, str(error))
    if isinstance(error, MediaError | QueryError):
        return RefusedError(422, str(error))
    if isinstance(error, MissingExtraError | StoreLockedError):
        return RefusedError(503, str(error))
    if isinstance(error, MultiModalError):
        return RefusedError(500, str(error))
    return None


def failure_of(error: Exception) -> Failure:
    """An error in the form that visitors get."""
    refused = refusal_of(error) or RefusedError(500, "This went wrong; the server's log tells more.")
    return Failure(error=FailureBody(code=refused.code, message=readable(str(refused))))


def readable(text: str) -> str:
    """A text that can be sent: names of files may hold what is no character."""
    return text.encode("utf-8", "replace").decode()
