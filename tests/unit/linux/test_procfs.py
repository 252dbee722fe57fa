import os

from bireme.linux import procfs

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 31 0:32 / /sys/fs/cgroup/bireme rw - cgroup none rw,name=bireme
36 27 8:1 /a\\040b /mnt/with\\040blank rw - ext4 /dev/sda1 rw
nonsense
"""


def test_mountinfo() -> None:
    mounts = procfs.parse_mountinfo(MOUNTINFO)
    assert len(mounts) == 7
    assert mounts[-1].root == "/a b"
    assert mounts[-1].path == "/mnt/with blank"
    assert mounts[2].optional == ("shared:9", "master:2")


def test_cgroup_hierarchies_of_v1() -> None:
    found = procfs.plan_cgroup_mounts(
        procfs.parse_mountinfo(MOUNTINFO), "4:cpu,cpuacct:/me\n3:name=systemd:/init\n0::/\n"
    )
    assert found == [
        procfs.CgroupMount(1, "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", "/me"),
        procfs.CgroupMount(1, "/sys/fs/cgroup/systemd", "none,name=systemd", "/init"),
    ]


def test_the_unified_hierarchy_alone() -> None:
    text = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    found = procfs.plan_cgroup_mounts(procfs.parse_mountinfo(text), "0::/user.slice\n")
    assert found == [procfs.CgroupMount(2, "/sys/fs/cgroup", "", "/user.slice")]


def test_a_name_with_parentheses_does_not_confuse_stat() -> None:
    rest = " ".join(str(n) for n in range(4, 40))
    stat = procfs.parse_stat(f"12 (a) (b c) S {rest}")
    assert (stat.pid, stat.name, stat.state, stat.ppid) == (12, "a) (b c", "S", 4)


def test_this_process() -> None:
    stat = procfs.read_stat(os.getpid())
    assert stat is not None
    assert stat.ppid == os.getppid()
    assert "python" in procfs.read_command(os.getpid())[0]
    assert procfs.read_status("self")["Pid"] == str(os.getpid())
    assert 0 in procfs.open_descriptors()
    assert procfs.boot_time_ns() > 0
    assert procfs.read_stat(0x7FFFFFFF) is None
    assert procfs.read_status(0x7FFFFFFF) == {}
    assert procfs.read_command(0x7FFFFFFF) == []
