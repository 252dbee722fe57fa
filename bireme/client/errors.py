"""What can go wrong between us and the engine."""

from __future__ import annotations

from bireme.errors import BiremeError, Conflict, Denied, Internal, Invalid, NotFound, NotModified, Unavailable

_BY_STATUS: dict[int, type[BiremeError]] = {
    304: NotModified,
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    503: Unavailable,
}


class ApiError(BiremeError):
    """The engine answered, with a refusal: `status` is HTTP's, the message is the engine's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.category = _BY_STATUS.get(status, Internal)
        self.kind = self.category.kind  # type: ignore[misc]


class NoEngine(Unavailable):
    """Nobody answers at the engine's address; the hint says what to do about it."""


class BrokenReply(Unavailable):
    """The engine's side of the connection ended or spoke something that is not HTTP."""
