"""GET /containers/{id}/top: processes as ps would show them, for the columns people ask for."""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable, Sequence
from typing import Any

from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import ProcessRow

Column = Callable[[ProcessRow], str]


def _user(row: ProcessRow) -> str:
    try:
        return pwd.getpwuid(row.uid).pw_name
    except KeyError:
        return str(row.uid)


def _started(row: ProcessRow) -> str:
    began = row.started_at_ns / 1e9
    return time.strftime("%H:%M" if time.time() - began < 86400 else "%b%d", time.localtime(began))


def _cpu_time(row: ProcessRow) -> str:
    seconds = row.cpu_ns // 10**9
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _terminal(row: ProcessRow) -> str:
    return row.terminal or "?"


def _program(row: ProcessRow) -> str:
    return row.command.split(" ")[0].rsplit("/", 1)[-1]


_COLUMNS: dict[str, tuple[str, Column]] = {
    "pid": ("PID", lambda row: str(row.pid)),
    "ppid": ("PPID", lambda row: str(row.ppid)),
    "uid": ("UID", lambda row: str(row.uid)),
    "user": ("USER", _user),
    "stime": ("STIME", _started),
    "start": ("STARTED", _started),
    "tty": ("TT", _terminal),
    "time": ("TIME", _cpu_time),
    "comm": ("COMMAND", _program),
    "cmd": ("CMD", lambda row: row.command),
    "command": ("COMMAND", lambda row: row.command),
    "args": ("COMMAND", lambda row: row.command),
}
_FULL: list[tuple[str, Column]] = [
    ("UID", _user),
    _COLUMNS["pid"],
    _COLUMNS["ppid"],
    ("C", lambda _: "0"),
    _COLUMNS["stime"],
    ("TTY", _terminal),
    _COLUMNS["time"],
    _COLUMNS["cmd"],
]


def process_table(rows: Sequence[ProcessRow], ps_args: str) -> dict[str, Any]:
    """Titles and Processes for `-ef` (the default) or `-o COLUMNS`; Unsupported for other arguments of ps."""
    columns = _columns(ps_args)
    return {
        "Titles": [title for title, _ in columns],
        "Processes": [[value(row) for _, value in columns] for row in rows],
    }


def _columns(ps_args: str) -> list[tuple[str, Column]]:
    words = ps_args.split()
    if not words or words in (["-ef"], ["ef"]):
        return _FULL
    names: list[str] = []
    while words:
        word = words.pop(0)
        if word in ("-e", "-A", "e", "-a", "a", "x", "ax", "-ax"):
            continue
        if word in ("-o", "-eo", "o", "-ao", "axo", "-axo", "--format") and words:
            names += words.pop(0).split(",")
        elif word.startswith("-o") and len(word) > 2:
            names += word[2:].split(",")
        else:
            raise Unsupported(f"ps arguments {ps_args!r} are not supported", hint="-ef and -o COLUMNS are")
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown or not names:
        raise Unsupported(f"ps columns {', '.join(unknown)} are not supported", hint=f"known: {', '.join(_COLUMNS)}")
    if "pid" not in names:
        raise Invalid("Couldn't find PID field in ps output")
    return [_COLUMNS[name] for name in names]
