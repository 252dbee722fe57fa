"""What a machine's agent says about itself, believed as far as its form: the guest is not ours."""

from __future__ import annotations

from collections.abc import Mapping

from bireme.errors import Invalid
from bireme.instance.driver import ExitStatus, ProcessRow

MAX_ROWS = 10_000
_MAX_TEXT = 4096


def process_rows(given: object) -> list[ProcessRow]:
    """Rows of wire/vmcontrol; Invalid for what is none."""
    if not isinstance(given, list) or len(given) > MAX_ROWS:
        raise Invalid("the machine's agent does not list its processes", place="agent")
    return [_row(row) for row in given]


def exec_status(message: Mapping[str, object]) -> ExitStatus | None:
    """How an exec ended, None when that makes no sense."""
    code, signal, at_ns = (message.get(key) for key in ("code", "signal", "at_ns"))
    if not (isinstance(code, int) and isinstance(signal, int) and isinstance(at_ns, int)):
        return None
    return ExitStatus(code=code & 0xFF, signal=signal & 0x7F, finished_at_ns=max(0, at_ns))


def _row(row: object) -> ProcessRow:
    if not isinstance(row, Mapping):
        raise Invalid("the machine's agent lists what is no process", place="agent")
    return ProcessRow(
        pid=_number(row, "pid"),
        ppid=_number(row, "ppid"),
        uid=_number(row, "uid"),
        command=_text(row, "command"),
        started_at_ns=_number(row, "started_at_ns"),
        cpu_ns=_number(row, "cpu_ns"),
        terminal=_text(row, "tty") or "?",
    )


def _number(row: Mapping[str, object], key: str) -> int:
    value = row.get(key, 0)
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise Invalid(f"the machine's agent says {key} is {value!r:.40}", subject=key, place="agent")
    return value


def _text(row: Mapping[str, object], key: str) -> str:
    value = row.get(key, "")
    return value[:_MAX_TEXT] if isinstance(value, str) else ""
