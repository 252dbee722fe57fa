"""One run of one verb: what was typed, where the engine is, where output goes."""

from __future__ import annotations

import sys

from bireme.client.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from bireme.cli.option import Arguments


class Invocation:
    """Handed to every verb. `command` is its spelling, for messages."""

    def __init__(self, command: str, args: Arguments, host: str, environ: Mapping[str, str]) -> None:
        self.command = command
        self.args = args
        self.host = host
        self.environ = environ
        self.engine = Engine(host, environ.get("DOCKER_API_VERSION", "") or Engine.default_version)

    def out(self, text: str) -> None:
        """One line to standard output."""
        sys.stdout.write(text + "\n")

    def err(self, text: str) -> None:
        """One line to standard error, after everything that went to standard output."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
