"""stats: a table of what containers use, once or redrawn every second.

CPU shares come from two readings of our own, a second apart, so they do not depend on what the engine remembers.
"""

from __future__ import annotations

import os
import sys
import time

from bireme.cli.listing import Listing
from bireme.cli.many import ask_all
from bireme.cli.messages import error_text
from bireme.cli.option import FORMAT_TABLE, UNLIMITED, Option, Verb
from bireme.cli.units import binary_size, human_size, parse_time
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

    Reading = dict[str, Any]

_INTERVAL_S = 1.0


def cpu_percent(before: Reading, now: Reading) -> float:
    """Share of one CPU between two readings; against the host's CPU time, or the clock where that is missing."""
    cpu, earlier = now.get("cpu_stats") or {}, before.get("cpu_stats") or {}
    used = _total(cpu) - _total(earlier)
    cpus = int(cpu.get("online_cpus") or 0) or len((cpu.get("cpu_usage") or {}).get("percpu_usage") or ()) or 1
    system = int(cpu.get("system_cpu_usage") or 0) - int(earlier.get("system_cpu_usage") or 0)
    if system <= 0:
        system = int((parse_time(str(now.get("read"))) - parse_time(str(before.get("read")))) * 1e9) * cpus
    return used / system * cpus * 100.0 if system > 0 and used > 0 else 0.0


def _total(cpu: dict[str, Any]) -> int:
    return int((cpu.get("cpu_usage") or {}).get("total_usage") or 0)


def memory_used(memory: dict[str, Any]) -> int:
    """Without the page cache that the kernel would drop first."""
    usage, stats = int(memory.get("usage") or 0), memory.get("stats") or {}
    cache = int(stats.get("total_inactive_file") or stats.get("inactive_file") or 0)
    return usage - cache if cache < usage else usage


def _memory(reading: Reading) -> tuple[int, int]:
    memory = reading.get("memory_stats") or {}
    return memory_used(memory), int(memory.get("limit") or 0)


def _memory_percent(reading: Reading) -> str:
    used, limit = _memory(reading)
    return f"{used / limit * 100 if limit else 0.0:.2f}%"


def _network(reading: Reading, key: str) -> str:
    return human_size(sum(int(card.get(key) or 0) for card in (reading.get("networks") or {}).values()), 3)


def _block(reading: Reading, operation: str) -> str:
    rows = (reading.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    return human_size(sum(int(row["value"]) for row in rows if str(row.get("op")).lower() == operation), 3)


def _processes(reading: Reading) -> str:
    return str(int((reading.get("pids_stats") or {}).get("current") or 0))


def _listing(full: bool) -> Listing:
    def known(compute: Field, missing: str = "--") -> Field:
        return lambda row: compute(row) if row.get("read") else missing

    def usage(row: Reading) -> str:
        used, limit = _memory(row)
        return f"{binary_size(used)} / {binary_size(limit)}"

    fields: dict[str, tuple[str, Field]] = {
        "BlockIO": ("BLOCK I/O", known(lambda r: f"{_block(r, 'read')} / {_block(r, 'write')}", "-- / --")),
        "CPUPerc": ("CPU %", known(lambda r: f"{r['_Cpu']:.2f}%")),
        "Container": ("CONTAINER", lambda r: r["_Asked"]),
        "ID": ("CONTAINER ID", lambda r: str(r.get("id") or "--") if full else str(r.get("id") or "--")[:12]),
        "MemPerc": ("MEM %", known(_memory_percent)),
        "MemUsage": ("MEM USAGE / LIMIT", known(usage, "-- / --")),
        "Name": ("NAME", lambda r: str(r.get("name") or "--").removeprefix("/")),
        "NetIO": ("NET I/O", known(lambda r: f"{_network(r, 'rx_bytes')} / {_network(r, 'tx_bytes')}", "-- / --")),
        "PIDs": ("PIDS", known(_processes)),
    }
    return Listing(fields, ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"])


class _Sampler:
    """Reads all containers at once and keeps the last reading of each."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._before: dict[str, Reading] = {}
        self.errors: list[str] = []

    def _names(self) -> list[str]:
        names: list[str] = self._invocation.args.rest
        if names:
            return names
        containers = self._invocation.engine.containers({"all": self._invocation.args["all"]})
        return [str(container["Id"]) for container in containers]

    def sample(self) -> list[Reading]:
        names, self.errors = self._names(), []
        targets = [(name, f"/containers/{quote(name)}/stats", _ONCE) for name in names]
        rows, readings = [], {}
        for name, answer, error in ask_all(self._invocation, "GET", targets):
            if error is not None:
                self.errors.append(error_text(error))
                continue
            readings[name] = answer
            before = self._before.get(name) or {"cpu_stats": answer.get("precpu_stats"), "read": answer.get("preread")}
            rows.append(answer | {"_Asked": name, "_Cpu": cpu_percent(before, answer)})
        self._before = readings
        return rows


_ONCE: dict[str, object] = {"stream": "0", "one-shot": "1"}


def show_stats(invocation: Invocation) -> int:
    args, form = invocation.args, invocation.form("statsFormat")
    listing, sampler = _listing(args["no-trunc"]), _Sampler(invocation)
    sampler.sample()
    if sampler.errors and args.rest:
        for message in sampler.errors:
            invocation.err(message)
        return 1
    live = not args["no-stream"]
    while True:
        time.sleep(_INTERVAL_S)
        rows = sampler.sample()
        if live and os.isatty(1):
            sys.stdout.write("\x1b[H\x1b[J")
        for line in listing.lines(rows, form):
            invocation.out(line)
        sys.stdout.flush()
        if not live or (args.rest and not rows):
            return 0


VERBS = {
    "container stats": Verb(
        show_stats,
        "[OPTIONS] [CONTAINER...]",
        "Display a live stream of container(s) resource usage statistics",
        (
            Option("all", "bool", "Show all containers (default shows just running)", "a"),
            Option("format", "string", FORMAT_TABLE),
            Option("no-stream", "bool", "Disable streaming stats and only pull the first result"),
            Option("no-trunc", "bool", "Do not truncate output"),
        ),
        args=(0, UNLIMITED),
        aliases=("container stats", "stats"),
        complete="running",
    ),
}
