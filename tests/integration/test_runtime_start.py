"""Containers on the real kernel, with a user namespace each, through the cold path."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bireme.errors import Denied, NotFound, Unsupported
from bireme.linux import process
from bireme.linux.libc import SyscallError
from bireme.runtime import defaults, launch, outside
from bireme.runtime.plan import plan_exec, plan_launch
from bireme.runtime.sync import StartFailed
from tests.support.container import Host

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("runtime"))
    yield host
    host.close()


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    before = _descriptors()
    yield shared
    shared.close()
    assert _descriptors() == before, "descriptors leaked"


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return {name: target for name, target in found.items() if not target.startswith(("/proc/", "pid:"))}


def test_root_writes_as_root_and_ids_on_disk_are_not_shifted(host: Host) -> None:
    root = host.root()
    result = host.run(
        "sh", "-c", "id -u; echo hi > /new; mkdir /d; chown 1000:29 /d; cat /proc/self/uid_map", root=root
    )
    assert result.err == ""
    uid, mapping = result.out.splitlines()
    assert uid == "0"
    assert mapping.split()[0] == "0"
    assert int(mapping.split()[1]) > 0
    upper = Path(root["upper"])
    assert (upper / "new").read_text() == "hi\n"
    assert ((upper / "new").stat().st_uid, (upper / "new").stat().st_gid) == (0, 0)
    assert ((upper / "d").stat().st_uid, (upper / "d").stat().st_gid) == (1000, 29)


def test_names_processes_and_network_are_its_own(host: Host) -> None:
    def change(config: Any) -> None:
        config["hostname"] = "harbour"
        config["domainname"] = "sea.example"

    result = host.run(
        "sh", "-c", "hostname; cat /proc/sys/kernel/domainname; echo $$; ls /sys/class/net; ip addr", change=change
    )
    lines = result.out.splitlines()
    assert lines[:4] == ["harbour", "sea.example", "1", "lo"]
    assert "127.0.0.1/8" in result.out


def test_mounts_are_dockers(host: Host) -> None:
    rows = [line.split()[:4] for line in host.run("cat", "/proc/mounts").out.splitlines()]
    found = {(row[1], row[2]) for row in rows}
    assert {
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    } <= found
    by_path = {row[1]: row[3].split(",") for row in rows}
    assert "ro" in by_path["/sys"]
    assert "ro" in by_path["/proc/sys"]
    assert {"nosuid", "nodev", "noexec"} <= set(by_path["/proc"])


def test_devices_work_and_are_owned_by_root(host: Host) -> None:
    script = """
    echo x > /dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c
    stat -c '%n %u:%g %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
    for n in fd stdin stdout stderr ptmx; do readlink /dev/$n; done
    mknod /dev/mine c 1 3 || echo refused
    """
    result = host.run("sh", "-c", script)
    lines = result.out.splitlines()
    assert lines[:2] == ["4", "4"]
    assert all(line.endswith(" 0:0 666") for line in lines[2:8])
    assert lines[8:13] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    assert lines[13] == "refused"


def test_masked_and_read_only_paths(host: Host) -> None:
    there = [path for path in defaults.MASKED_PATHS if os.path.exists(path)]
    result = host.run(
        "sh", "-c", f"for p in {' '.join(there)}; do ls -A $p | grep -v ^$p; cat $p 2>/dev/null; done; echo end"
    )
    assert result.out == "end\n"
    result = host.run(
        "sh", "-c", "echo 1 > /proc/sys/kernel/panic; echo b > /proc/sysrq-trigger; mkdir /proc/acpi/x; exit 7"
    )
    assert result.code == 7
    assert len(result.err.splitlines()) == 3


def test_capabilities_seccomp_and_privileges(host: Host) -> None:
    status = dict(
        line.split(":\t", 1) for line in host.run("cat", "/proc/self/status").out.splitlines() if ":\t" in line
    )
    for key in ("CapEff", "CapPrm", "CapBnd"):
        assert status[key] == "00000000a80425fb"
    assert status["CapInh"] == status["CapAmb"] == "0000000000000000"
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "0"
    assert host.run("mount", "-t", "tmpfs", "x", "/tmp").code != 0
    assert host.run("umount", "/proc/sys").code != 0


def test_no_new_privileges_and_ambient_capabilities(host: Host) -> None:
    def change(config: Any) -> None:
        config["process"]["noNewPrivileges"] = True
        caps = ["CAP_NET_RAW", "CAP_CHOWN"]
        config["process"]["capabilities"] = dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"), caps
        )

    result = host.run("grep", "-E", "^(Cap|NoNew|Uid|Seccomp:)", "/proc/self/status", change=change, user="kim")
    status = dict(line.split(":\t", 1) for line in result.out.splitlines())
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["CapAmb"] == status["CapEff"] == status["CapBnd"] == "0000000000002001"
    assert status["Uid"].split("\t")[0] == "1000"


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), "uid=0(root) gid=0(root)"),
        ("kim", (), "uid=1000(kim) gid=1000(kim) groups=1000(kim),29(audio),50(staff)"),
        ("1000", ("audio",), "uid=1000(kim) gid=1000(kim) groups=1000(kim),29(audio),50(staff)"),
        ("0", (), "uid=0(root) gid=0(root) groups=0(root)"),
        ("kim:staff", (), "uid=1000(kim) gid=50(staff) groups=50(staff)"),
        ("4242:77", ("50",), "uid=4242 gid=77 groups=77,50(staff)"),
        ("4242", (), "uid=4242 gid=0(root) groups=0(root)"),
    ],
)
def test_users_are_looked_up_inside(host: Host, user: str, groups: tuple[str, ...], expected: str) -> None:
    out = host.run("id", user=user, groups=groups).out.strip()
    uid_gid, _, rest = out.partition(" groups=")
    wanted, _, wanted_rest = expected.partition(" groups=")
    assert uid_gid == wanted
    assert set(wanted_rest.split(",")) == set(rest.split(","))


def test_home_and_stdio_of_a_user(host: Host) -> None:
    result = host.run("sh", "-c", "echo $HOME; echo again > /dev/stderr; echo out > /proc/self/fd/1", user="kim")
    assert result.out.splitlines() == ["/home/kim", "out"]
    assert result.err == "again\n"


@pytest.mark.parametrize(
    ("args", "user", "stage", "message", "code"),
    [
        (["nope"], "", "exec", 'exec: "nope": executable file not found in $PATH', 127),
        (["/no/such"], "", "exec", 'exec: "/no/such": stat /no/such: no such file or directory', 127),
        (["/etc/passwd"], "", "exec", 'exec: "/etc/passwd": permission denied', 126),
        (["/etc"], "", "exec", 'exec: "/etc": is a directory', 126),
        (["/etc/garbage"], "", "exec", "exec /etc/garbage: exec format error", 126),
        (["true"], "ghost", "user", "unable to find user ghost: no matching entries in passwd file", 128),
        (["true"], "kim:ghosts", "user", "unable to find group ghosts: no matching entries in group file", 128),
        (["true"], "99999", "user", "setting user 99999:0 failed: not mapped in the user namespace", 128),
    ],
)
def test_errors_have_dockers_words(host: Host, args: list[str], user: str, stage: str, message: str, code: int) -> None:
    extra = host.layer()
    (extra / "etc").mkdir()
    (extra / "etc/garbage").write_bytes(b"\x01\x02\x03\x04")
    (extra / "etc/garbage").chmod(0o755)
    with pytest.raises(StartFailed) as caught:
        host.start(*args, user=user, root=host.root(extra))
    failure = caught.value
    assert failure.message == message
    assert failure.code == code
    if stage == "exec":
        assert failure.stage == stage


def test_exit_codes_and_signals(host: Host) -> None:
    assert host.run("sh", "-c", "exit 42").code == 42
    assert host.run("sh", "-c", "sleep 0; (kill -9 $$); exit 3").code == 3, "init is immune to its own children"
    running = host.start("sleep", "1000")
    os.kill(running.pid, 9)
    assert running.wait().code == 137


def test_working_directory_is_made_and_stays_inside(host: Host) -> None:
    def deep(config: Any) -> None:
        config["process"]["cwd"] = "/a/b c/d"

    assert host.run("sh", "-c", "pwd; ls -ldn . ", change=deep).out.splitlines()[0] == "/a/b c/d"
    extra = host.layer()
    (extra / "trap").symlink_to("/proc/self/fd/5")

    def trapped(config: Any) -> None:
        config["process"]["cwd"] = "/trap/x"

    with pytest.raises(StartFailed) as caught:
        host.start("pwd", root=host.root(extra), change=trapped)
    assert "chdir to cwd" in caught.value.message


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_in_place_of_a_system_directory_is_refused(host: Host, tmp_path: Path, name: str) -> None:
    extra = host.layer()
    (extra / name).symlink_to("/etc")
    with pytest.raises(StartFailed) as caught:
        host.start("true", root=host.root(extra))
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert f"/{name} of the image is not an ordinary directory" in caught.value.message


def test_mounts_over_hostile_links_stay_inside(host: Host, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "hosts").write_text("untouched")
    source = tmp_path / "source"
    source.write_text("from the engine\n")
    source.chmod(0o644)
    tmp_path.chmod(0o755)
    extra = host.layer()
    (extra / "etc").mkdir()
    (extra / "etc/hosts").symlink_to(f"../../../../../..{outside}/hosts")
    (extra / "etc/resolv.conf").symlink_to("/run/inside/resolv.conf")
    (extra / "run/inside").mkdir(parents=True)
    (extra / "run/inside/resolv.conf").touch()
    (extra / str(outside).lstrip("/")).mkdir(parents=True)
    (extra / str(outside).lstrip("/") / "hosts").touch()

    def change(config: Any) -> None:
        for target in ("/etc/hosts", "/etc/resolv.conf"):
            config["mounts"].append(
                {"destination": target, "type": "bind", "source": str(source), "options": ["rbind"]}
            )

    result = host.run("cat", "/etc/hosts", "/run/inside/resolv.conf", root=host.root(extra), change=change)
    assert result.out == "from the engine\n" * 2
    assert (outside / "hosts").read_text() == "untouched"


def test_hostile_users_files_neither_hang_nor_lead_out(host: Host, tmp_path: Path) -> None:
    outside_file = tmp_path / "passwd"
    outside_file.write_text("evil:x:0:0::/:/bin/sh\n")
    for number, make in enumerate(
        (
            lambda p: os.mkfifo(p),
            lambda p: p.symlink_to(f"../../../../../../..{outside_file}"),
            lambda p: p.symlink_to("/proc/1/environ"),
            lambda p: p.mkdir(),
            lambda p: p.symlink_to("passwd"),
        )
    ):
        extra = host.layer()
        (extra / "etc").mkdir()
        make(extra / "etc/passwd")
        with pytest.raises(StartFailed, match="unable to find user evil"):
            host.start("true", user="evil", root=host.root(extra))
        assert host.run("true", user="7", root=host.root(extra)).code == 0, number


def test_tmpfs_and_devices_over_hostile_links_stay_inside(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "outside"
    target.mkdir()
    extra = host.layer()
    (extra / "scratch").symlink_to(f"../../../../../../..{target}")
    (extra / "node").symlink_to(f"../../../../../../..{target}/node")

    def change(config: Any) -> None:
        config["mounts"].append({"destination": "/scratch/in", "type": "tmpfs", "source": "tmpfs", "options": []})

    def device(config: Any) -> None:
        config["linux"]["devices"] = [{"path": "/node", "type": "c", "major": 1, "minor": 3}]

    for edit in (change, device):
        with pytest.raises(StartFailed):
            host.start("true", root=host.root(extra), change=edit)
    assert os.listdir(target) == []


def _bind(source: Path | str, target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def test_bind_mounts_keep_ids_and_can_be_read_only(host: Host, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o700)
    (volume / "mine").write_text("x")

    def change(config: Any) -> None:
        config["mounts"] += [
            _bind(volume, "/data"),
            _bind(volume, "/frozen", "ro"),
            _bind(volume / "mine", "/etc/mine"),
        ]

    script = "stat -c %u /data/mine; echo new > /data/new; echo no > /frozen/no || echo refused; cat /etc/mine"
    result = host.run("sh", "-c", script, change=change)
    assert result.out.splitlines() == ["0", "refused", "x"]
    assert (volume / "new").stat().st_uid == 0
    assert not (volume / "no").exists()


def test_a_missing_bind_source_is_not_found(host: Host, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        host.start("true", change=lambda c: c["mounts"].append(_bind(tmp_path / "nothing", "/x")))


def test_tmpfs_mounts_have_size_and_mode(host: Host) -> None:
    def change(config: Any) -> None:
        config["mounts"].append(
            {
                "destination": "/scratch/deep",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "nodev", "noexec", "size=65536", "mode=1770"],
            }
        )

    script = "stat -c '%a %u' /scratch/deep; grep /scratch/deep /proc/mounts; "
    script += "dd if=/dev/zero of=/scratch/deep/x bs=1k count=100 2>/dev/null || echo full"
    lines = host.run("sh", "-c", script, change=change).out.splitlines()
    assert lines[0] == "1770 0"
    assert "noexec" in lines[1]
    assert "size=64k" in lines[1]
    assert lines[2] == "full"


def test_shared_memory_size(host: Host) -> None:
    def change(config: Any) -> None:
        config["mounts"][:] = defaults.default_mounts(shm_size_bytes=1 << 20)

    assert "size=1024k" in host.run("grep", "/dev/shm", "/proc/mounts", change=change).out


def test_read_only_root(host: Host) -> None:
    root = host.root(readonly=True)
    result = host.run("sh", "-c", "touch /x || echo refused; touch /dev/shm/x && echo fine", root=root)
    assert result.out.splitlines() == ["refused", "fine"]


def test_extra_devices_in_a_spare_and_in_a_skeleton_of_its_own(host: Host) -> None:
    def add(config: Any) -> None:
        config["linux"]["devices"] = [
            {"path": "/dev/other", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 0, "gid": 29},
            {"path": "/dev/sub/zero", "type": "c", "major": 1, "minor": 5},
        ]

    script = "stat -c '%n %a %u:%g' /dev/other /dev/sub/zero; echo x > /dev/other; head -c 3 /dev/sub/zero | wc -c"
    expected = ["/dev/other 640 0:29", "/dev/sub/zero 666 0:0", "3"]
    assert host.run("sh", "-c", script, change=add).out.splitlines() == expected

    def custom(config: Any) -> None:
        add(config)
        config["linux"]["maskedPaths"] = ["/proc/keys", "/etc/group", "/root"]
        config["linux"]["readonlyPaths"] = ["/etc"]

    script += "; cat /etc/group; ls -A /root; touch /etc/x || echo refused; touch /root/x || echo refused"
    assert host.run("sh", "-c", script, change=custom).out.splitlines() == [*expected, "refused", "refused"]


def test_sysctls(host: Host) -> None:
    def change(config: Any) -> None:
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1000000"}

    result = host.run("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax", change=change)
    assert result.out == "1\n1000000\n"


def test_limits(host: Host) -> None:
    def change(config: Any) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]
        config["process"]["oomScoreAdj"] = 321

    result = host.run("sh", "-c", "ulimit -n; ulimit -H -n; cat /proc/self/oom_score_adj", change=change)
    assert result.out.splitlines() == ["99", "100", "321"]


def test_a_limit_that_cannot_be_raised_is_a_clear_error(host: Host) -> None:
    def change(config: Any) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 29, "hard": 1 << 29}]

    with pytest.raises(Denied, match="error setting rlimit type 7"):
        host.start("true", change=change)


def test_init_program_is_put_before_the_arguments(host: Host, tmp_path: Path) -> None:
    init = tmp_path / "init"
    init.write_text('#!/bin/sh\necho init $$ $1\nshift\nexec "$@"\n')
    init.chmod(0o755)
    tmp_path.chmod(0o755)
    assert host.run("echo", "program", init=str(init)).out == "init 1 --\nprogram\n"


def test_passed_descriptors_arrive_and_no_other(host: Host) -> None:
    reader, writer = os.pipe()
    try:
        result = host.run("sh", "-c", "echo deep >&3; ls /proc/self/fd | wc -l", pass_files=[writer])
        assert os.read(reader, 100) == b"deep\n"
    finally:
        os.close(reader)
        os.close(writer)
    assert result.out == "5\n", "0, 1, 2, 3 and the one of ls itself"


def test_hold_waits_for_a_connection(host: Host, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
        listener.bind(str(tmp_path / "start"))
        listener.listen(1)
        running = host.start("echo", "went", hold=listener.fileno())
    assert os.readlink(f"/proc/{running.pid}/exe") != "/bin/busybox"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
        starter.connect(str(tmp_path / "start"))
        assert starter.recv(1000) == b""
    assert running.wait().out == "went\n"
    running.close()


def test_a_terminal_of_its_own(host: Host) -> None:
    def change(config: Any) -> None:
        config["process"]["consoleSize"] = {"height": 33, "width": 101}

    running = host.start(
        "sh",
        "-c",
        "tty; stty size; stat -c %u /dev/pts/0; echo c > /dev/console; read x; echo got $x",
        terminal=True,
        change=change,
        user="kim",
    )
    text = b""
    os.write(running.console, b"word\n")
    while True:
        try:
            data = os.read(running.console, 4096)
        except OSError:
            break
        text += data
    lines = [line for line in text.decode().replace("\r", "").splitlines() if line != "word"]
    assert lines == ["/dev/pts/0", "33 101", "1000", "c", "got word"]
    running.close()


def test_exec_enters_everything(host: Host) -> None:
    running = host.start("sleep", "1000", change=lambda c: c.update(hostname="quay"))
    try:
        result = running.exec(
            "sh",
            "-c",
            "hostname; id -u; ps | grep -c '[s]leep 1000'; grep CapEff /proc/self/status; ls /proc/self/fd | wc -l",
        )
        assert result.err == ""
        assert result.out.splitlines() == ["quay", "0", "1", "CapEff:\t00000000a80425fb", "4"]
        assert running.exec("sh", "-c", "id -un; pwd; exit 9", user="kim", cwd="/tmp") == (9, "kim\n/tmp\n", "")
        with pytest.raises(StartFailed) as caught:
            running.exec("nope")
        assert caught.value.code == 127
        with pytest.raises(StartFailed, match="unable to find user ghost"):
            running.exec("true", user="ghost")
    finally:
        running.close()


def test_exec_with_a_terminal(host: Host) -> None:
    running = host.start("sleep", "1000")
    process_fields: Any = dict(defaults.default_config(["sh", "-c", "tty; stty size; exit 5"])["process"])
    process_fields |= {"terminal": True, "consoleSize": {"height": 20, "width": 70}}
    started = launch.launch_exec(plan_exec(process_fields, user="kim"), running.plan, running.pid, [])
    try:
        text = b""
        with contextlib.suppress(OSError):
            while data := os.read(started.console, 4096):
                text += data
        ended = process.wait_pidfd(started.pidfd)
    finally:
        os.close(started.console)
        os.close(started.pidfd)
    assert text.decode().split() == ["/dev/pts/0", "20", "70"]
    assert ended is not None
    assert ended.code == 5


def test_exec_in_a_directory_that_is_not_there(host: Host) -> None:
    running = host.start("sleep", "1000")
    with pytest.raises(StartFailed, match=r"chdir to cwd .* no such file or directory"):
        running.exec("true", cwd="/not/there")


def test_the_hosts_user_namespace(host: Host) -> None:
    def change(config: Any) -> None:
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "user"]

    result = host.run(
        "sh",
        "-c",
        "cat /proc/self/uid_map; echo x > /new; echo y > /dev/null; mknod /n c 1 3 && stat -c %t:%T /n",
        change=change,
    )
    assert result.err == ""
    assert result.out.split() == ["0", "0", "4294967295", "1:3"]


@pytest.mark.parametrize("kind", ["network", "pid", "ipc", "uts", "cgroup"])
@pytest.mark.parametrize("user", [True, False])
def test_a_namespace_shared_with_the_host(host: Host, kind: str, user: bool) -> None:
    names = {"network": "net"}

    def change(config: Any) -> None:
        drop = {kind} if user else {kind, "user"}
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] not in drop]
        if kind == "uts":
            del config["hostname"]
        if kind == "ipc":
            config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/dev/mqueue"]

    short = names.get(kind, kind)
    result = host.run(
        "sh", "-c", f"readlink /proc/self/ns/{short}; ls /proc/1 > /dev/null; ls /sys | wc -l", change=change
    )
    assert result.out.splitlines()[0] == os.readlink(f"/proc/self/ns/{short}")
    assert int(result.out.splitlines()[1]) > 5


def test_namespaces_of_another_container(host: Host) -> None:
    first = host.start("sleep", "1000")
    try:
        for kinds in (("network",), ("network", "ipc", "user"), ("pid", "user"), ("uts",)):

            def change(config: Any, kinds: tuple[str, ...] = kinds) -> None:
                for entry in config["linux"]["namespaces"]:
                    if entry["type"] in kinds:
                        short = {"network": "net"}.get(entry["type"], entry["type"])
                        entry["path"] = f"/proc/{first.pid}/ns/{short}"
                if "uts" in kinds:
                    del config["hostname"]

            names = [{"network": "net"}.get(kind, kind) for kind in kinds]
            script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
            result = host.run("sh", "-c", script, change=change)
            assert result.out.splitlines() == [os.readlink(f"/proc/{first.pid}/ns/{name}") for name in names]
    finally:
        first.close()


def test_a_privileged_container(host: Host) -> None:
    from bireme.linux import capabilities

    def change(config: Any) -> None:
        names = capabilities.names_of(capabilities.KNOWN)
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "user"]
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
        for mount in config["mounts"]:
            mount["options"] = [o for o in mount["options"] if o != "ro"]
        config["linux"]["devices"] = [{"path": "/dev/loop-control", "type": "c", "major": 10, "minor": 237}]

    script = "mount -t tmpfs x /tmp && echo mounted; ls /dev/loop-control; "
    script += "grep -c ' /sys sysfs rw' /proc/mounts; grep Seccomp: /proc/self/status"
    result = host.run("sh", "-c", script, change=change, seccomp="")
    assert result.out.splitlines() == ["mounted", "/dev/loop-control", "1", "Seccomp:\t0"]


def test_a_directory_as_root(host: Host, tmp_path: Path) -> None:
    from tests.support.container import make_lower

    root = make_lower(tmp_path / "rootfs")
    result = host.run("sh", "-c", "id -u; touch /made", root={"path": str(root)})
    assert result.out == "0\n"
    assert (root / "made").stat().st_uid == 0


def test_many_layers(host: Host) -> None:
    layers = []
    for number in range(60):
        layer = host.layer()
        (layer / f"f{number}").write_text(str(number))
        layers.append(layer)
    result = host.run("sh", "-c", "ls / | grep -c ^f; cat /f59", root=host.root(*layers))
    assert result.out == "60\n59"


def test_layers_attached_aside_where_overlay_takes_no_descriptors(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_by_fd_works", False)
    layers = [host.layer() for _ in range(40)]
    (layers[39] / "deep").write_text("below")
    root = host.root(*layers)
    assert host.run("sh", "-c", "cat /deep; echo x > /new", root=root).out == "below"
    assert (Path(root["upper"]) / "new").stat().st_uid == 0
    broken = host.root()
    broken["upper"] = broken["upper"] + "-none"
    with pytest.raises(SyscallError, match="ENOENT"):
        host.start("true", root=broken)


def test_devices_made_aside_where_detached_mounts_cannot_be_cloned(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_make_devices", outside.make_devices_aside)
    device = {"path": "/dev/other", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 0, "gid": 29}
    script = "stat -c '%a %u:%g %t:%T' /dev/other; echo x > /dev/other && echo written"
    result = host.run("sh", "-c", script, change=lambda c: c["linux"].update(devices=[device]))
    assert result.out.splitlines() == ["640 0:29 1:3", "written"]


def test_a_plan_of_another_version_is_refused(host: Host) -> None:
    plan = plan_launch(defaults.default_config(["true"]), host.root())
    plan["version"] = 99
    with pytest.raises(Unsupported, match="version 99"):
        outside.assemble(plan, -1)


def test_a_large_environment(host: Host) -> None:
    def change(config: Any) -> None:
        config["process"]["env"] += [f"V{n}={'x' * 1000}" for n in range(300)]

    assert host.run("sh", "-c", "env | grep -c ^V", change=change).out == "300\n"


def test_the_child_is_gone_when_the_starter_goes(host: Host) -> None:
    from bireme.linux import fd, process
    from bireme.runtime import spare

    ours, theirs = fd.seqpacket_pair()
    with theirs:
        spare.spawn(spare.stock_request("", 0x2F000000), theirs, parent=False)
    with ours:
        message, files = fd.recv_fds(ours)
        assert b'"child"' in message
        assert fd.recv_fds(ours)[0] == b'{"m":"ready"}'
    ended = process.wait_pidfd(files[0])
    os.close(files[0])
    assert ended is not None
    assert ended.code == 0
