"""One table of options per verb: what the parser accepts, --help prints and completion offers is the same data."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bireme.cli.invocation import Invocation


class Option:
    """`--name VALUE`; `kind` names a row of kinds.KINDS and is what --help shows as the value's type."""

    __slots__ = ("default", "help", "hidden", "kind", "name", "short", "shown_default")

    def __init__(
        self,
        name: str,
        kind: str,
        text: str,
        short: str = "",
        default: object = None,
        shown_default: str = "",
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = text
        self.short = short
        self.default = default
        self.shown_default = shown_default
        self.hidden = hidden


class Verb:
    """A command: where it sits, what it takes, what it does."""

    __slots__ = (
        "aliases",
        "complete",
        "details",
        "interspersed",
        "max_args",
        "min_args",
        "options",
        "run",
        "summary",
        "usage",
        "usage_exit",
    )

    def __init__(
        self,
        run: Callable[[Invocation], int],
        usage: str,
        summary: str,
        options: tuple[Option, ...] = (),
        *,
        args: tuple[int, int] = (0, 0),
        interspersed: bool = True,
        aliases: tuple[str, ...] = (),
        complete: str = "",
        details: str = "",
        usage_exit: int = 1,
    ) -> None:
        self.run = run
        self.usage = usage
        self.summary = summary
        self.options = options
        self.min_args, self.max_args = args
        self.interspersed = interspersed
        """False: the first positional argument ends our options; the rest belongs to the container."""
        self.aliases = aliases
        """All spellings, as --help lists them; empty when there is one."""
        self.complete = complete
        """What the shell offers for positional arguments: containers, running, images, kernels, networks, volumes,
        contexts."""
        self.details = details
        self.usage_exit = usage_exit
        """Exit code when the engine refuses (run and create: 125)."""


UNLIMITED = 1 << 30


class Arguments:
    """What was typed: `args["name"]` is an option's value or default, `args.given` the names that appeared."""

    __slots__ = ("given", "rest", "values")

    def __init__(self, values: dict[str, Any], given: set[str], rest: list[str]) -> None:
        self.values = values
        self.given = given
        self.rest = rest

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


HELP = Option("help", "bool", "Print usage", hidden=True)
FORMAT_TABLE = (
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template.\n"
    "Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"
)
FORMAT_VALUE = (
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template.\n"
    "Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"
)
