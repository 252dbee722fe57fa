"""Terminals: pairs from a given devpts, window size, controlling terminal, raw mode. pty(7), ioctl_tty(2)."""

from __future__ import annotations

import os
import struct
import termios
import tty as _tty
from typing import NamedTuple

from bireme.linux.ioctl import ioctl, ior, iow

_winsize = struct.Struct("=4H")
_TIOCSPTLCK = iow("T", 0x31, 4)
_TIOCGPTN = ior("T", 0x30, 4)
_TIOCGPTPEER = 0x5441
_TIOCSCTTY = 0x540E
_TIOCNOTTY = 0x5422


class Terminal(NamedTuple):
    """A pty: the master descriptor, the slave's, and the slave's number below devpts."""

    master: int
    slave: int
    number: int


def open_terminal(ptmx: str = "/dev/pts/ptmx") -> Terminal:
    """A new pty of the devpts that `ptmx` belongs to; the slave comes from TIOCGPTPEER, not from a path."""
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        ioctl(master, _TIOCSPTLCK, bytearray(4), subject="TIOCSPTLCK")
        number = bytearray(4)
        ioctl(master, _TIOCGPTN, number, subject="TIOCGPTN")
        slave = ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, subject="TIOCGPTPEER")
    except BaseException:
        os.close(master)
        raise
    return Terminal(master, slave, int.from_bytes(number, "little"))


def set_size(fd: int, rows: int, columns: int) -> None:
    """Window size in characters; the foreground process group gets SIGWINCH when it changes. TIOCSWINSZ."""
    ioctl(fd, termios.TIOCSWINSZ, bytearray(_winsize.pack(rows & 0xFFFF, columns & 0xFFFF, 0, 0)), subject="TIOCSWINSZ")


def get_size(fd: int) -> tuple[int, int]:
    """(rows, columns). TIOCGWINSZ."""
    block = bytearray(_winsize.size)
    ioctl(fd, termios.TIOCGWINSZ, block, subject="TIOCGWINSZ")
    rows, columns, _, _ = _winsize.unpack(block)
    return rows, columns


def set_controlling(fd: int) -> None:
    """Make a terminal the controlling one of this session leader. TIOCSCTTY."""
    ioctl(fd, _TIOCSCTTY, 0, subject="TIOCSCTTY")


def make_raw(fd: int) -> list[object]:
    """Raw mode (cfmakeraw); the settings to give to `restore`."""
    before = termios.tcgetattr(fd)
    _tty.setraw(fd, termios.TCSANOW)
    return before


def restore(fd: int, settings: list[object]) -> None:
    """Put settings back that `make_raw` returned; waits until written output is sent."""
    termios.tcsetattr(fd, termios.TCSADRAIN, settings)  # type: ignore[arg-type]
