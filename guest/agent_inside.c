/*
 * What the first process finds: its root, /proc, /sys, /dev as in a container, the files of /etc, tmpfs mounts, kernel
 * parameters. Made by the child in its own mount namespace.
 *
 * The machine's kernel is its own, so nothing of /proc and /sys is masked or read-only. The initramfs cannot be the old
 * root of a pivot_root(2), so the new root is moved over it. From then on paths start inside: links of the image lead
 * nowhere else. The files come as detached mounts that were opened before.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent.h"

#define MAX_FILES 64
#define TREE_CLONE 1
#define MOVE_FROM_DESCRIPTOR 4
#define MOVE_TO_LINK 0x10

static int file_trees[MAX_FILES];

static const struct {
	const char *target, *type, *source, *data;
	unsigned long flags;
	bool optional;
} mounts[] = {
	{"/proc", "proc", "proc", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV, false},
	{"/dev", "tmpfs", "tmpfs", "mode=755,size=65536k", MS_NOSUID | MS_STRICTATIME, false},
	{"/dev/pts", "devpts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", MS_NOSUID | MS_NOEXEC, false},
	{"/dev/mqueue", "mqueue", "mqueue", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV, true},
	{"/sys", "sysfs", "sysfs", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV, false},
	{"/sys/fs/cgroup", "cgroup2", "cgroup", NULL, MS_NOSUID | MS_NOEXEC | MS_NODEV, true},
};

static const struct {
	const char *path;
	unsigned major, minor;
} nodes[] = {
	{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},   {"/dev/full", 1, 7},
	{"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};

static const struct {
	const char *target, *path;
} links[] = {
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
	{"/proc/kcore", "/dev/core"},
	{"pts/ptmx", "/dev/ptmx"},
};

/* mkdir -p; a link on the way is followed. */
void make_directories(const char *stage, const char *path)
{
	char *text = copy_text((struct span){(const uint8_t *)path, strlen(path)}), *at;
	struct stat status;

	if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
		free(text);
		return;
	}
	for (at = text + 1; *text; at++) {
		char kept = *at;

		if (kept && kept != '/')
			continue;
		*at = 0;
		if (mkdir(text, 0755) < 0 && errno != EEXIST && stat(text, &status) < 0)
			child_fail_call(stage, "mkdir", path);
		*at = kept;
		if (!kept)
			break;
	}
	free(text);
}

static void open_files(struct span body)
{
	struct field field;
	size_t count = 0;

	while (next_field(&body, &field)) {
		char path[TEXT_BYTES];

		if (field.tag != TAG_FILES)
			continue;
		if (count == MAX_FILES)
			child_fail("mounts", E2BIG, "", "more than %d files", MAX_FILES);
		snprintf(path, sizeof(path), "%s/%zu", files_path(), count);
		file_trees[count] = (int)syscall(SYS_open_tree, AT_FDCWD, path, TREE_CLONE | O_CLOEXEC);
		if (file_trees[count++] < 0)
			child_fail_call("mounts", "open_tree", path);
	}
}

static void make_file(const char *path)
{
	char *parent = copy_text((struct span){(const uint8_t *)path, strlen(path)}), *slash = strrchr(parent, '/');
	int fd;

	if (slash && slash != parent) {
		*slash = 0;
		make_directories("mounts", parent);
	}
	free(parent);
	fd = open(path, O_WRONLY | O_CREAT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0644);
	if (fd < 0 && errno != EEXIST)
		child_fail_call("mounts", "open", path);
	if (fd >= 0)
		close(fd);
}

/* hosts, hostname, resolv.conf: laid over what the image has. */
void place_files(struct span body)
{
	struct field field;
	size_t count = 0;

	while (next_field(&body, &field)) {
		char *path;

		if (field.tag != TAG_FILES)
			continue;
		path = find_text(field.value, TAG_PATH);
		if (access(path, F_OK) < 0)
			make_file(path);
		if (syscall(SYS_move_mount, file_trees[count], "", AT_FDCWD, path, MOVE_FROM_DESCRIPTOR | MOVE_TO_LINK) < 0)
			child_fail_call("mounts", "mount", path);
		close(file_trees[count++]);
	}
}

