"""biremed at work: serving until a signal, and `--shutdown`.

It holds nothing that must not die. SIGTERM leaves instances running when there are any and ends everything of the run
root when there are none; SIGUSR1 (`biremed --shutdown`) stops every instance first.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from bireme.daemon.config import Config
from bireme.daemon.keeper import read_pid, wait_gone

if TYPE_CHECKING:
    from bireme.daemon.assemble import Daemon

log = logging.getLogger("biremed")
SHUTDOWN_DEADLINE_S = 120.0


def run(config: Config) -> int:
    """Serve until a signal."""
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    from bireme.daemon.assemble import Daemon

    return asyncio.run(_serve(Daemon(config)))


async def _serve(daemon: Daemon) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[bool] = loop.create_future()

    def ask(everything: bool) -> None:
        if not stop.done():
            stop.set_result(everything)

    for signum, everything in ((signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGUSR1, True)):
        loop.add_signal_handler(signum, ask, everything)
    await daemon.start()
    gc.collect()
    gc.freeze()
    log.info("ready")
    everything = await stop
    log.info("stopping%s", " everything" if everything else "")
    await daemon.stop(everything)
    return 0


def stop_everything(config: Config) -> int:
    """`--shutdown`: through the engine when it runs, else with the supervisor alone."""
    engine = read_pid(f"{config.run_root}/biremed.pid")
    keeper = read_pid(f"{config.run_root}/keeper.pid")
    if engine:
        os.kill(engine, signal.SIGUSR1)
        if not wait_gone(engine, SHUTDOWN_DEADLINE_S):
            print(f"biremed: the engine (pid {engine}) did not stop", file=sys.stderr)  # noqa: T201
            return 1
    elif keeper:
        from bireme.daemon.ending import end_without_engine

        asyncio.run(end_without_engine(config.supervisor_socket))
    if not engine:
        from bireme.daemon.memory import close_memory

        close_memory(config.memory)
    if not engine and config.bridge.enabled:
        from bireme.daemon.ending import remove_network

        remove_network(config)
    if keeper and not wait_gone(keeper, SHUTDOWN_DEADLINE_S):
        print(f"biremed: the keeper (pid {keeper}) did not stop", file=sys.stderr)  # noqa: T201
        return 1
    return 0
