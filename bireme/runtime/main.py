"""`bireme-runtime`: containers from OCI bundles, without an engine (runtime-spec, runtime.md).

    bireme-runtime [GLOBAL OPTIONS] VERB [OPTIONS] [ARGUMENTS]

The command line is runc's, so that podman, containerd and dockerd can call it. It is a program that lives for
milliseconds: options are data, and a verb's module is imported only when it is asked for. Errors go to stderr and, with
--log, to a file in the shape those callers parse. This is the cold path: no zygote, no spares, the caller of `create`
(conmon, a shim) is the sub-reaper that inherits the container.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme import __version__
from bireme.errors import BiremeError, Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "bireme-runtime"
OCI_VERSION = "1.2.0"

FLAG, TEXT, LIST, NUMBER = "flag", "text", "list", "number"


class Verb(NamedTuple):
    """A verb's options by name ("" after a comma: a short form), its arguments and a line of help."""

    help: str
    arguments: str
    least: int
    most: int
    options: dict[str, tuple[str, str]]


_CREATE = {
    "bundle,b": (TEXT, "directory of the bundle (default: the current one)"),
    "console-socket": (TEXT, "unix socket that gets the terminal's master"),
    "pid-file": (TEXT, "file to write the process id to"),
    "pidfd-socket": (TEXT, "unix socket that gets a pidfd of the first process"),
    "preserve-fds": (NUMBER, "pass so many descriptors from 3 on"),
    "no-pivot": (FLAG, "not supported"),
    "no-new-keyring": (FLAG, "not supported"),
}

GLOBAL: dict[str, tuple[str, str]] = {
    "root": (TEXT, "directory of the containers' state (default /run/bireme-runtime)"),
    "log": (TEXT, "file to append errors to"),
    "log-format": (TEXT, "text (default) or json"),
    "debug": (FLAG, "say more in the log"),
    "systemd-cgroup": (FLAG, "not supported"),
    "rootless": (TEXT, "auto or false"),
    "version,v": (FLAG, "print the version"),
    "help,h": (FLAG, "print this help"),
}

VERBS: dict[str, Verb] = {
    "create": Verb("make a container and hold its process", "ID", 1, 1, _CREATE),
    "start": Verb("let a created container run its program", "ID", 1, 1, {}),
    "run": Verb(
        "create and start, and wait for the end",
        "ID",
        1,
        1,
        _CREATE
        | {
            "detach,d": (FLAG, "do not wait"),
            "keep": (FLAG, "do not delete the container after it ended"),
            "no-subreaper": (FLAG, "do not adopt the container's orphans"),
        },
    ),
    "state": Verb("print the state", "ID", 1, 1, {}),
    "kill": Verb(
        "send a signal (default SIGTERM)", "ID [SIGNAL]", 1, 2, {"all,a": (FLAG, "to every process of the container")}
    ),
    "delete": Verb("remove a container that stopped", "ID", 1, 1, {"force,f": (FLAG, "kill it first when it runs")}),
    "exec": Verb(
        "run one more process inside",
        "ID [COMMAND [ARGUMENT...]]",
        1,
        1 << 16,
        {
            "console-socket": (TEXT, "unix socket that gets the terminal's master"),
            "cwd": (TEXT, "working directory"),
            "env,e": (LIST, "NAME=VALUE to add"),
            "tty,t": (FLAG, "with a terminal"),
            "user,u": (TEXT, "UID[:GID]"),
            "additional-gids,g": (LIST, "more group ids"),
            "process,p": (TEXT, "process.json"),
            "detach,d": (FLAG, "do not wait"),
            "pid-file": (TEXT, "file to write the process id to"),
            "pidfd-socket": (TEXT, "unix socket that gets a pidfd"),
            "process-label": (TEXT, "not supported"),
            "apparmor": (TEXT, "not supported"),
            "no-new-privs": (FLAG, "set no_new_privs"),
            "cap,c": (LIST, "capability to add"),
            "preserve-fds": (NUMBER, "pass so many descriptors from 3 on"),
            "cgroup": (LIST, "not supported"),
            "ignore-paused": (FLAG, "do so in a paused container too"),
        },
    ),
    "pause": Verb("stop every process of a container", "ID", 1, 1, {}),
    "resume": Verb("let them run again", "ID", 1, 1, {}),
    "list": Verb(
        "print the containers",
        "",
        0,
        0,
        {"format,f": (TEXT, "table (default) or json"), "quiet,q": (FLAG, "ids only")},
    ),
    "ps": Verb(
        "print the processes of a container", "ID [PS OPTIONS]", 1, 1 << 16, {"format,f": (TEXT, "table or json")}
    ),
    "events": Verb(
        "print counters, again and again",
        "ID",
        1,
        1,
        {"stats": (FLAG, "once, then end"), "interval": (TEXT, "time between two, such as 5s (default)")},
    ),
    "update": Verb(
        "change limits of a container",
        "ID",
        1,
        1,
        {
            "resources,r": (TEXT, "file with linux.resources, - for stdin"),
            "blkio-weight": (NUMBER, "10 to 1000"),
            "cpu-period": (NUMBER, "microseconds"),
            "cpu-quota": (NUMBER, "microseconds"),
            "cpu-burst": (NUMBER, "microseconds"),
            "cpu-share": (NUMBER, "2 to 262144"),
            "cpu-rt-period": (NUMBER, "microseconds"),
            "cpu-rt-runtime": (NUMBER, "microseconds"),
            "cpu-idle": (NUMBER, "0 or 1"),
            "cpuset-cpus": (TEXT, "such as 0-2,4"),
            "cpuset-mems": (TEXT, "such as 0"),
            "memory": (TEXT, "bytes, -1 for no limit"),
            "memory-reservation": (TEXT, "bytes"),
            "memory-swap": (TEXT, "bytes of memory and swap together"),
            "pids-limit": (NUMBER, "-1 for no limit"),
        },
    ),
    "features": Verb("print what this runtime can do", "", 0, 0, {}),
    "spec": Verb("write a config.json to start from", "", 0, 0, {"bundle,b": (TEXT, "directory to write it into")}),
}


