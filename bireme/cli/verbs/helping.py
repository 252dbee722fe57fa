"""help, with or without the name of a command."""

from __future__ import annotations

from bireme.cli.option import UNLIMITED, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation


def show_help(invocation: Invocation) -> int:
    from bireme.cli.main import main

    return main([*invocation.args.rest, "--help"])


VERBS = {"help": Verb(show_help, "[COMMAND]", "Help about any command", args=(0, UNLIMITED), complete="commands")}
