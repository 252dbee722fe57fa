"""Query parameters as dockerd reads them."""

from __future__ import annotations

from bireme.api.http.message import Request
from bireme.errors import Invalid

_FALSE = frozenset({"", "0", "no", "false", "none"})


def flag(request: Request, name: str, default: bool = False) -> bool:
    """A boolean parameter: anything that is not a spelling of no is yes."""
    values = request.query.get(name)
    if values is None:
        return default
    return values[0].strip().lower() not in _FALSE


def integer(request: Request, name: str) -> int | None:
    """A whole number, None when absent or empty; Invalid in Go's words."""
    text = request.value(name)
    if not text:
        return None
    try:
        if len(text) > 20 or "_" in text or text != text.strip():
            raise ValueError
        return int(text)
    except ValueError:
        raise Invalid(f'strconv.Atoi: parsing "{text}": invalid syntax', subject=name) from None


def size(request: Request, name: str, what: str) -> int:
    """A terminal's rows or columns: a required 32-bit number."""
    text = request.value(name)
    if not text.isascii() or not text.removeprefix("-").isdigit():
        raise Invalid(f'invalid resize {what} "{text}": invalid syntax')
    number = int(text[:12])
    if not 0 <= number < 2**32:
        raise Invalid(f'invalid resize {what} "{text}": value out of range')
    return number
