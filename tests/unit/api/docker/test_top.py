"""ps as top shows it."""

from __future__ import annotations

import time

import pytest

from bireme.api.docker.top import process_table
from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import ProcessRow

ROW = ProcessRow(
    pid=7, ppid=1, uid=4_000_000, command="/bin/sleep 9", started_at_ns=time.time_ns(), cpu_ns=3_723 * 10**9
)


def test_full() -> None:
    for args in ("", "-ef"):
        shown = process_table([ROW], args)
        assert shown["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        (row,) = shown["Processes"]
        assert row[:3] == ["4000000", "7", "1"]
        assert row[5:] == ["?", "01:02:03", "/bin/sleep 9"]


def test_columns() -> None:
    for args in ("-o pid,comm", "-eo pid,comm", "-opid,comm", "ax -o pid -o comm"):
        assert process_table([ROW], args) == {"Titles": ["PID", "COMMAND"], "Processes": [["7", "sleep"]]}


def test_refused() -> None:
    for args in ("aux", "-o", "--sort=pid", "-o pid,nope"):
        with pytest.raises(Unsupported):
            process_table([ROW], args)
    with pytest.raises(Invalid, match="Couldn't find PID field"):
        process_table([ROW], "-o comm")