class Options:
    """A parsed command line: global options, the verb's, and its arguments."""

    def __init__(self, values: dict[str, Any], arguments: list[str]) -> None:
        self.values = values
        self.arguments = arguments

    def text(self, name: str, default: str = "") -> str:
        return str(self.values.get(name, default))

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name, False))

    def number(self, name: str, default: int = 0) -> int:
        return int(self.values.get(name, default))

    def list(self, name: str) -> list[str]:
        return list(self.values.get(name, ()))

    def has(self, name: str) -> bool:
        return name in self.values

    @property
    def root(self) -> str:
        from bireme.runtime.state import DEFAULT_ROOT

        return os.path.abspath(self.text("root") or DEFAULT_ROOT)

    @property
    def id(self) -> str:
        return self.arguments[0]


class UsageError(Invalid):
    """A command line that cannot be read."""


def take_options(words: list[str], known: dict[str, tuple[str, str]], values: dict[str, Any]) -> list[str]:
    """Move options from the front of `words` into `values`; what follows the first argument (or --) is returned."""
    names = {name: key for key in known for name in key.split(",")}
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return words[at + 1 :]
        if not word.startswith("-") or word == "-":
            break
        at += 1
        name, equals, value = word.lstrip("-").partition("=")
        key = names.get(name)
        if key is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        kind, name = known[key][0], key.split(",")[0]
        if kind == FLAG:
            values[name] = value not in ("false", "0", "f") if equals else True
            continue
        if not equals:
            if at == len(words):
                raise UsageError(f"flag needs an argument: -{name}")
            value, at = words[at], at + 1
        _store(values, name, kind, value)
    return words[at:]


def _store(values: dict[str, Any], name: str, kind: str, value: str) -> None:
    if kind == LIST:
        values.setdefault(name, []).append(value)
    elif kind == NUMBER:
        try:
            values[name] = int(value)
        except ValueError:
            raise UsageError(f"invalid value {value!r} for flag -{name}: not a whole number") from None
    else:
        values[name] = value


def parse(words: Sequence[str]) -> tuple[str, Options]:
    """(verb, options); the verb is "" for a question about the program itself."""
    values: dict[str, Any] = {}
    rest = take_options(list(words), GLOBAL, values)
    if not rest or values.get("help") or values.get("version"):
        return "", Options(values, rest)
    word, rest = rest[0], rest[1:]
    verb = VERBS.get(word)
    if verb is None:
        raise UsageError(f"no such command: {word!r}")
    arguments = take_options(rest, verb.options | {"help,h": (FLAG, "")}, values)
    if verb.most < 1 << 16:
        arguments = _late_options(arguments, verb, values)
    if not values.get("help") and not verb.least <= len(arguments) <= verb.most:
        raise UsageError(f"{word}: wrong number of arguments; usage: {PROGRAM} {word} [OPTIONS] {verb.arguments}")
    return word, Options(values, arguments)


