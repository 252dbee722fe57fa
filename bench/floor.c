// The floor under a container start: the system calls that a complete default container needs, made by one static
// program without a daemon, an API, a database or an image store. What an engine takes beyond this is its own doing.
//
//   floor LOWER SCRATCH none|bridge        one start for each line read; answers its milliseconds, one number a line
//   floor LOWER SCRATCH none|bridge COUNT  COUNT starts in a row; answers their rate per second
//
// LOWER is a busybox root (bin/true and the directories dev, proc, sys). One start: directories for the writable layer;
// clone3 into new mount, pid, uts, ipc, net namespaces; a cgroup per controller with Docker's device rules, attached; a
// veth pair on a bridge; inside: loopback or eth0, cgroup namespace, host name, overlay, proc, sys, dev with its nodes,
// masked and read-only paths, pivot_root, capabilities, no_new_privs, seccomp, exec of `true`; wait; everything removed.
// No user namespace and no log: an engine that has them does more than this.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"
#define BRIDGE "floorbr"
#define GATEWAY 0x0ac80001 // 10.200.0.1/16
#define ADDRESS 0x0ac80002

static const char *lower, *scratch;
static bool bridged;
static bool unified; // cgroup v2 is the only hierarchy

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(99);
}
static void check(long result, const char *what) {
    if (result < 0) fail(what);
}
static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static int write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = write(fd, text, strlen(text));
    close(fd);
    return result;
}
static void copy_down(const char *parent, const char *child, const char *file) {
    char path[600], value[256];
    snprintf(path, sizeof path, "%s/%s", parent, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int length = fd < 0 ? 0 : read(fd, value, sizeof value - 1);
    close(fd);
    value[length > 0 ? length : 0] = 0;
    snprintf(path, sizeof path, "%s/%s", child, file);
    check(write_text(path, value), path);
}

// ---- cgroups -------------------------------------------------------------------------------------------------------

static const char *controllers[] = {"cpu", "cpuacct", "memory", "pids", "devices", "freezer", "cpuset", "blkio", "systemd", 0};
static const char *device_rules[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
                                     "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm", "c 5:1 rwm", "c 10:200 rwm", 0};

static void cgroup_attach(const char *directory, pid_t pid) {
    char path[600], number[32];
    snprintf(path, sizeof path, "%s/cgroup.procs", directory);
    snprintf(number, sizeof number, "%d", pid);
    check(write_text(path, number), path);
}
static void cgroup_v1_up(const char *controller, const char *name, pid_t pid) {
    char top[300], base[400], directory[500], path[600];
    snprintf(top, sizeof top, CGROUP_ROOT "/%s", controller);
    if (access(top, F_OK)) return;
    snprintf(base, sizeof base, "%s/floor", top);
    bool made = !mkdir(base, 0755);
    snprintf(directory, sizeof directory, "%s/%s", base, name);
    if (!strcmp(controller, "cpuset") && made) copy_down(top, base, "cpuset.cpus"), copy_down(top, base, "cpuset.mems");
    check(mkdir(directory, 0755), directory);
    if (!strcmp(controller, "cpuset")) copy_down(base, directory, "cpuset.cpus"), copy_down(base, directory, "cpuset.mems");
    if (!strcmp(controller, "devices")) {
        snprintf(path, sizeof path, "%s/devices.deny", directory);
        check(write_text(path, "a"), path);
        snprintf(path, sizeof path, "%s/devices.allow", directory);
        for (int i = 0; device_rules[i]; i++) check(write_text(path, device_rules[i]), path);
    }
    cgroup_attach(directory, pid);
}
static void cgroups_up(const char *name, pid_t pid) {
    if (unified) {
        char directory[500];
        mkdir(CGROUP_ROOT "/floor", 0755);
        snprintf(directory, sizeof directory, CGROUP_ROOT "/floor/%s", name);
        check(mkdir(directory, 0755), directory);
        cgroup_attach(directory, pid);
        return;
    }
    for (int i = 0; controllers[i]; i++) cgroup_v1_up(controllers[i], name, pid);
}
static void remove_cgroup(const char *directory) {
    for (int tries = 0; rmdir(directory) && errno == EBUSY && tries < 1000; tries++) usleep(200);
}
static void cgroups_down(const char *name) { // name "" removes the subtree itself
    char directory[500];
    snprintf(directory, sizeof directory, CGROUP_ROOT "/floor/%s", name);
    if (unified) return remove_cgroup(directory);
    for (int i = 0; controllers[i]; i++) {
        snprintf(directory, sizeof directory, CGROUP_ROOT "/%s/floor/%s", controllers[i], name);
        remove_cgroup(directory);
    }
}

// ---- network: one rtnetlink socket ---------------------------------------------------------------------------------

struct request {
    struct nlmsghdr head;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg address;
        struct rtmsg route;
    };
    char rest[512];
};

