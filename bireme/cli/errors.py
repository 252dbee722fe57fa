"""How the command line ends other than by a verb's return value."""

from __future__ import annotations

from bireme.errors import Invalid


class UsageError(Invalid):
    """The command line is not understood; printed with the command's usage. `lead` is See or Run, as Docker says."""

    def __init__(self, message: str, *, code: int = 1, prefix: bool = False, lead: str = "Run") -> None:
        super().__init__(message)
        self.code = code
        self.prefix = prefix
        self.lead = lead


class BadValue(Invalid):
    """A value that its option does not take; the parser adds which option it was."""


class CommandFailed(Exception):
    """A verb's own failure: the message (already complete) goes to stderr and `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
