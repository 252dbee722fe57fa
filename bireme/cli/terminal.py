"""The user's terminal: raw mode that is always undone, its size, and the keys that detach."""

from __future__ import annotations

import os

from bireme.cli.errors import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def terminal_size(descriptor: int) -> tuple[int, int]:
    """(rows, columns) of the terminal behind `descriptor`, (0, 0) when it is none."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return 0, 0
    return size.lines, size.columns


class RawTerminal:
    """A context in which the terminal passes every byte through (cfmakeraw(3)); its end restores the old settings."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> None:
        import termios as t

        try:
            saved = t.tcgetattr(self._descriptor)
        except t.error:
            return
        iflag, oflag, cflag, lflag, ispeed, ospeed, cc = saved
        iflag &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        lflag &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        cflag = cflag & ~(t.CSIZE | t.PARENB) | t.CS8
        keys = list(cc)
        keys[t.VMIN], keys[t.VTIME] = 1, 0
        self._saved = saved
        t.tcsetattr(self._descriptor, t.TCSANOW, [iflag, oflag & ~t.OPOST, cflag, lflag, ispeed, ospeed, keys])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved, self._saved = self._saved, None
        if saved is None:
            return
        import termios

        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, saved)
        except termios.error:
            pass


def parse_detach_keys(text: str) -> bytes:
    """The bytes of `ctrl-p,ctrl-q` or `a,ctrl-@`; BadValue for a key that a terminal does not send as one byte."""
    keys = bytearray()
    for word in (text or DEFAULT_DETACH_KEYS).split(","):
        letter = word.removeprefix("ctrl-")
        if len(letter) != 1 or ord(letter) > 126:
            raise BadValue(f"Unknown character: '{word}'")
        if letter == word:
            keys.append(ord(letter))
        elif "a" <= letter.lower() <= "z" or letter in "@[\\]^_":
            keys.append(ord(letter.upper()) - 64)
        else:
            raise BadValue(f"Unknown character: '{word}'")
    return bytes(keys)


class DetachFilter:
    """Looks for the detach keys in what is typed; what might be their beginning is held back until it is clear."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(bytes to pass on, whether the whole sequence was typed); what comes behind it is dropped."""
        passed = bytearray()
        for byte in data:
            if byte != self._keys[self._matched] and self._matched:
                passed += self._keys[: self._matched]
                self._matched = 0
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
            else:
                passed.append(byte)
        return bytes(passed), False
