"""How the programs of this room are started: which interpreter, which options, and from which mount.

Keeper and supervisor run without site packages (`-I -S`): half the memory, a third of the start, and nothing on
sys.path but the standard library and this package.

A process inside an instance can open /proc/PID/exe of whoever enters it. The interpreter that enters is therefore
reached through a read-only mount that exists only in keeper's and supervisor's own mount namespace (the class of
CVE-2019-5736: the container's root overwrites the runtime through that link). The mount lies over the interpreter's
own path, not on a detached one, because the dynamic loader derives $ORIGIN from it.
"""

from __future__ import annotations

import os
import signal
import sys

from bireme.linux import mount, namespaces, process

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_ENTRY = os.path.join(_PACKAGE, "__main__.py")
_ROOT_MODE = 0o711


def interpreter() -> str:
    """The interpreter's real path: what the read-only mount covers."""
    return os.path.realpath(sys.executable)


def command(program: str, *arguments: str) -> list[str]:
    """The argument vector of "keeper" or "main"; the first element is the file to execute."""
    return [interpreter(), "-I", "-S", _ENTRY, program, *arguments]


def execute(program: str, *arguments: str) -> None:
    """Become that program; does not return."""
    argv = command(program, *arguments)
    os.execve(argv[0], argv, environment())


def environment() -> dict[str, str]:
    """What survives of our environment: nothing a plan could want is taken from it."""
    kept = ("PATH", "LANG", "LC_ALL", "NOTIFY_SOCKET", "BIREME_TRACE", "BIREME_MONITOR")
    return {name: os.environ[name] for name in kept if name in os.environ}


def seal_mounts() -> None:
    """An own mount namespace that still receives the host's mounts, with the interpreter read-only in it."""
    namespaces.unshare(process.CloneFlags.CLONE_NEWNS)
    mount.make_slave("/")
    path = interpreter()
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    copy = mount.open_tree(mount.AT_FDCWD, path)
    try:
        mount.set_attributes(copy, add=mount.MountAttr.MOUNT_ATTR_RDONLY)
        mount.move_mount(copy, mount.AT_FDCWD, path)
    finally:
        os.close(copy)


def seal_mounts_if_possible() -> None:
    """`seal_mounts`, or a line in the log where the kernel or our rights do not allow it."""
    try:
        seal_mounts()
    except OSError as error:
        log("keeper", f"the interpreter stays reachable for writing: {error}")


def forget_signals() -> None:
    """In a fork of keeper or supervisor: none of what its parent did on signals."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


def make_run_root(path: str) -> None:
    """The run root exists, others may pass through it (the API's socket may lie in it) but not list it."""
    os.makedirs(path, _ROOT_MODE, exist_ok=True)
    os.chmod(path, _ROOT_MODE)


def write_pid(path: str, pid: int = 0) -> None:
    """A pid file (our own pid unless given) appears complete or not at all."""
    fresh = f"{path}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, b"%d\n" % (pid or os.getpid()))
    finally:
        os.close(fd)
    os.rename(fresh, path)


def log(who: str, text: str) -> None:
    """One line on stderr; nobody listening is no error."""
    try:
        os.write(2, f"bireme-{who}: {text}\n".encode("utf-8", "replace"))
    except OSError:
        return


def parse_arguments(who: str, arguments: list[str], names: tuple[str, ...]) -> dict[str, str]:
    """`--name value` pairs; anything else ends the program with status 2 (argparse alone would double the start)."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name[2:] not in names or (not equals and not rest):
            log(who, f"unknown or incomplete option {word!r}; known: {', '.join('--' + n for n in names)}")
            sys.exit(2)
        found[name[2:]] = value if equals else rest.pop(0)
    return found


def log_traceback(who: str, text: str) -> None:
    """`log`, and where the exception being handled came from: file, line, function, innermost last."""
    places = []
    trace = sys.exc_info()[2]
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    log(who, f"{text} [{' > '.join(places)}]")
