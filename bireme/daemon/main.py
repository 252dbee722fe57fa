"""biremed: the engine as a program. Options come first, then the settings, then the large libraries."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from bireme import __version__
from bireme.daemon import lean
from bireme.errors import BiremeError

if TYPE_CHECKING:
    from argparse import Namespace


def parse(arguments: list[str]) -> Namespace:
    import argparse

    from bireme.daemon.config import DEFAULT_CONFIG, DEFAULT_DATA_ROOT, DEFAULT_RUN_ROOT

    parser = argparse.ArgumentParser(prog="biremed", description="the bireme engine")
    parser.add_argument("--config", metavar="FILE", help=f"settings (default {DEFAULT_CONFIG})")
    parser.add_argument("--data-root", metavar="DIR", help=f"images, instances (default {DEFAULT_DATA_ROOT})")
    parser.add_argument("--run-root", metavar="DIR", help=f"sockets, journal (default {DEFAULT_RUN_ROOT})")
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
    lean.leave_out()
    options = vars(parse(sys.argv[1:]))
    lean.forget("argparse", "gettext")
    shutdown = options.pop("shutdown")
    for name in ("data_root", "run_root"):
        options[name] = options[name] and os.path.abspath(options[name])
    from bireme.daemon.config import load

    try:
        config = load(options.pop("config"), _plain(options))
        if config.tls.certificate:
            lean.take(lean.TLS)
        from bireme.daemon.serving import run, stop_everything

        sys.exit(stop_everything(config) if shutdown else run(config))
    except BiremeError as error:
        sys.exit(f"biremed: {error}")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
