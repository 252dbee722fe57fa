"""The second half of a start: what happens between the plan's arrival and exec.

`finish` reads as the list of it. The process is in its namespaces, its root is the skeleton's empty floor, and
everything that needed rights outside has come as descriptors. Order matters in three places:

- look-ups in the root file system (mount points, users, the program) happen after chroot and through openat2 below the
  root: an image's symbolic links lead nowhere else;
- without no_new_privs a seccomp filter needs CAP_SYS_ADMIN, so it is loaded after the ids and before the capabilities
  are given up; with no_new_privs it is the last thing before exec;
- descriptors become CLOEXEC, never closed: the end of ctl is what says that exec happened.
"""

from __future__ import annotations

import base64
import errno
import os
import resource
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any, NoReturn

from bireme.errors import Denied
from bireme.linux import capabilities, mount, namespaces, netlink, path, process, seccomp, tty
from bireme.linux.fd import close_range_cloexec, duplicate
from bireme.linux.libc import SyscallError
from bireme.linux.nlsocket import Message
from bireme.runtime import identity, sync
from bireme.runtime.placing import place_mounts, place_root
from bireme.runtime.program import find_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.runtime.plan import LaunchPlan
    from bireme.runtime.processplan import ExecPlan
    from bireme.runtime.skeleton import Skeleton

    Become = Callable[[str, list[str], dict[str, str], socket.socket], NoReturn]


class Progress:
    """Where a child is, for its error report."""

    __slots__ = ("stage",)

    def __init__(self, stage: str) -> None:
        self.stage = stage


def fail(ctl: socket.socket, progress: Progress, error: BaseException) -> NoReturn:
    """The last boundary of a child: say where it failed and why, and end as a start that failed does."""
    sync.report(ctl, progress.stage, error)
    os._exit(sync.exit_code(progress.stage, getattr(error, "errno", 0) or 0))


hook_runner: Callable[[str, dict[str, Any]], None] | None = None
"""Set by the OCI command line before it spawns: runs the hooks of a kind; others have none."""


def run_hooks(kind: str, message: dict[str, Any]) -> None:
    """Run the hooks that belong into the container's namespaces."""
    if hook_runner is not None:
        hook_runner(kind, message)


_OF_LIBC = (32, 33)
_SIGNALS = (
    *map(int, (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)),
    *_OF_LIBC,
)


def reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ and handles SIGINT; an exec would pass the ignored ones on. Whoever started us
    with posix_spawn left the C library's own two ignored."""
    process.default_signals(_SIGNALS)


def finish(plan: LaunchPlan, files: list[int], ctl: socket.socket, skeleton: Skeleton, progress: Progress) -> NoReturn:
    """Become the container's first process."""
    what = plan["process"]
    stdio = [] if what["terminal"] else files[:3]
    files = files[len(stdio) :]
    root, files = files[0], files[1:]
    progress.stage = "names"
    _set_names(plan)
    progress.stage = "network"
    _configure_network(plan)
    progress.stage = "sysctl"
    _write_sysctls(plan["sysctl"], skeleton.sysctl)
    progress.stage = "rootfs"
    place_root(root, skeleton)
    progress.stage = "mounts"
    files = place_mounts(plan, root, files, skeleton)
    progress.stage = "console"
    if what["terminal"]:
        stdio = _open_console(what, ctl, root)
    progress.stage = "user"
    who = identity.resolve(what, root)
    progress.stage = "cwd"
    enter_directory(root, what["cwd"], make=True)
    progress.stage = "rootfs"
    if plan["root"].get("readonly"):
        mount.set_attributes(root, add=1)
    if plan["root_propagation"]:
        mount.set_attributes(root, propagation=plan["root_propagation"])
    hold = -1
    if plan["hold"]:
        hold, files = files[0], files[1:]
    execute(what, who, stdio, files[: plan["pass_files"]], ctl, progress, hold=hold)


def execute(
    what: ExecPlan,
    who: identity.Identity,
    stdio: list[int],
    passed: list[int],
    ctl: socket.socket,
    progress: Progress,
    *,
    hold: int = -1,
    become: Become | None = None,
) -> NoReturn:
    """The part an exec shares: descriptors, limits, rights, and the program itself, by execve unless `become` starts it
    in another way (and raises OSError when that fails)."""
    progress.stage = "stdio"
    ctl, hold = _arrange(stdio, passed, ctl, hold, who.uid)
    os.umask(what["umask"])
    progress.stage = "rlimits"
    _set_rlimits(what["rlimits"])
    if what["io_priority"] >= 0:
        process.set_io_priority(what["io_priority"])
    env = identity.environment(what["env"], who)
    progress.stage = "capabilities"
    filter_program = _seccomp_program(what["seccomp"])
    caps = what["capabilities"]
    identity.change(who, caps["bounding"])
    progress.stage = "exec"
    program = find_program(what["args"][0], env)
    if hold >= 0:
        progress.stage = "hold"
        ctl = _hold(ctl, hold)
        run_hooks("startContainer", {})
        progress.stage = "exec"
    if what["no_new_privs"]:
        progress.stage = "capabilities"
        process.set_no_new_privs()
        identity.give_up(caps)
    if filter_program:
        progress.stage = "seccomp"
        seccomp.load(filter_program, what["seccomp_flags"])
    if not what["no_new_privs"]:
        progress.stage = "capabilities"
        identity.give_up(caps)
    progress.stage = "exec"
    try:
        if become is not None:
            become(program, what["args"], env, ctl)
        os.execve(program, what["args"], env)
    except OSError as error:
        _refused(program, error, ctl)