static struct request new_request(int type, int flags, size_t body) {
    struct request r = {.head = {.nlmsg_len = NLMSG_LENGTH(body), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags}};
    return r;
}
static struct rtattr *put(struct request *r, int type, const void *data, int length) {
    struct rtattr *a = (struct rtattr *)((char *)r + NLMSG_ALIGN(r->head.nlmsg_len));
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(length);
    if (length) memcpy(RTA_DATA(a), data, length);
    r->head.nlmsg_len = NLMSG_ALIGN(r->head.nlmsg_len) + RTA_ALIGN(a->rta_len);
    return a;
}
static void close_nest(struct request *r, struct rtattr *a) { a->rta_len = (char *)r + r->head.nlmsg_len - (char *)a; }
static int talk(int fd, struct request *r) {
    char answer[4096];
    if (send(fd, r, r->head.nlmsg_len, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0) return -1;
    struct nlmsghdr *head = (struct nlmsghdr *)answer;
    if (head->nlmsg_type != NLMSG_ERROR) return 0;
    errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
    return errno ? -1 : 0;
}
static int open_netlink(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    check(fd, "netlink");
    return fd;
}
static void link_up(int fd, const char *name) {
    struct request r = new_request(RTM_NEWLINK, 0, sizeof r.link);
    r.link.ifi_index = if_nametoindex(name);
    r.link.ifi_flags = r.link.ifi_change = IFF_UP;
    check(talk(fd, &r), name);
}
static void link_delete(int fd, const char *name) {
    struct request r = new_request(RTM_DELLINK, 0, sizeof r.link);
    r.link.ifi_index = if_nametoindex(name);
    if (r.link.ifi_index) talk(fd, &r);
}
static void address_add(int fd, const char *name, uint32_t address) {
    struct request r = new_request(RTM_NEWADDR, NLM_F_CREATE, sizeof r.address);
    uint32_t wire = htonl(address);
    r.address = (struct ifaddrmsg){.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = if_nametoindex(name)};
    put(&r, IFA_LOCAL, &wire, 4);
    put(&r, IFA_ADDRESS, &wire, 4);
    check(talk(fd, &r), "address");
}
static void default_route(int fd) {
    struct request r = new_request(RTM_NEWROUTE, NLM_F_CREATE, sizeof r.route);
    uint32_t wire = htonl(GATEWAY);
    r.route = (struct rtmsg){.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST};
    put(&r, RTA_GATEWAY, &wire, 4);
    check(talk(fd, &r), "route");
}
static void bridge_up(int fd) {
    struct request r = new_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof r.link);
    put(&r, IFLA_IFNAME, BRIDGE, sizeof BRIDGE);
    struct rtattr *info = put(&r, IFLA_LINKINFO, 0, 0);
    put(&r, IFLA_INFO_KIND, "bridge", 6);
    close_nest(&r, info);
    if (!talk(fd, &r)) {
        address_add(fd, BRIDGE, GATEWAY);
        link_up(fd, BRIDGE);
    } else if (errno != EEXIST) {
        fail("bridge");
    }
}
static void veth_up(int fd, const char *name, int pid) { // the peer is made straight inside the child's namespace
    struct request r = new_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof r.link);
    int bridge = if_nametoindex(BRIDGE);
    put(&r, IFLA_IFNAME, name, strlen(name) + 1);
    put(&r, IFLA_MASTER, &bridge, 4);
    struct rtattr *info = put(&r, IFLA_LINKINFO, 0, 0);
    put(&r, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = put(&r, IFLA_INFO_DATA, 0, 0), *peer = put(&r, VETH_INFO_PEER, 0, 0);
    r.head.nlmsg_len += sizeof(struct ifinfomsg);
    put(&r, IFLA_IFNAME, "eth0", 5);
    put(&r, IFLA_NET_NS_PID, &pid, 4);
    close_nest(&r, peer);
    close_nest(&r, data);
    close_nest(&r, info);
    check(talk(fd, &r), "veth");
    link_up(fd, name);
}
static void network_inside(void) {
    int fd = open_netlink();
    link_up(fd, "lo");
    if (bridged) {
        address_add(fd, "eth0", ADDRESS);
        link_up(fd, "eth0");
        default_route(fd);
    }
    close(fd);
}

