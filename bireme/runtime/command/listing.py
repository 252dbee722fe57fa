"""`list` and `ps`: tables, or JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from bireme.errors import BiremeError, Invalid
from bireme.runtime import state as store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.runtime.main import Options


def run_list(options: Options) -> int:
    form = options.text("format", "table")
    if form not in ("table", "json"):
        raise Invalid(f"invalid format option {form!r}", place="format")
    rows = []
    for name in store.names(options.root):
        try:
            rows.append(store.load(options.root, name).state())
        except (BiremeError, OSError, ValueError):
            continue
    if options.flag("quiet"):
        sys.stdout.write("".join(f"{row['id']}\n" for row in rows))
    elif form == "json":
        sys.stdout.write(json.dumps(rows or None) + "\n")
    else:
        cells = [[row["id"], str(row["pid"]), row["status"], row["bundle"], row["created"], "root"] for row in rows]
        sys.stdout.write(table(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], cells))
    return 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) + 4 for i in range(len(head))]
    return "".join("".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)


def run_ps(options: Options) -> int:
    from bireme.runtime.command import cgroup

    container = store.load(options.root, options.id)
    manager, name = cgroup.open_of(container.data)
    try:
        pids = sorted(manager.pids(name))
    finally:
        manager.close()
    form = options.text("format", "table")
    if form == "json":
        sys.stdout.write(json.dumps(pids) + "\n")
        return 0
    if form != "table":
        raise Invalid(f"invalid format option {form!r}", place="format")
    if len(options.arguments) > 1:
        return _ps_program(options.arguments[1:], pids)
    rows = [_row(pid) for pid in pids]
    sys.stdout.write(table(["UID", "PID", "PPID", "TIME", "CMD"], [row for row in rows if row]))
    return 0


def _row(pid: int) -> list[str]:
    from bireme.linux import procfs

    stat = procfs.read_stat(pid)
    if stat is None:
        return []
    uid = procfs.read_status(pid).get("Uid", "?").split("\t")[0]
    seconds = (stat.user_ticks + stat.system_ticks) // os.sysconf("SC_CLK_TCK")
    spent = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    command = " ".join(procfs.read_command(pid)) or f"[{stat.name}]"
    return [uid, str(pid), str(stat.ppid), spent, command]


def _ps_program(arguments: list[str], pids: list[int]) -> int:
    """The machine's own ps with the options given, cut down to the container's processes."""
    head, *lines = _output_of(["ps", *arguments]).splitlines() or [""]
    if "PID" not in head.split():
        raise Invalid("couldn't find PID field in ps output", place="ps")
    column = head.split().index("PID")
    wanted = {str(pid) for pid in pids}
    kept = [line for line in lines if len(line.split()) > column and line.split()[column] in wanted]
    sys.stdout.write("\n".join([head, *kept]) + "\n")
    return 0


def _output_of(command: list[str]) -> str:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
    finally:
        os.close(writer)
    with open(reader, "rb") as file:
        output = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise Invalid(f"{command[0]} ended with {code}", place=command[0])
    return output.decode("utf-8", "replace")
