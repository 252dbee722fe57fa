"""Ending every process of a run root when its engine is gone."""

from __future__ import annotations

import asyncio
import sys
import time

from bireme.daemon.config import Config
from bireme.drivers.microvm.control import MachineControl
from bireme.drivers.supervised.link import SupervisorLink
from bireme.errors import BiremeError, Unavailable, Unsupported
from bireme.network.bridge import BridgeNetwork
from bireme.network.driver import BridgeConfig
from bireme.wire import supervision

GRACE_S = 10.0
AGENT_S = 2.0


async def end_without_engine(socket_path: str) -> None:
    """TERM, then KILL, whatever the supervisor runs, then let it and its keeper end."""

    async def greet(link: SupervisorLink) -> None:
        await link.ask("hello", version=supervision.VERSION, client="shutdown", execs=[])

    link = SupervisorLink(socket_path, lambda _event: None, greet)
    connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    runner = asyncio.get_running_loop().create_task(link.run(connected))
    try:
        await asyncio.wait_for(connected, GRACE_S)
        await _end_all(link)
        await link.call("shutdown")
    finally:
        link.close()
        runner.cancel()


def remove_network(config: Config) -> None:
    """The bridge and the firewall table of an engine that is gone; they have no process to end."""
    bridge = BridgeNetwork(BridgeConfig(tag=config.tag, bridge=config.bridge_name))
    try:
        bridge.teardown()
    except (Unavailable, Unsupported) as error:
        print(f"biremed: {error}", file=sys.stderr)  # noqa: T201
    finally:
        bridge.close()


async def _end_all(link: SupervisorLink) -> None:
    deadline = time.monotonic() + GRACE_S
    signum = 15
    while rows := await _running(link):
        for row in rows:
            try:
                await _signal(link, row, signum)
            except BiremeError:
                continue
        await asyncio.sleep(0.1)
        if time.monotonic() > deadline:
            signum = 9


async def _signal(link: SupervisorLink, row: supervision.InstanceRow, signum: int) -> None:
    """To the first process: of a machine that is its agent's affair, unless it is to be killed."""
    if supervision.kind_of(row) != "machine" or signum == 9:
        await link.call("signal", id=row["id"], signum=signum, all=signum == 9)
        return
    control = MachineControl(row["id"], row["control"], lambda _control, _event: False, patience_s=AGENT_S)
    try:
        await control.call("signal", number=signum, all=False)
    finally:
        control.close()


async def _running(link: SupervisorLink) -> list[supervision.InstanceRow]:
    answer, _ = await link.call("list")
    return [row for row in answer["instances"] if row["state"] != "exited"]
