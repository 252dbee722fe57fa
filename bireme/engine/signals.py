"""Signal names and numbers as users type them: TERM, SIGTERM, 15, SIGRTMIN+3."""

from __future__ import annotations

import signal

from bireme.errors import Invalid

_RTMIN, _RTMAX = 34, 64


def parse_signal(text: str) -> int:
    """The number for `text`; Invalid with Docker's wording."""
    raw = text.strip().upper()
    if raw.isdigit():
        number = int(raw)
        if 0 < number <= _RTMAX:
            return number
        raise Invalid(f"invalid signal: {text}", subject=text)
    name = raw.removeprefix("SIG")
    if name.startswith(("RTMIN", "RTMAX")):
        return _realtime(name, text)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise Invalid(f"invalid signal: {text}", subject=text) from None


def _realtime(name: str, text: str) -> int:
    base = _RTMIN if name.startswith("RTMIN") else _RTMAX
    rest = name[5:]
    number = base + (int(rest) if rest.lstrip("+-").isdigit() else 0)
    if (rest and not rest.lstrip("+-").isdigit()) or not _RTMIN <= number <= _RTMAX:
        raise Invalid(f"invalid signal: {text}", subject=text)
    return number