// ---- the child -----------------------------------------------------------------------------------------------------

static void load_seccomp(void) { // as long as Docker's default list, and as linear as most compilers make it
    static struct sock_filter f[800];
    int n = 0;
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int number = 0; number < 370; number++) {
        if (number == SYS_init_module || number == SYS_kexec_load || number == SYS_reboot) continue;
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
        f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, f};
    check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}
static void drop_capabilities(void) {
    const uint32_t kept = 0xa80425fb; // Docker's default set
    for (int c = 0; c <= 40; c++)
        if (!((uint64_t)kept >> c & 1)) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{kept, kept, 0}, {0, 0, 0}};
    check(syscall(SYS_capset, &head, sets), "capset");
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}
static void node(const char *path, int major, int minor) { check(mknod(path, 0666 | S_IFCHR, makedev(major, minor)), path); }
static void dev_tree(void) {
    const unsigned long flags = MS_NOSUID | MS_NOEXEC;
    check(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"), "dev");
    mkdir("dev/pts", 0755), mkdir("dev/shm", 01777), mkdir("dev/mqueue", 0755);
    check(mount("devpts", "dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "devpts");
    check(mount("mqueue", "dev/mqueue", "mqueue", flags | MS_NODEV, 0), "mqueue");
    check(mount("shm", "dev/shm", "tmpfs", flags | MS_NODEV, "mode=1777,size=65536k"), "shm");
    umask(0);
    node("dev/null", 1, 3), node("dev/zero", 1, 5), node("dev/full", 1, 7);
    node("dev/tty", 5, 0), node("dev/random", 1, 8), node("dev/urandom", 1, 9);
    umask(022);
    if (symlink("/proc/self/fd", "dev/fd") | symlink("/proc/self/fd/0", "dev/stdin") | symlink("/proc/self/fd/1", "dev/stdout") |
        symlink("/proc/self/fd/2", "dev/stderr") | symlink("pts/ptmx", "dev/ptmx"))
        fail("symlink");
}
static void hide_paths(void) {
    static const char *readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger", 0};
    static const char *files[] = {"proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/sched_debug", 0};
    static const char *directories[] = {"proc/asound", "proc/acpi", "proc/scsi", "sys/firmware", 0};
    for (int i = 0; readonly[i]; i++)
        if (!mount(readonly[i], readonly[i], 0, MS_BIND | MS_REC, 0))
            check(mount(0, readonly[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0), readonly[i]);
    for (int i = 0; files[i]; i++) mount("dev/null", files[i], 0, MS_BIND, 0);
    for (int i = 0; directories[i]; i++)
        if (!access(directories[i], F_OK)) mount("tmpfs", directories[i], "tmpfs", MS_RDONLY, "size=0k");
}
static void root_filesystem(const char *directory) {
    char options[2048];
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    check(chdir(directory), directory);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=u,workdir=w", lower);
    check(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0), "private");
    check(mount("overlay", "m", "overlay", 0, options), "overlay");
    check(chdir("m"), "m");
    check(mount("proc", "proc", "proc", flags, 0), "proc");
    check(mount("sysfs", "sys", "sysfs", flags | MS_RDONLY, 0), "sysfs");
    dev_tree();
    hide_paths();
    int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(fchdir(old), "old root");
    check(umount2(".", MNT_DETACH), "detach");
    check(chdir("/"), "/");
}
static void child(const char *directory, int parent) {
    char byte;
    if (read(parent, &byte, 1) != 1) _exit(98); // its cgroups and network are ready
    check(unshare(CLONE_NEWCGROUP), "cgroup namespace");
    network_inside();
    check(sethostname("floor", 5), "host name");
    root_filesystem(directory);
    setsid();
    drop_capabilities();
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    load_seccomp();
    char *argv[] = {"true", 0}, *environment[] = {"PATH=/bin", 0};
    execve("/bin/true", argv, environment);
    fail("exec");
}

// ---- one start -----------------------------------------------------------------------------------------------------

static void make_directories(const char *directory) {
    char path[600];
    check(mkdir(directory, 0700), directory);
    for (const char *name = "uwm"; *name; name++) {
        snprintf(path, sizeof path, "%s/%c", directory, *name);
        check(mkdir(path, 0755), path);
    }
}
static void remove_directories(const char *directory) {
    static const char *names[] = {"w/work", "w", "u/dev", "u/proc", "u/sys", "u", "m", ""};
    char path[600];
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        rmdir(path);
    }
}
static double one_start(int netlink, int number) {
    char name[64], directory[512], veth[16];
    int pair[2], status;
    snprintf(name, sizeof name, "c%d-%d", getpid(), number);
    snprintf(directory, sizeof directory, "%s/%s", scratch, name);
    snprintf(veth, sizeof veth, "f%x.%d", getpid() & 0xfffff, number % 100000);
    double begin = now_ms();
    make_directories(directory);
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
    struct clone_args arguments = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET, .exit_signal = SIGCHLD};
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    check(pid, "clone3");
    if (!pid) {
        close(pair[0]); // so that a parent that fails is an end of file
        child(directory, pair[1]);
    }
    cgroups_up(name, pid);
    if (bridged) veth_up(netlink, veth, pid);
    check(write(pair[0], "x", 1), "start");
    check(waitpid(pid, &status, 0), "wait");
    if (status) exit(1);
    close(pair[0]);
    close(pair[1]);
    if (bridged) link_delete(netlink, veth);
    cgroups_down(name);
    remove_directories(directory);
    return now_ms() - begin;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: floor LOWER SCRATCH none|bridge [COUNT]\n");
        return 2;
    }
    lower = argv[1], scratch = argv[2], bridged = !strcmp(argv[3], "bridge");
    unified = !access(CGROUP_ROOT "/cgroup.controllers", F_OK);
    mkdir(scratch, 0700);
    int netlink = open_netlink(), number = 0, count = argc > 4 ? atoi(argv[4]) : 0;
    if (bridged) bridge_up(netlink);
    double begin = now_ms();
    for (int i = 0; i < count; i++) one_start(netlink, number++);
    if (count) printf("%.3f\n", count / (now_ms() - begin) * 1e3);
    char line[64];
    while (!count && fgets(line, sizeof line, stdin)) {
        printf("%.4f\n", one_start(netlink, number++));
        fflush(stdout);
    }
    if (!count) cgroups_down(""); // with a count others may be at work beside this one
    rmdir(scratch);
    return 0;
}
