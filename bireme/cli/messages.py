"""Errors as people see them."""

from __future__ import annotations

from bireme.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.errors import BiremeError


def error_text(error: BiremeError) -> str:
    """Docker's line for an error, and our hint on a line of its own."""
    if isinstance(error, ApiError):
        return f"Error response from daemon: {error.message}"
    return f"{error.message}\nHint: {error.hint}" if error.hint else error.message
