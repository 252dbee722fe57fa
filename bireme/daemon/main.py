"""biremed: the engine as a program.

It holds nothing that must not die. SIGTERM leaves instances running when there are any and ends everything of the run
root when there are none; SIGUSR1 (`biremed --shutdown`) stops every instance first.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from typing import Any

from bireme import __version__
from bireme.daemon import config as settings
from bireme.daemon.keeper import read_pid, wait_gone
from bireme.errors import BiremeError

log = logging.getLogger("biremed")
SHUTDOWN_DEADLINE_S = 120.0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="biremed", description="the bireme engine")
    parser.add_argument("--config", metavar="FILE", help=f"settings (default {settings.DEFAULT_CONFIG})")
    parser.add_argument("--data-root", metavar="DIR", help=f"images, instances (default {settings.DEFAULT_DATA_ROOT})")
    parser.add_argument("--run-root", metavar="DIR", help=f"sockets, journal (default {settings.DEFAULT_RUN_ROOT})")
    parser.add_argument(
        "-H", "--host", action="append", dest="hosts", metavar="ADDRESS", help="unix://PATH, tcp://HOST:PORT, fd://"
    )
    parser.add_argument("--group", help="group that owns the unix socket (default bireme)")
    parser.add_argument("--insecure-tcp", action="store_true", default=None, help="allow tcp:// without TLS")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--shutdown", action="store_true", help="stop every instance and process of this run root")
    parser.add_argument("--version", action="version", version=f"biremed {__version__}")
    return parser.parse_args(arguments)


def main() -> None:
    options = vars(parse(sys.argv[1:]))
    shutdown = options.pop("shutdown")
    for name in ("data_root", "run_root"):
        options[name] = options[name] and os.path.abspath(options[name])
    try:
        config = settings.load(options.pop("config"), _plain(options))
        sys.exit(stop_everything(config) if shutdown else run(config))
    except BiremeError as error:
        sys.exit(f"biremed: {error}")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def run(config: settings.Config) -> int:
    """Serve until a signal."""
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    from bireme.daemon.assemble import Daemon

    return asyncio.run(_serve(Daemon(config)))


async def _serve(daemon: Any) -> int:
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


def stop_everything(config: settings.Config) -> int:
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
    if not engine and config.bridge.enabled:
        from bireme.daemon.ending import remove_network

        remove_network(config)
    if keeper and not wait_gone(keeper, SHUTDOWN_DEADLINE_S):
        print(f"biremed: the keeper (pid {keeper}) did not stop", file=sys.stderr)  # noqa: T201
        return 1
    return 0
