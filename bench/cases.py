"""The cases, each a function from a Field to rows of figures."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from bench.api import Api
from bench.measure import Ratio, Series, interleave, ratio, timed_ms
from bench.subject import PROGRAMS, Engine, Floor, name_of, pss_kib


class Field(NamedTuple):
    """Who takes part, and how often."""

    engine: Engine
    floor: Floor | None
    peers: dict[str, str]
    """name -> socket of engines that speak the same API."""
    runs: int
    density: int


Subjects = dict[str, Callable[[], float]]


class Row(NamedTuple):
    """One line of the result table."""

    case: str
    subject: str
    value: float
    unit: str
    spread: tuple[float, float] = (0.0, 0.0)
    against: str = ""
    ratio: Ratio | None = None


def rows(case: str, taken: dict[str, Series], unit: str) -> Iterator[Row]:
    """A row per subject, ours with its ratio to each other one."""
    mine = taken[Engine.name]
    yield Row(case, Engine.name, mine.median, unit, (mine.quantile(0.25), mine.quantile(0.95)))
    for name, series in taken.items():
        if name != Engine.name:
            spread = (series.quantile(0.25), series.quantile(0.95))
            yield Row(case, name, series.median, unit, spread, f"{Engine.name}/{name}", ratio(mine, series))


def sockets(field: Field) -> dict[str, str]:
    return {Engine.name: field.engine.socket, **field.peers}


def start(field: Field) -> Iterator[Row]:
    """create + start + wait + remove of `true`."""
    for network in ("none", "bridge"):
        for pace, pause_s in (("hot", 0.0), ("100 ms pauses", 0.1)):
            subjects: Subjects = {
                name: partial(timed_ms, Api(socket).life, network) for name, socket in sockets(field).items()
            }
            if field.floor:
                subjects["floor"] = partial(field.floor.one_ms, network)
            yield from rows(f"start {network}, {pace}", interleave(subjects, runs=field.runs, pause_s=pause_s), "ms")


def steps(field: Field) -> Iterator[Row]:
    """Where the time of one start goes, seen from the client."""
    api = Api(field.engine.socket)
    for network in ("none", "bridge"):
        taken: dict[str, list[float]] = {"create": [], "start": [], "wait": [], "remove": []}
        for _ in range(field.runs):
            time.sleep(0.1)
            begin = time.perf_counter()
            identity = api.create(["true"], network)
            taken["create"].append((time.perf_counter() - begin) * 1e3)
            for name in ("start", "wait", "remove"):
                taken[name].append(timed_ms(getattr(api, name), identity))
        for name, values in taken.items():
            series = Series(values)
            spread = (series.quantile(0.25), series.quantile(0.95))
            yield Row(f"{name} of a start {network}", Engine.name, series.median, "ms", spread)


def exec_(field: Field) -> Iterator[Row]:
    """exec create + start + output to its end, of `true`, in a running container."""
    running = {name: Api(socket).create(["sleep", "3600"], "none") for name, socket in sockets(field).items()}
    try:
        subjects: Subjects = {}
        for name, socket in sockets(field).items():
            Api(socket).start(running[name])
            subjects[name] = partial(timed_ms, Api(socket).exec, running[name], ["true"])
        yield from rows("exec, hot", interleave(subjects, runs=field.runs), "ms")
        yield from rows("exec, 100 ms pauses", interleave(subjects, runs=field.runs, pause_s=0.1), "ms")
    finally:
        for name, socket in sockets(field).items():
            Api(socket).remove(running[name])


def api_rate(socket: str, network: str, clients: int, count: int) -> float:
    """Lives a second with `clients` connections at once."""
    local = threading.local()

    def one(_: int) -> None:
        if not hasattr(local, "api"):
            local.api = Api(socket)
        local.api.life(network)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
        begin = time.perf_counter()
        list(pool.map(one, range(count * clients)))
        return count * clients / (time.perf_counter() - begin)


def sustained(field: Field, clients: int = 4, count: int = 25) -> Iterator[Row]:
    """Starts a second with four clients, in alternating blocks."""
    for network in ("none", "bridge"):
        subjects: Subjects = {
            name: partial(api_rate, socket, network, clients, count) for name, socket in sockets(field).items()
        }
        if field.floor:
            subjects["floor"] = partial(field.floor.rate, network, clients, count)
        taken = interleave(subjects, runs=max(5, field.runs // 4), warm=1)
        yield from rows(f"sustained {network}, {clients} clients", taken, "starts/s")


def density(field: Field) -> Iterator[Row]:
    """What many running containers cost: memory of ours each, the list, CPU while nothing happens, a further start."""
    api, name = Api(field.engine.socket), Engine.name
    before = Series([timed_ms(lambda: api.life("none")) for _ in range(20)]).median
    time.sleep(5)  # spares that are made meanwhile are not the containers'
    empty = field.engine.pss_kib()
    made: list[str] = []

    def one(_: int) -> None:
        client = Api(field.engine.socket)
        made.append(client.create(["sleep", "86400"], "none"))
        client.start(made[-1])
        client.close()

    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(field.density)))
        time.sleep(5)
        each = (field.engine.pss_kib() - empty) / field.density
        yield Row(f"memory of ours for each of {field.density} running", name, each, "KiB")
        listing = Series([timed_ms(lambda: api.call("GET", "/containers/json", decode=False)) for _ in range(20)])
        yield Row(
            f"list of {field.density}", name, listing.median, "ms", (listing.quantile(0.25), listing.quantile(0.95))
        )
        ticks = field.engine.cpu_ticks()
        time.sleep(5)
        yield Row("CPU in 5 idle seconds", name, field.engine.cpu_ticks() - ticks, "ticks")
        after = Series([timed_ms(lambda: api.life("none")) for _ in range(20)]).median
        yield Row(
            f"start beside {field.density} running",
            name,
            after,
            "ms",
            against="alone",
            ratio=Ratio(after / before, 0, 0),
        )
    finally:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda identity: Api(field.engine.socket).remove(identity), made))


def cli(field: Field) -> Iterator[Row]:
    """Whole commands, from posix_spawn to reaped."""
    commands = {
        "bireme run --rm busybox true": ["run", "--rm", "busybox", "true"],
        "bireme run --rm --network none busybox true": ["run", "--rm", "--network", "none", "busybox", "true"],
        "bireme ps": ["ps"],
    }
    environment = os.environ | {"DOCKER_HOST": field.engine.socket}
    for case, arguments in commands.items():
        yield command_row(case, arguments, environment, field.runs)
    nowhere = environment | {"DOCKER_HOST": "unix:///nonexistent.sock"}
    yield command_row("bireme version, no engine", ["version"], nowhere, field.runs)


def command_row(case: str, arguments: list[str], environment: dict[str, str], runs: int) -> Row:
    argv = [str(PROGRAMS / "bireme"), *arguments]

    def whole() -> None:
        subprocess.run(argv, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    values = [timed_ms(whole) for _ in range(runs + 2)]
    series = Series(values[2:])
    return Row(case, Engine.name, series.median, "ms", (series.quantile(0.25), series.quantile(0.95)))


def ready(field: Field) -> Iterator[Row]:
    """exec of biremed to its first answer, keeper and supervisor included, on an empty root."""
    values = []
    for number in range(5):
        other = Engine(field.engine.place.parent / f"ready-{number}")
        try:
            values.append(other.start())
        finally:
            other.stop()
        shutil.rmtree(other.place)
    series = Series(values)
    yield Row("engine ready", Engine.name, series.median, "ms", (series.quantile(0.25), series.quantile(0.95)))


def idle(field: Field) -> Iterator[Row]:
    """Memory of all our processes, spares included, right after a start and when the pool has shrunk."""
    Api(field.engine.socket).life("none")
    time.sleep(3)
    yield Row("memory after a start", Engine.name, field.engine.pss_kib() / 1024, "MiB")
    time.sleep(75)
    parts: dict[str, float] = {}
    for pid in field.engine.processes():
        parts[name_of(pid)] = parts.get(name_of(pid), 0) + pss_kib(pid) / 1024
    yield Row("memory after 75 s of quiet", Engine.name, sum(parts.values()), "MiB")
    for name, mib in sorted(parts.items()):
        yield Row(f"  of it {name}", Engine.name, mib, "MiB")


CASES: dict[str, Callable[[Field], Iterator[Row]]] = {
    "start": start,
    "steps": steps,
    "exec": exec_,
    "sustained": sustained,
    "cli": cli,
    "ready": ready,
    "density": density,
    "idle": idle,
}