def _refused(program: str, error: OSError, ctl: socket.socket) -> NoReturn:
    text = (error.strerror or "").lower()
    failure = sync.StartFailed("exec", error.errno or 0, program, f"exec {program}: {text}")
    sync.report(ctl, "exec", failure)
    os._exit(failure.code)


def _set_names(plan: LaunchPlan) -> None:
    if plan["hostname"]:
        namespaces.set_hostname(plan["hostname"])
    if plan["domainname"]:
        namespaces.set_domainname(plan["domainname"])


def _configure_network(plan: LaunchPlan) -> None:
    interfaces = plan["network"]["interfaces"]
    if not interfaces:
        return
    messages: list[Message] = []
    for interface in interfaces:
        messages += netlink.configure_interface(
            socket.if_nametoindex(interface["name"]),
            interface["address"],
            interface["prefix_len"],
            interface["gateway"],
            mac=interface["mac"],
            mtu=interface["mtu"],
        )
    with netlink.RtNetlink() as sock:
        sock.batch(messages)


def _write_sysctls(values: dict[str, str], directory: int) -> None:
    for key, value in values.items():
        name = key.replace(".", "/") if "/" not in key else key
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise SyscallError(error.errno or 0, "write", f"sysctl {key} = {value}") from None


def _open_console(what: ExecPlan, ctl: socket.socket, root: int) -> list[int]:
    """A pty of the container's own devpts; the slave is stdio and /dev/console, the master goes to the starter."""
    terminal = open_terminal(what, ctl)
    target = path.make_mount_point(root, "/dev/console", directory=False)
    source = mount.open_tree(mount.AT_FDCWD, f"/dev/pts/{terminal.number}")
    mount.move_mount(source, target, "", subject="/dev/console")
    os.close(source)
    os.close(target)
    return [terminal.slave] * 3


def open_terminal(what: ExecPlan, ctl: socket.socket) -> tty.Terminal:
    """A terminal of this mount namespace's /dev/pts, its master sent to the starter, made the controlling one."""
    terminal = tty.open_terminal("/dev/pts/ptmx")
    if what["rows"] or what["columns"]:
        tty.set_size(terminal.master, what["rows"], what["columns"])
    sync.send_message(ctl, {"m": "console"}, [terminal.master])
    os.close(terminal.master)
    tty.set_controlling(terminal.slave)
    return terminal


def enter_directory(root: int, directory: str, *, make: bool) -> None:
    """Go there below the root, not through a link that leads out (/proc/self/fd/N); `make` it when absent."""
    try:
        if make:
            fd = path.make_directories(root, directory)
        else:
            fd = path.open_in_root(root, directory, os.O_PATH | os.O_DIRECTORY)
    except SyscallError as error:
        text = (error.strerror or "").lower()
        raise sync.StartFailed(
            "cwd", error.errno or 0, directory, f'chdir to cwd ("{directory}") set in config.json failed: {text}'
        ) from None
    os.fchdir(fd)
    os.close(fd)


def _arrange(stdio: list[int], passed: list[int], ctl: socket.socket, hold: int, uid: int) -> tuple[socket.socket, int]:
    """Put descriptors where the program expects them, everything else CLOEXEC; ctl and hold may move."""
    first = 3 + len(passed)
    if ctl.fileno() < first:
        ctl = socket.socket(fileno=duplicate(ctl.fileno(), first))
    if 0 <= hold < first:
        hold = duplicate(hold, first)
    sources = [duplicate(fd, first) for fd in (*stdio, *passed)]
    for number, fd in enumerate(sources):
        os.dup2(fd, number)
    if uid:
        for fd in sources[:3]:
            _own(fd, uid)
    close_range_cloexec(first)
    return ctl, hold


def _own(fd: int, uid: int) -> None:
    """Let the user reopen its own stdio (/dev/stderr); /dev/null and the like are left alone."""
    status = os.fstat(fd)
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or os.isatty(fd):
        try:
            os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EROFS):
                raise


def _set_rlimits(rows: list[list[int]]) -> None:
    for number, soft, hard in rows:
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            raise Denied(
                f"error setting rlimit type {number}: operation not permitted",
                subject=str(number),
                hint="raising a hard limit needs CAP_SYS_RESOURCE",
            ) from error


def _seccomp_program(text: str) -> bytes:
    if not text:
        return b""
    return seccomp.default_program() if text == "default" else base64.b64decode(text)


def _hold(ctl: socket.socket, listener: int) -> socket.socket:
    """Say that all is done but exec, and wait for the one who says start; errors go to that connection then."""
    sync.send_message(ctl, {"m": "created"})
    with socket.socket(fileno=listener) as sock:
        connection, _ = sock.accept()
    ctl.close()
    return connection


def warm() -> None:
    """Run what can be run without a container, so that children find caches filled."""
    sample: Any = {"m": "start", "plan": {"args": ["x"] * 8, "env": ["A=b"] * 20, "n": {"a": [1, None, True]}}}
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        for _ in range(20):
            sync.send_message(left, sample)
            sync.receive_message(right)
            sync.describe_error("warm", SyscallError(2, "open", "/x"))
            identity.parse_passwd("root:x:0:0:root:/root:/bin/sh\n")
            identity.parse_group("root:x:0:root\n")
    capabilities.get_sets()