def _late_options(words: list[str], verb: Verb, values: dict[str, Any]) -> list[str]:
    """Verbs without a command of their own take options after their arguments too."""
    arguments: list[str] = []
    while words:
        arguments.append(words.pop(0))
        negative = words and words[0][:1] == "-" and words[0][1:].isdigit()
        if words and not negative:
            words = take_options(words, verb.options, values)
    return arguments


def _help(verb: str) -> str:
    if verb:
        known = VERBS[verb]
        head = f"usage: {PROGRAM} {verb} [OPTIONS] {known.arguments}\n\n{known.help}\n"
        return head + _help_options(known.options)
    rows = "".join(f"  {name:<10} {entry.help}\n" for name, entry in VERBS.items())
    return f"usage: {PROGRAM} [GLOBAL OPTIONS] VERB [OPTIONS] [ARGUMENTS]\n\n{rows}{_help_options(GLOBAL)}"


def _help_options(options: dict[str, tuple[str, str]]) -> str:
    rows = []
    for key, (kind, text) in options.items():
        spelled = ", ".join("--" + name if len(name) > 1 else "-" + name for name in key.split(","))
        rows.append(f"  {spelled + ('' if kind == FLAG else ' VALUE'):<30} {text}\n")
    return "\noptions:\n" + "".join(rows) if rows else ""


class Log:
    """Where errors go: stderr, and with --log a file in logrus' shapes (text or JSON)."""

    def __init__(self, options: Options | None) -> None:
        self.path = options.text("log") if options else ""
        self.json = options is not None and options.text("log-format") == "json"
        if options and options.text("log-format") not in ("", "text", "json"):
            raise UsageError("unknown log-format: " + options.text("log-format"))

    def write(self, level: str, message: str) -> None:
        if not self.path:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        from json import dumps

        if self.json:
            line = dumps({"level": level, "msg": message, "time": stamp})
        else:
            line = f'time="{stamp}" level={level} msg={dumps(message)}'
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line.encode("utf-8", "replace") + b"\n")
        finally:
            os.close(fd)


def _runner(verb: str) -> Callable[[Options], int]:
    from importlib import import_module

    modules = {"list": "listing", "ps": "listing", "exec": "execute", "run": "create"}
    module = import_module(f"bireme.runtime.command.{modules.get(verb, verb)}")
    run: Callable[[Options], int] = getattr(module, f"run_{verb}" if hasattr(module, f"run_{verb}") else "run")
    return run


def _refuse_unsupported(options: Options) -> None:
    from bireme.errors import Unsupported

    for name in ("systemd-cgroup", "no-pivot", "no-new-keyring", "process-label", "apparmor", "cgroup"):
        if options.values.get(name):
            raise Unsupported(f"--{name} is not supported", subject=name)
    if options.text("rootless") not in ("", "auto", "false"):
        raise Unsupported("running without root is not supported", subject="rootless")


def _open_standard_files() -> None:
    """Whoever starts us with 0, 1 or 2 closed must not find a container's files there."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def run(words: Sequence[str]) -> int:
    """One command line; the exit code. Errors are written, not raised."""
    log = Log(None)
    verb = ""
    try:
        verb, options = parse(words)
        log = Log(options)
        if not verb or options.flag("help"):
            version = f"{PROGRAM} {__version__}\nspec: {OCI_VERSION}\n"
            sys.stdout.write(version if options.flag("version") and not verb else _help(verb))
            return 0
        _refuse_unsupported(options)
        return _runner(verb)(options)
    except KeyboardInterrupt:
        return 130
    except (BiremeError, OSError) as error:
        _complain(log, verb, str(error))
    return 255 if verb == "exec" else 1


def _complain(log: Log, verb: str, message: str) -> None:
    prefix = {"exec": "exec failed: ", "create": "unable to create container: ", "run": "unable to run container: "}
    message = prefix.get(verb, "") + message
    try:
        log.write("error", message)
    except OSError as error:
        sys.stderr.write(f"{PROGRAM}: log: {error}\n")
    sys.stderr.write(f"{PROGRAM}: {message}\n")


def main() -> None:
    """The program."""
    _open_standard_files()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
