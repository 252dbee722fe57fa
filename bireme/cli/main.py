"""`bireme`: find the verb, parse its options, run it, turn what went wrong into Docker's words and exit codes."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from bireme.cli.errors import CommandFailed, UsageError
from bireme.cli.index import ENTRIES, GROUPS, find
from bireme.cli.option import Option
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.index import Entry
    from bireme.cli.option import Arguments, Verb

GLOBAL_OPTIONS = (
    Option("config", "string", "Location of client config files (overrides DOCKER_CONFIG; ~/.docker unless named)"),
    Option(
        "context",
        "string",
        "Name of the context to use to connect to the engine (overrides DOCKER_HOST and the context set with "
        '"bireme context use")',
        "c",
    ),
    Option("debug", "bool", "Enable debug mode: internal errors are shown with their traceback", "D"),
    Option("host", "list", "Engine socket to connect to (overrides BIREME_HOST and DOCKER_HOST)", "H"),
    Option("tls", "bool", "Use TLS; implied by --tlsverify"),
    Option("tlscacert", "string", "Trust certs signed only by this CA (ca.pem in DOCKER_CERT_PATH unless named)"),
    Option("tlscert", "string", "Path to TLS certificate file (cert.pem unless named)"),
    Option("tlskey", "string", "Path to TLS key file (key.pem unless named)"),
    Option("tlsverify", "bool", "Use TLS and verify the remote"),
    Option("version", "bool", "Print version information and quit", "v"),
)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def load_verb(entry: Entry) -> Verb:
    """The verb's table, from its module."""
    module = __import__(f"bireme.cli.verbs.{entry.module}", fromlist=("VERBS",))
    verb: Verb = module.VERBS[entry.path]
    return verb


def _split_global(words: list[str]) -> tuple[Arguments, list[str]]:
    from bireme.cli.parse import parse_words

    try:
        arguments = parse_words(GLOBAL_OPTIONS, words, interspersed=False)
    except UsageError as error:
        text = (
            f"{error.message}\n\nUsage:  bireme [OPTIONS] COMMAND [ARG...]\n\nRun 'bireme --help' for more information"
        )
        raise CommandFailed(text, error.code) from None
    return arguments, arguments.rest


def _dispatch(words: list[str]) -> int:
    arguments, words = _split_global(words)
    if arguments["version"]:
        from bireme import __version__

        print(f"bireme version {__version__}")
        return 0
    if arguments["help"] or not words:
        print(_top_help(), end="")
        return 0
    found = find(words)
    if found is None:
        return _unknown(words)
    entry, command, words = found
    return _run(entry, command, words, arguments)


def _run(entry: Entry, command: str, words: list[str], global_arguments: Arguments) -> int:
    from bireme.cli.parse import parse_verb

    verb = load_verb(entry)
    try:
        arguments = parse_verb(verb, command, words)
        if arguments["help"]:
            from bireme.cli.help import verb_help

            print(verb_help(verb, command), end="")
            return 0
        return _call(verb, command, arguments, global_arguments)
    except UsageError as error:
        from bireme.cli.help import usage_line

        lead = "bireme: " if error.prefix else ""
        text = f"{lead}{error.message}\n\n{usage_line(verb, command)}\n\n"
        raise CommandFailed(f"{text}{error.lead} '{command} --help' for more information", error.code) from None
    except BiremeError as error:
        raise CommandFailed(_explain(error, verb, command), verb.usage_exit) from error


def _call(verb: Verb, command: str, arguments: Arguments, options: Arguments) -> int:
    from bireme.cli.invocation import Invocation

    invocation = Invocation(command, arguments, options, os.environ)
    try:
        return verb.run(invocation)
    finally:
        invocation.close()


def _explain(error: BiremeError, verb: Verb, command: str) -> str:
    from bireme.cli.messages import error_text

    text = error_text(error)
    if verb.usage_exit == 1:
        return text
    return f"bireme: {text}\n\nRun '{command} --help' for more information"


def _top_help() -> str:
    from bireme.cli.help import top_help

    common = [entry for entry in ENTRIES if entry.common]
    others = [entry for entry in ENTRIES if entry.short and not entry.common]
    return top_help(common, GROUPS, others, GLOBAL_OPTIONS)


def _unknown(words: list[str]) -> int:
    if words[0] not in GROUPS:
        raise CommandFailed(f"bireme: unknown command: bireme {words[0]}\n\nRun 'bireme --help' for more information")
    group = words[0]
    if len(words) > 1 and words[1] not in ("--help", "-h"):
        raise CommandFailed(
            f"bireme: unknown command: bireme {group} {words[1]}\n\nUsage:  bireme {group}\n\n"
            f"Run 'bireme {group} --help' for more information"
        )
    from bireme.cli.help import group_help

    print(group_help(group, GROUPS[group], [entry for entry in ENTRIES if entry.path.startswith(group + " ")]), end="")
    return 0


def _fail(failure: CommandFailed) -> int:
    sys.stdout.flush()
    if failure.message:
        print(failure.message, file=sys.stderr)
    return failure.code


def _lost_output(error: OSError) -> int:
    """Standard output is gone or full: no further write to it may fail when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    print(f"bireme: {error.strerror or error}", file=sys.stderr)
    return 1


def _tolerate_characters() -> None:
    """A terminal that cannot show a character gets a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: list[str] | None = None) -> int:
    """Entry of the console script; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    _tolerate_characters()
    try:
        try:
            code = _dispatch(words)
            sys.stdout.flush()
        except CommandFailed as failure:
            return _fail(failure)
    except OSError as error:
        return _lost_output(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        if "-D" in words or "--debug" in words or os.environ.get("BIREME_DEBUG"):
            raise
        print(f"bireme: internal error: {type(error).__name__}: {error}\nRun with --debug for more", file=sys.stderr)
        return 1
    return code
