"""`python -m bench [CASE...]`: measure our engine beside the C floor and any peer, in one run, taking turns.

`python -m bench vmm [CASE...]` measures the monitor of our machines beside QEMU instead (bench/nested.py).

BIREME_PEER=name=unix:///path.sock[,name=...] names other engines with a `busybox` image loaded. `--record NOTE` appends
the run's main figures as one row to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import time
from pathlib import Path

from bench import nested
from bench.cases import CASES, Field, Row
from bench.subject import Engine, Floor, favordynmods, run_directory, scratch_directory

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
COLUMNS = (
    "start none, hot",
    "start none, 100 ms pauses",
    "start bridge, hot",
    "start bridge, 100 ms pauses",
    "exec, hot",
    "sustained none, 4 clients",
    "sustained bridge, 4 clients",
    "bireme run --rm busybox true",
    "engine ready",
    "memory after 75 s of quiet",
)


def show(row: Row) -> None:
    spread = f"{row.spread[0]:.2f}-{row.spread[1]:.2f}" if any(row.spread) else ""
    compared = f"{row.against} = {row.ratio}" if row.ratio else ""
    print(f"{row.case:46} {row.subject:8} {row.value:10.2f} {row.unit:9} {spread:16} {compared}", flush=True)


def cell(rows: list[Row], case: str) -> str:
    """The value of ours, and its ratio to the floor where there is one."""
    mine = next((row for row in rows if row.case == case and row.subject == Engine.name), None)
    floor = next((row for row in rows if row.case == case and row.subject == "floor"), None)
    if mine is None:
        return "-"
    return f"{mine.value:.1f}" + (f" ({floor.ratio.median:.2f})" if floor and floor.ratio else "")


def record(rows: list[Row], note: str) -> None:
    line = f"| {time.strftime('%Y-%m-%d')} | {note} | " + " | ".join(cell(rows, case) for case in COLUMNS)
    with open(DOCUMENT, "a") as file:
        file.write(f"{line} | {'on' if favordynmods() else 'off'} |\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="measure the engine; see docs/benchmarks.md")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)} (all)")
    parser.add_argument("--runs", type=int, default=30, help="turns of each subject (30)")
    parser.add_argument("--density", type=int, default=1000, help="running containers of the density case (1000)")
    parser.add_argument("--no-floor", action="store_true", help="leave the C floor out")
    parser.add_argument("--record", metavar="NOTE", help="append a row to docs/benchmarks.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    return options


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["vmm"]:
        return nested.run(arguments[1:])
    options = parse(arguments)
    if os.geteuid():
        raise SystemExit("bench: needs root")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = scratch_directory()
    peers = dict(entry.split("=", 1) for entry in os.environ.get("BIREME_PEER", "").split(",") if entry)
    floor = None if options.no_floor else Floor(place / "floor")
    rows: list[Row] = []
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, ", end="")
    try:
        with Engine(place / "engine") as engine:
            print(f"favordynmods {'on' if favordynmods() else 'off'}")
            print(f"{'case':46} {'subject':8} {'median':>10} {'':9} {'p25-p95':16} ratio: median (p25-p75)")
            field = Field(engine, floor, peers, options.runs, options.density)
            for name in options.cases or CASES:
                for row in CASES[name](field):
                    rows.append(row)
                    show(row)
    finally:
        if floor:
            floor.close()
        if not isinstance(sys.exception(), Exception):  # the engine of a failed run stays, with its log
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(run_directory() / place.name, ignore_errors=True)
    if options.record:
        record(rows, options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
