"""`exec`: one more process in a running container, from options or a process.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.errors import Conflict, Invalid
from bireme.linux import fd as fds
from bireme.runtime import launch, plan
from bireme.runtime import state as store
from bireme.runtime.bundle import read_json
from bireme.runtime.command import cgroup, console
from bireme.runtime.command.create import passed_files, write_pid_file

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    container = store.load(options.root, options.id)
    status = container.status()
    if status == store.STOPPED:
        raise Conflict("cannot exec in a stopped container", subject=container.id)
    if status == store.PAUSED and not options.flag("ignore-paused"):
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)", subject=container.id)
    config = container.config()
    wanted = process_of(options, config)
    terminal = bool(wanted.get("terminal"))
    console.check(options, terminal=terminal, detach=options.flag("detach"))
    passed, extra_env = passed_files(options)
    wanted.setdefault("env", []).extend(extra_env)
    made = plan.plan_exec(wanted, linux=config.get("linux", {}), pass_files=len(passed))
    if terminal and not made["rows"]:
        made["rows"], made["columns"] = console.own_size()
    if options.flag("detach"):
        started = _launch(options, container, made, passed)
        fds.close_quietly(started.console)
        return 0
    with console.SignalPipe() as signals:
        return console.attend(_launch(options, container, made, passed), signals, terminal=terminal)


def _launch(options: Options, container: store.Container, made: plan.ExecPlan, passed: list[int]) -> launch.Started:
    data = container.data
    manager, name = cgroup.open_of(data)
    try:
        started = launch.launch_exec(
            made,
            {"namespaces": data["namespaces"]},  # type: ignore[typeddict-item]
            int(data["pid"]),
            () if made["terminal"] else (0, 1, 2),
            cgroups=manager,
            cgroup=name,
            owner=(data["owner"][0], data["owner"][1]),
            pass_files=passed,
        )
    finally:
        manager.close()
    if options.has("console-socket") and started.console >= 0:
        console.send(options.text("console-socket"), started.console, b"/dev/ptmx")
    if options.has("pidfd-socket"):
        console.send(options.text("pidfd-socket"), started.pidfd, b"pidfd")
    if options.has("pid-file"):
        write_pid_file(options.text("pid-file"), started.pid)
    return started


def process_of(options: Options, config: dict[str, Any]) -> Any:
    """The process to run: --process as it is, or the container's own with what the options change."""
    if options.has("process"):
        if len(options.arguments) > 1:
            raise Invalid("a command and --process exclude each other", place="process")
        return read_json(options.text("process"), "process file")[0]
    if len(options.arguments) < 2:
        raise Invalid("exec needs a command or --process", place="args")
    process: dict[str, Any] = dict(config["process"])
    process["args"] = options.arguments[1:]
    process["terminal"] = options.flag("tty")
    process.pop("consoleSize", None)
    process.pop("apparmorProfile", None)
    if options.text("cwd"):
        process["cwd"] = options.text("cwd")
    process["env"] = [*process.get("env", ()), *options.list("env")]
    if options.flag("no-new-privs"):
        process["noNewPrivileges"] = True
    if options.has("user"):
        process["user"] = _user(options.text("user"))
    if options.list("additional-gids"):
        gids = [_number(gid, "additional-gids") for gid in options.list("additional-gids")]
        process["user"] = {**process.get("user", {}), "additionalGids": gids}
    if options.list("cap"):
        process["capabilities"] = _with_capabilities(process.get("capabilities", {}), options.list("cap"))
    return process


def _user(text: str) -> dict[str, Any]:
    uid, colon, gid = text.partition(":")
    return {"uid": _number(uid, "user"), "gid": _number(gid, "user") if colon else 0}


def _number(text: str, place: str) -> int:
    if not text.isdecimal():
        raise Invalid(f"{text!r} is not a number", place=place)
    return int(text)


def _with_capabilities(sets: dict[str, Any], names: list[str]) -> dict[str, Any]:
    spelled = [name if name.startswith("CAP_") else f"CAP_{name}" for name in map(str.upper, names)]
    return sets | {
        key: list(dict.fromkeys([*sets.get(key, ()), *spelled]))
        for key in ("bounding", "effective", "permitted", "inheritable", "ambient")
        if key in ("bounding", "effective", "permitted") or sets.get(key)
    }
