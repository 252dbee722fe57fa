"""Progress that the engine streams (pull, load, bootstrap), and what it says in the end.

Each message is a JSON object: `status` with an optional `id` and `progressDetail`, `stream` for plain text, `error`
when it failed. On a terminal every id keeps a line of its own that is redrawn; elsewhere only changes are printed.
"""

from __future__ import annotations

import os
import sys

from bireme.cli.errors import CommandFailed
from bireme.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_BAR = 50


class _Display:
    def __init__(self, descriptor: int) -> None:
        self._file = sys.stdout if descriptor == 1 else sys.stderr
        self._live = os.isatty(descriptor)
        self._rows: dict[str, int] = {}
        self._said: dict[str, str] = {}

    def show(self, message: dict[str, Any]) -> None:
        if "stream" in message:
            self._write(str(message["stream"]))
            return
        status, name = str(message.get("status", "")), str(message.get("id", ""))
        text = f"{name}: {status}" if name else status
        detail = message.get("progressDetail") or {}
        if not status:
            return
        if not self._live:
            if not detail and self._said.get(name) != text:
                self._write(text + "\n")
            self._said[name] = text
        elif name:
            self._redraw(name, f"{text} {_bar(detail)}".rstrip())
        else:
            self._rows.clear()
            self._write(text + "\n")

    def _redraw(self, name: str, line: str) -> None:
        width = os.get_terminal_size(self._file.fileno()).columns or 80
        if name not in self._rows:
            self._rows[name] = len(self._rows)
            self._write("\n")
        up = len(self._rows) - self._rows[name]
        self._write(f"\x1b[{up}A\r\x1b[2K{line[: width - 1]}\r\x1b[{up}B")

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _bar(detail: dict[str, Any]) -> str:
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    if total <= 0:
        return human_size(current) if current else ""
    done = min(_BAR, current * _BAR // total)
    arrow = "=" * done + ">" if done < _BAR else "=" * _BAR
    return f"[{arrow.ljust(_BAR)[:_BAR]}]  {human_size(current)}/{human_size(total)}"


def show_progress(
    messages: Iterable[dict[str, Any]], descriptor: int, *, quiet: bool = False, only_results: bool = False
) -> dict[str, Any]:
    """Print `messages` as they come, or `only_results` of them (`stream`); the last `aux` object.

    CommandFailed with the engine's own words when it reports an error.
    """
    display = _Display(descriptor)
    last: dict[str, Any] = {}
    for message in messages:
        if "error" in message or "errorDetail" in message:
            detail = message.get("errorDetail") or {}
            raise CommandFailed(str(detail.get("message") or message.get("error") or "unknown error"))
        if message.get("aux"):
            last = dict(message["aux"])
        if not quiet and ("stream" in message or not only_results):
            display.show(message)
    return last