void enter_root(void)
{
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		child_fail_call("rootfs", "mount", "/");
	if (chdir(root_path()) < 0)
		child_fail_call("rootfs", "chdir", root_path());
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0)
		child_fail_call("rootfs", "mount", "the root file system");
	if (chroot(".") < 0 || chdir("/") < 0)
		child_fail_call("rootfs", "chroot", "/");
}

static void make_devices(void)
{
	size_t i;

	umask(0);
	for (i = 0; i < LENGTH(nodes); i++)
		if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0)
			child_fail_call("mounts", "mknod", nodes[i].path);
	for (i = 0; i < LENGTH(links); i++)
		if (symlink(links[i].target, links[i].path) < 0)
			child_fail_call("mounts", "symlink", links[i].path);
	umask(022);
}

static void mount_at(const char *target, const char *type, const char *source, unsigned long flags, const char *data,
		     bool optional)
{
	make_directories("mounts", target);
	if (mount(source, target, type, flags, data) < 0 && !optional)
		child_fail_call("mounts", "mount", target);
}

static void mount_pseudo(struct span body)
{
	char data[64];
	size_t i;

	for (i = 0; i < LENGTH(mounts); i++) {
		mount_at(mounts[i].target, mounts[i].type, mounts[i].source, mounts[i].flags, mounts[i].data,
			 mounts[i].optional);
		if (!strcmp(mounts[i].target, "/dev"))
			make_devices();
	}
	snprintf(data, sizeof(data), "mode=1777,size=%lld", (long long)find_number(body, TAG_SHM_SIZE_BYTES, 64 << 20));
	mount_at("/dev/shm", "tmpfs", "shm", MS_NOSUID | MS_NOEXEC | MS_NODEV, data, false);
}

static void mount_wanted(struct span body)
{
	struct field field;

	while (next_field(&body, &field)) {
		char *kind, *target, data[64];
		long long size;

		if (field.tag != TAG_MOUNTS)
			continue;
		kind = find_text(field.value, TAG_KIND);
		target = find_text(field.value, TAG_TARGET);
		if (strcmp(kind, "tmpfs"))
			child_fail("mounts", EINVAL, target, "mount %s: this agent has no mounts of kind %s", target, kind);
		size = (long long)find_number(field.value, TAG_SIZE_BYTES, 0);
		snprintf(data, sizeof(data), "mode=%o", (unsigned)find_number(field.value, TAG_MODE, 01777) & 07777);
		if (size > 0)
			snprintf(data + strlen(data), sizeof(data) - strlen(data), ",size=%lld", size);
		mount_at(target, "tmpfs", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, data, false);
	}
}

static void set_names(struct span body)
{
	char *host = find_text(body, TAG_HOSTNAME), *domain = find_text(body, TAG_DOMAINNAME);

	if (host[0] && sethostname(host, strlen(host)) < 0)
		child_fail_call("names", "sethostname", host);
	if (domain[0] && setdomainname(domain, strlen(domain)) < 0)
		child_fail_call("names", "setdomainname", domain);
}

static void write_sysctl(char *key, const char *value)
{
	char path[TEXT_BYTES], subject[TEXT_BYTES];
	size_t i;
	int fd;

	snprintf(subject, sizeof(subject), "sysctl %s = %s", key, value);
	snprintf(path, sizeof(path), "/proc/sys/%s", key);
	if (!strchr(key, '/'))
		for (i = strlen("/proc/sys/"); path[i]; i++)
			if (path[i] == '.')
				path[i] = '/';
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		child_fail_call("sysctl", "write", subject);
	close(fd);
}

static void write_sysctls(struct span body)
{
	struct field field;

	while (next_field(&body, &field))
		if (field.tag == TAG_SYSCTLS)
			write_sysctl(find_text(field.value, TAG_KEY), find_text(field.value, TAG_VALUE));
}

void make_inside(struct span body)
{
	umask(022);
	set_names(body);
	open_files(body);
	enter_root();
	mount_pseudo(body);
	write_sysctls(body);
	mount_wanted(body);
	place_files(body);
}

/* After the last mount point and the working directory were made. */
void seal_root(struct span body)
{
	struct span root;

	if (find_field(body, TAG_ROOT, &root) && find_number(root, TAG_READ_ONLY, 0) &&
	    mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0)
		child_fail_call("rootfs", "mount", "/");
}
